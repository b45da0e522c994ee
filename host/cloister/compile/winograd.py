# SPDX-License-Identifier: BSD-2-Clause
"""Which convolutions run as WINOGRAD, and how much scratch they get.

A WINOGRAD record is a CONV2D record with more scratch: weights and geometry are the same, so that the choice is made
last, over kernels whose place in memory and in partitions is settled. It pays where the estimate of instructions is
lower. Scratch is paid for in secure memory: without a budget the model's memory may grow by a :data:`GROWTH`-th part;
with one, more scratch may leave less room for resident partitions, and every byte that is then streamed counts as
many instructions as the cipher takes (:func:`streamed_byte`). Where activations are computed in bands, the search for
these leaves room for the least scratch that is worth while (:func:`reserve`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cloister.compile.lowering import Buffer, Op, Storage
from cloister.compile.planner import align, alive_at

#: The model's memory grows by at most this part where no budget is given.
GROWTH = 8
#: Instructions of a streamed byte by cipher (docs/performance.md, suite `tee`), and where that is not known: between.
BYTES = {"aegis-128l": 1.2, "aes-256-gcm": 4.2, "chacha20-poly1305": 7.8}
BYTE = 4.0
#: Tiles between two transformations of the weights that are tried, most first; all tiles at once is tried before.
TILES = (64, 32, 24, 16, 8)
#: Results of a tile, along each axis.
TILE = 4
#: Tiles of one matrix product: fewer at once are slower.
BLOCK = 8
#: Measured instructions (aarch64, GCC 12, -O3; within 7 % on 16 shapes): for a multiply-accumulate of CONV2D
#: over many channels, what is added to that divided by the channels, for one of WINOGRAD's products, and for the
#: transformations of four channels of a tile's input, of its results, and of the weights of four pairs; and what a
#: vector of fewer than four channels costs more.
DIRECT, SHALLOW, PRODUCT, INPUT, RESULT, WEIGHT, NARROW = 0.30, 0.5, 0.282, 336.0, 453.0, 188.0, 390.0


def streamed_byte(cipher: str | None) -> float:
    """Instructions that decrypting a byte takes; :data:`BYTE` for None."""
    return BYTE if cipher is None else BYTES[cipher]


def winograd_scratch(fields: dict[str, Any], tiles: int) -> int:
    """Bytes of scratch of a WINOGRAD record for ``tiles``: the formula at struct cl_conv2d in cloister_format.h."""
    return int(3072 + 48 * (8 + min(tiles, tile_count(fields))) * _up(fields["in_c"], 4))


def winograd_room(fields: dict[str, Any], size: int) -> int:
    """Tiles between two transformations of the weights with ``size`` bytes of scratch."""
    count = tile_count(fields)
    room = min((size - 3072) // (48 * _up(fields["in_c"], 4)) - 8, count)
    return int(room if room in range(BLOCK) or room == count else room // BLOCK * BLOCK)


def tile_count(fields: dict[str, Any]) -> int:
    """Tiles of 4x4 results of a convolution."""
    return int(fields["batch"] * -(-fields["out_h"] // 4) * -(-fields["out_w"] // 4))


def is_winograd(op: Op) -> bool:
    """Whether the kernel is a CONV2D that WINOGRAD can compute."""
    names = ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "group")
    return op.kernel == "CONV2D" and tuple(op.fields[name] for name in names) == (3, 3, 1, 1, 1, 1, 1)


def saved(op: Op, tiles: int) -> float:
    """Instructions that WINOGRAD with room for ``tiles`` saves against CONV2D; negative where it costs more."""
    f = op.fields
    in_c, columns, count = _up(f["in_c"], 4), _up(f["out_c"], 8), tile_count(f)
    direct = (DIRECT + SHALLOW / f["in_c"]) * f["batch"] * f["out_h"] * f["out_w"] * 9 * f["in_c"] * columns
    groups = -(-count // max(1, winograd_room(f, winograd_scratch(f, tiles))))
    each = PRODUCT * 36 * in_c * columns + INPUT * in_c / 4 + RESULT * columns / 4 + NARROW * (f["in_c"] % 4 > 0)
    return float(direct - count * each - groups * WEIGHT * in_c * columns / 4)


def gained(ops: Sequence[Op]) -> float:
    """Instructions that the WINOGRAD kernels among ``ops`` save against CONV2D."""
    return sum(saved(op, winograd_room(op.fields, op.refs["scratch"].size)) for op in ops if op.kernel == "WINOGRAD")


def reserve(ops: Sequence[Op]) -> list[Op]:
    """The kernels; those that WINOGRAD can compute faster have scratch for :data:`BLOCK` of its tiles."""
    reserved = []
    for op in ops:
        tiles = min(BLOCK, tile_count(op.fields)) if is_winograd(op) else 0
        worth = tiles > 0 and saved(op, tiles) > 0
        reserved.append(_with_scratch(op, winograd_scratch(op.fields, tiles)) if worth else op)
    return reserved


def is_reserved(op: Op) -> bool:
    """Whether :func:`reserve` gave the kernel room."""
    scratch = op.refs.get("scratch")
    return is_winograd(op) and scratch is not None and scratch.size >= winograd_scratch(op.fields, BLOCK)


def choose(ops: Sequence[Op], inputs: Sequence[Buffer], outputs: Sequence[Buffer], limit: int) -> dict[int, int]:
    """Tiles of each kernel that becomes WINOGRAD, by position, so that at most ``limit`` bytes are alive at each."""
    alive, _ = alive_at(ops, inputs, outputs)
    chosen: dict[int, int] = {}
    for index, op in enumerate(ops):
        if not is_winograd(op):
            continue
        old = op.refs.get("scratch")
        room = limit - alive[index] + (align(old.size) if old else 0)
        count = tile_count(op.fields)
        for tiles in sorted({min(tiles, count) for tiles in (count, *TILES)}, reverse=True):
            if align(winograd_scratch(op.fields, tiles)) <= room:
                if saved(op, tiles) > 0:
                    chosen[index] = tiles
                break
    return chosen


def apply(ops: Sequence[Op], chosen: dict[int, int]) -> list[Op]:
    """The kernels with the chosen ones as WINOGRAD; the others are the same objects."""
    return [_winograd(op, chosen[index]) if index in chosen else op for index, op in enumerate(ops)]


def _winograd(op: Op, tiles: int) -> Op:
    return replace(_with_scratch(op, winograd_scratch(op.fields, tiles)), kernel="WINOGRAD")


def _with_scratch(op: Op, size: int) -> Op:
    scratch = Buffer(Storage(size, "scratch"), (size,), np.dtype(np.uint8), (0,))
    return replace(op, fields={**op.fields, "scratch": scratch})


def _up(value: int, to: int) -> int:
    return int(-(-value // to) * to)

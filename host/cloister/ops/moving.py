# SPDX-License-Identifier: BSD-2-Clause
"""Emission of data movement that several operators share: boxes of a tensor, and gathers along one axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cloister.compile.layout import around_axis
from cloister.compile.lowering import REF_ALIGN, Buffer, Lowering
from cloister.ops.taps import Taps, runs

#: The RESAMPLE kernel moves floats, whatever they mean.
WORD = 4


def copy_box(
    ctx: Lowering,
    source: Buffer,
    target: Buffer,
    shape: Sequence[int],
    source_at: Sequence[int] | None = None,
    target_at: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> None:
    """Copies a box of ``shape`` (logical axes) between two arrays of the same rank, in any layouts.

    The box begins at ``source_at`` and ``target_at`` (default: the origin); in the source it advances by ``steps``
    (default: 1; may be negative).
    """
    rank = len(shape)
    origin = [0] * rank
    order = target.layout
    advance = [1] * rank if steps is None else list(steps)
    ctx.copy(
        source,
        target,
        [shape[axis] for axis in order],
        [source.strides[axis] * advance[axis] for axis in order],
        [target.strides[axis] for axis in order],
        sum(at * step for at, step in zip(source_at or origin, source.strides, strict=True)),
        sum(at * step for at, step in zip(target_at or origin, target.strides, strict=True)),
    )


def view_start(source: Buffer, shape: Sequence[int], at: Sequence[int], steps: Sequence[int]) -> int | None:
    """Where a box of ``source`` begins, in bytes, if it is one aligned run of bytes; None where it is not."""
    if source.is_constant:
        return None
    whole = True
    for axis in reversed(source.layout):
        if shape[axis] == 1:
            whole = whole and source.shape[axis] == 1
        elif not whole or steps[axis] != 1:
            return None
        else:
            whole = shape[axis] == source.shape[axis]
    start = sum(place * stride for place, stride in zip(at, source.strides, strict=True)) * source.itemsize
    return start if start % REF_ALIGN == 0 else None


def take_box(ctx: Lowering, name: str, source: Buffer, at: Sequence[int], steps: Sequence[int]) -> None:
    """Defines the tensor ``name`` as a box of ``source``: a view where the bytes allow, else a copy."""
    shape = ctx.graph.shape(name)
    start = view_start(source, shape, at, steps)
    if start is not None:
        ctx.alias(name, source, source.layout, start)
    else:
        copy_box(ctx, source, ctx.new(name, source.layout), shape, source_at=at, steps=steps)


def resample(ctx: Lowering, source: Buffer, out: Buffer, axis: int, taps: Taps, outside: float = 0.0) -> None:
    """Emits RESAMPLE along a logical axis; both arrays have the same layout."""
    outer, in_n, inner = around_axis(source.shape, source.layout, axis)
    words = inner * source.itemsize // WORD
    fields = {
        "in": source,
        "out": out,
        "index": ctx.constant(taps.index),
        "factor": None if taps.factor is None else ctx.constant(taps.factor),
        "outer": outer,
        "in_n": in_n,
        "out_n": taps.index.shape[0],
        "inner": words,
        "taps": taps.index.shape[1],
        "outside_value": outside,
    }
    ctx.emit("RESAMPLE", fields)


def gather(ctx: Lowering, source: Buffer, out: Buffer, axis: int, index: npt.NDArray[np.int64]) -> None:
    """out = take(source, index, axis); both arrays have the same layout, and no position is negative.

    A table of positions serves elements whose runs are whole words; a few strided copies serve the rest, and tables
    that are only one or two runs anyway.
    """
    pieces = runs(index)
    _, _, inner = around_axis(source.shape, source.layout, axis)
    if len(pieces) > 2 and inner * source.itemsize % WORD == 0:
        resample(ctx, source, out, axis, Taps(index.astype(np.int32)[:, None]))
        return
    rank = len(source.shape)
    for first, length, begin, step in pieces:
        shape = list(source.shape)
        shape[axis] = length
        source_at, target_at, steps = [0] * rank, [0] * rank, [1] * rank
        source_at[axis], target_at[axis], steps[axis] = begin, first, step
        copy_box(ctx, source, out, shape, source_at, target_at, steps)

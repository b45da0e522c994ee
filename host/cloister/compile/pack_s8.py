# SPDX-License-Identifier: BSD-2-Clause
"""8-bit weights in the order in which the kernels read them (struct cl_conv2d_s8 in cloister_format.h)."""

from __future__ import annotations

import numpy as np

from cloister.ir.graph import Array, Shape
from cloister.wire import C

#: Output channels of a panel, and what its depth is a multiple of.
PANEL_S8 = 4
DEPTH_S8 = 16
#: Four products with weights whose magnitudes add up to at most this fit into 16 bits: 128 * 255 = 32640.
FOUR = 255


def rounded_depth(depth: int) -> int:
    """The depth with the zeros that fill its last step."""
    return -(-depth // DEPTH_S8) * DEPTH_S8


def panels_shape(columns: int, depth: int) -> Shape:
    """Shape of :func:`pack_panels_s8` for one group."""
    return (-(-columns // PANEL_S8), rounded_depth(depth) // DEPTH_S8, PANEL_S8, DEPTH_S8)


def pack_panels_s8(rows: Array) -> Array:
    """int8 (columns, depth), a row for each output channel, as (panels, depth / 16, 4, 16); what is missing is zero."""
    columns, depth = rows.shape
    panels, steps, _, _ = panels_shape(columns, depth)
    padded = np.zeros((panels * PANEL_S8, steps * DEPTH_S8), np.int8)
    padded[:columns, :depth] = rows
    return np.ascontiguousarray(padded.reshape(panels, PANEL_S8, steps, DEPTH_S8).transpose(0, 2, 1, 3))


def lies_by_rows(kernel_h: int, row: int, group: int, dilations: tuple[int, int]) -> bool:
    """Whether each row of the kernel begins a step: where that takes no more steps (struct cl_conv2d_s8)."""
    return group == 1 and dilations == (1, 1) and kernel_h * rounded_depth(row) == rounded_depth(kernel_h * row)


def pack_conv2d_s8(weights: Array, group: int, by_rows: bool) -> Array:
    """int8 (out_c, in_c / group, kh, kw) as (group, panels, pieces, steps, 4, 16), the depth in the order kh, kw, c.

    A piece is a row of the kernel where the weights lie by rows, else there is one.
    """
    rows = weights.transpose(0, 2, 3, 1).reshape(group, weights.shape[0] // group, weights.shape[2], -1)
    if not by_rows:
        rows = rows.reshape(*rows.shape[:2], 1, -1)
    pieces = [np.stack([pack_panels_s8(part[:, piece]) for piece in range(rows.shape[2])], axis=1) for part in rows]
    return np.stack(pieces)


def panel_kinds(packed: Array) -> Array:
    """enum cl_weights_s8 of each panel of (..., panels, pieces, steps, 4, 16), as uint8 (..., panels).

    In each piece steps are taken in pairs from the last one on; sums of four weights that the kernel adds up in 16
    bits decide.
    """
    steps = packed.shape[-3]
    sizes = np.abs(packed.astype(np.int16))
    paired = sizes[..., steps % 2 :, :, :]
    # Lanes j and j + 8 of both steps of a pair meet in one 16-bit sum.
    pairs = paired.reshape(*packed.shape[:-3], steps // 2, 2, PANEL_S8, 2, DEPTH_S8 // 2).sum(axis=(-4, -2))
    most = pairs.max(axis=(-4, -3, -2, -1), initial=0)
    kinds = np.where(most <= FOUR, C.CL_WEIGHTS_S8_FOURS, C.CL_WEIGHTS_S8_SYMMETRIC)
    lowest = packed.min(axis=(-4, -3, -2, -1))
    return np.asarray(np.where(lowest == -128, C.CL_WEIGHTS_S8_ANY, kinds), np.uint8)


def pack_kinds(channels: Array, kinds: Array) -> tuple[int, Array]:
    """The record's ``weights_kind`` and its ``channels`` as bytes; the panels' kinds follow them where they differ."""
    words = np.ascontiguousarray(channels, "<i4").view(np.uint8).reshape(-1)
    first = int(kinds.reshape(-1)[0])
    if np.all(kinds == first):
        return first, words
    return int(C.CL_WEIGHTS_S8_PANELS), np.concatenate([words, kinds.reshape(-1)])


def pack_channels(bias: Array, multiplier: Array, group: int = 1) -> Array:
    """int32 bias and float32 multiplier (out_c,) as int32 words (group, panels, 2, 4); missing channels zero."""
    each = len(bias) // group
    panels = -(-each // PANEL_S8)
    words = np.zeros((2, group, panels * PANEL_S8), np.int32)
    words[0, :, :each] = bias.reshape(group, each)
    words[1, :, :each] = multiplier.astype(np.float32).view(np.int32).reshape(group, each)
    return np.ascontiguousarray(words.reshape(2, group, panels, PANEL_S8).transpose(1, 2, 0, 3))


def pack_channels_depthwise(bias: Array, multiplier: Array) -> Array:
    """int32 bias and float32 multiplier (c,) as int32 words (2, c)."""
    return np.stack([bias.astype(np.int32), multiplier.astype(np.float32).view(np.int32)])

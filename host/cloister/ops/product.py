# SPDX-License-Identifier: BSD-2-Clause
"""Products with constant weights, cut by output columns where the weights exceed what one partition may hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cloister.compile.layout import plain
from cloister.compile.lowering import Buffer, Lowering, activation_fields
from cloister.compile.pack import PANEL, pack_panels, panel_count
from cloister.compile.sites import PANELS
from cloister.ir.graph import Activation, Array, Node

FLOAT = 4


def column_pieces(ctx: Lowering, depth: int, columns: int, itemsize: int = FLOAT) -> list[slice]:
    """Cuts ``columns`` into few pieces of whole panels whose weights (``depth`` rows) fit one partition."""
    panels = -(-columns // PANEL)
    limit = panels
    if ctx.weight_limit is not None:
        limit = max(1, ctx.weight_limit // ((depth + 1) * PANEL * itemsize))
    count = -(-panels // limit)
    each = -(-panels // count) * PANEL
    return [slice(start, min(start + each, columns)) for start in range(0, columns, each)]


def by_columns(
    ctx: Lowering, out: Buffer, depth: int, emit: Callable[[slice, Buffer], None], itemsize: int = FLOAT
) -> None:
    """Calls ``emit(columns, target)`` for every piece; a target has the rows of ``out`` and the piece's columns.

    The columns are the last axis of ``out`` in memory. One row's pieces lie one after the other in ``out`` itself;
    pieces of several rows are computed apart and copied in. ``itemsize`` is that of a weight, in bytes.
    """
    channels = out.layout[-1]
    columns = out.shape[channels]
    pieces = column_pieces(ctx, depth, columns, itemsize)
    if len(pieces) == 1:
        emit(pieces[0], out)
        return
    rows = out.count // columns
    for piece in pieces:
        width = piece.stop - piece.start
        shape = tuple(width if axis == channels else size for axis, size in enumerate(out.shape))
        if rows == 1:
            emit(piece, Buffer(out.memory, shape, out.dtype, out.layout, out.start + piece.start * out.itemsize))
            continue
        part = ctx.temporary(shape, out.dtype, out.layout)
        emit(piece, part)
        ctx.copy(part, out, (rows, width), (width, 1), (columns, 1), target_start=piece.start)


def by_groups(
    ctx: Lowering,
    x: Buffer,
    y: Buffer,
    group: int,
    size: int,
    emit: Callable[[slice, Buffer, Buffer, int], None],
    by_channel: Callable[[slice, Buffer, Buffer], None] | None = None,
) -> None:
    """Calls ``emit(channels, source, target, groups)`` for few runs of groups whose weights fit one partition.

    ``x`` and ``y`` lie channels last; sources and targets hold the channels of their groups alone. ``size`` is that of
    a group's weights, in bytes. ``by_channel`` computes a group that alone is too large.
    """
    limit = group if ctx.weight_limit is None else max(1, ctx.weight_limit // size)
    count = -(-group // limit)
    each = -(-group // count)
    inputs, outputs = x.shape[1] // group, y.shape[1] // group
    if count == 1:
        emit(slice(0, y.shape[1]), x, y, group)
        return
    for first in range(0, group, each):
        groups = min(each, group - first)
        source, target = (
            ctx.temporary((whole.shape[0], groups * width, *whole.shape[2:]), whole.dtype, whole.layout)
            for whole, width in ((x, inputs), (y, outputs))
        )
        _copy_channels(ctx, x, source, source_start=first * inputs)
        channels = slice(first * outputs, (first + groups) * outputs)
        if groups == 1 and by_channel is not None:
            by_channel(channels, source, target)
        else:
            emit(channels, source, target, groups)
        _copy_channels(ctx, target, y, target_start=first * outputs)


def _copy_channels(ctx: Lowering, source: Buffer, target: Buffer, source_start: int = 0, target_start: int = 0) -> None:
    """Copies as many channels as the smaller one has between images that lie channels last."""
    width = min(source.shape[1], target.shape[1])
    dims = (source.count // source.shape[1], width)
    ctx.copy(source, target, dims, (source.shape[1], 1), (target.shape[1], 1), source_start, target_start)


def emit_gemm(
    ctx: Lowering,
    node: Node,
    a: Buffer,
    matrix: Array,
    bias: Array | None,
    out: Buffer,
    activation: Activation | None,
    alpha: float = 1.0,
    order: Array | None = None,
    lockable: bool = True,
) -> None:
    """out = activation(a * alpha * matrix + bias) for a constant ``matrix`` (k, n) and ``bias`` (n,).

    ``out`` has n columns in its last axis, ``a`` k; all other axes are rows. Column j of ``a`` belongs to row
    ``order[j]`` of the matrix, j where there is no order. Matrices are large: they are changed when they are written.
    With ``lockable`` the product is all of the node's tensor before its activation.
    """
    k, n = matrix.shape
    m = out.count // n
    flat = Buffer(out.memory, (m, n), out.dtype, plain(2), out.start)

    def emit(columns: slice, target: Buffer) -> None:
        def pack() -> Array:
            part = matrix[:, columns]
            if alpha != 1.0:
                part = (part.astype(np.float64) * alpha).astype(np.float32)
            return pack_panels(part if order is None else part[order])

        own = None if bias is None else bias[columns]
        shape = (panel_count(target.shape[1]), k, PANEL)
        layer = ctx.part(node, columns, target.shape[1], k)
        if lockable:
            row: Buffer | None = ctx.own_bias(layer, own)
            weights = ctx.packed(shape, pack, part=layer)
        else:
            row = None if own is None or not np.any(own) else ctx.constant(own)
            weights = ctx.packed(shape, pack)
        fields = {
            "in": a,
            "weights": weights,
            "bias": row,
            "out": target,
            "m": m,
            "k": k,
            "n": target.shape[1],
            "activation": activation_fields(activation),
        }
        ctx.emit("GEMM", fields, site=ctx.site(layer, PANELS, weights, row) if lockable else None)

    by_columns(ctx, flat, k, emit)

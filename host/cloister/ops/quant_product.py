# SPDX-License-Identifier: BSD-2-Clause
"""8-bit convolutions and products with constant weights (made by passes from DequantizeLinear, Conv, QuantizeLinear).

Inputs of both: x int8; w int8 without zero point; bias int32 (out_c,), real value over in_scale * weight_scale;
weight scales float32 (out_c,). Attributes: those of the float operator, ``in`` (:class:`Affine`) and ``finish``
(:class:`Finish`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import prod
from typing import Any

import numpy as np

from cloister.compile.layout import channels_last, plain
from cloister.compile.lowering import Buffer, Lowering
from cloister.compile.pack import pack_depthwise
from cloister.compile.pack_s8 import (
    DEPTH_S8,
    PANEL_S8,
    lies_by_rows,
    pack_channels,
    pack_channels_depthwise,
    pack_conv2d_s8,
    pack_kinds,
    pack_panels_s8,
    panel_kinds,
    panels_shape,
    rounded_depth,
)
from cloister.compile.sites import PANELS_S8, ROWS_S8
from cloister.ir.graph import Array, Graph, Node, Problem
from cloister.ir.quantised import Affine, Finish
from cloister.ops.base import Cost, Operator, register
from cloister.ops.conv import conv_fields
from cloister.ops.product import by_columns, by_groups
from cloister.wire import C

#: Rows of the input that the kernels gather at once; CONV2D_S8 more where they are short (cloister_format.h).
GATHERED, MANY, DEEP = 8, 32, 512
#: Bytes of a channel's bias and multiplier, and of its panel's kind.
CHANNEL = 9


def multipliers(before: Affine, weight_scales: Array, after: Affine) -> Array:
    """float32 factor from the sum of products to the result's steps, in the order in which onnxruntime computes it."""
    return np.asarray(np.float32(before.scale) * weight_scales.astype(np.float32) / np.float32(after.scale))


def weights_kind(weights: Array) -> int:
    """Whether the faster path may be taken, which two products of -128 and -128 would overflow."""
    return int(C.CL_WEIGHTS_S8_ANY if np.any(weights == -128) else C.CL_WEIGHTS_S8_SYMMETRIC)


def fields_by_rows(fields: dict[str, Any]) -> bool:
    """Whether a CONV2D_S8 record's weights lie by rows of the kernel."""
    row = fields["kernel_w"] * fields["in_c"] // fields["group"]
    dilations = (fields["dilation_h"], fields["dilation_w"])
    return lies_by_rows(fields["kernel_h"], row, fields["group"], dilations)


def pixels_at_once(depth: int) -> int:
    """Pixels of the output that CONV2D_S8 computes together."""
    return MANY if depth < DEEP else GATHERED


def rows_touched(width: int, at_once: int) -> int:
    """Rows of an output of this width that pixels which are computed together may lie in."""
    if at_once % width == 0:
        return at_once // width
    return 1 if width % at_once == 0 else (at_once - 2) // width + 2


def conv2d_s8_scratch(fields: dict[str, Any], depthwise: bool) -> int:
    """Bytes of scratch of a record: the formulas at struct cl_conv2d_s8 in cloister_format.h."""
    taps = fields["kernel_h"] * fields["kernel_w"]
    if depthwise:
        return int(GATHERED * taps + fields["in_c"])
    depth = taps * fields["in_c"] // fields["group"]
    inside = all((fields[f"out_{x}"] - 1) * fields[f"stride_{x}"] < fields[f"in_{x}"] for x in "hw")
    pads = (fields["pad_top"], fields["pad_left"]) != (0, 0)
    if taps == 1 and not pads and inside and depth == rounded_depth(depth):
        return 0
    size = 0
    by_rows, at_once = fields_by_rows(fields), pixels_at_once(depth)
    if (fields["group"], fields["dilation_h"], fields["dilation_w"]) == (1, 1, 1):
        touched = 1 if not by_rows else min(fields["out_h"], rows_touched(fields["out_w"], at_once))
        rows = (touched - 1) * fields["stride_h"] + fields["kernel_h"]
        pixels = (fields["out_w"] - 1) * fields["stride_w"] + fields["kernel_w"]
        size += 8 * MANY * fields["kernel_h"] + DEPTH_S8 + rows * pixels * fields["in_c"]
    if not by_rows:
        size += at_once * rounded_depth(depth) + DEPTH_S8
    return int(size)


class Int8Product(Operator):
    """What both share."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Made by passes: always right."""
        return []

    def parameters(self, node: Node, graph: Graph) -> tuple[Array, Array, Array]:
        """Weights, bias with the input's zero point folded in, multipliers."""
        weights, bias, scales = (graph.tensors[name].data for name in node.inputs[1:4])
        assert weights is not None and bias is not None and scales is not None
        before, finish = node.attrs["in"], node.attrs["finish"]
        # Both orders of weights have the output channel in the axis that `channel_axis` names.
        axes = tuple(axis for axis in range(weights.ndim) if axis != self.channel_axis)
        folded = bias.astype(np.int64) - before.zero * weights.sum(axis=axes, dtype=np.int64)
        # The kernel sums modulo 2^32; the pass made sure that the whole sum fits.
        wrapped = (folded & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
        return weights, wrapped, multipliers(before, scales, finish.affine)

    channel_axis = 0

    def kinds(self, node: Node, key: Hashable, pack: Callable[[], Array]) -> Array:
        """Kinds of the panels that ``pack`` gives; kept in the node, as a model is lowered several times."""
        known: dict[Hashable, Array] = node.attrs.setdefault("kinds", {})
        if key not in known:
            known[key] = panel_kinds(pack())
        return known[key]


@register("int8::Conv")
class Int8Conv(Int8Product):
    """As Conv."""

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One CONV2D_S8, or DEPTHWISE_S8 where every channel has its own filter."""
        weights, bias, factors = self.parameters(node, ctx.graph)
        x = ctx.get_channels_last(node.inputs[0])
        y = ctx.new(node.outputs[0], channels_last(len(x.shape)))
        finish: Finish = node.attrs["finish"]
        fields = {
            **conv_fields(node, ctx.graph, x, y),
            "in_zero": node.attrs["in"].zero,
            "finish": finish.fields,
        }
        group = fields["group"]
        kernel = (fields["kernel_h"], fields["kernel_w"])
        weights = weights.reshape(*weights.shape[:2], *kernel)
        depthwise = group == x.shape[1] == y.shape[1]
        depth = prod(weights.shape[1:])

        def emit_depthwise(channels: slice, source: Buffer, target: Buffer, groups: int) -> None:
            part = weights[channels]
            layer = ctx.part(node, channels, len(part), depth)
            packed = ctx.constant(pack_depthwise(part))
            shifts = ctx.constant(pack_channels_depthwise(bias[channels], factors[channels]), layer)
            own: dict[str, Any] = {
                **fields,
                "in": source,
                "in_c": source.shape[1],
                "group": groups,
                "weights": packed,
                "channels": shifts,
                "out": target,
                "out_c": target.shape[1],
                "weights_kind": weights_kind(part),
            }
            site = ctx.site(layer, ROWS_S8, packed, shifts, finish.affine.scale)
            ctx.emit("DEPTHWISE_S8", {**own, "scratch": ctx.scratch(conv2d_s8_scratch(own, True))}, site=site)

        def emit(channels: slice, source: Buffer, target: Buffer, groups: int) -> None:
            part = weights[channels]
            own = {**fields, "in": source, "in_c": source.shape[1], "group": groups}
            by_rows = fields_by_rows(own)
            pieces = kernel[0] if by_rows else 1
            key = (node.inputs[1], channels.start, channels.stop, groups, by_rows)
            panels, steps, _, _ = panels_shape(len(part) // groups, depth // pieces)
            shape = (groups, panels, pieces, steps, PANEL_S8, DEPTH_S8)
            kinds = self.kinds(node, key, lambda: pack_conv2d_s8(part, groups, by_rows))
            kind, words = pack_kinds(pack_channels(bias[channels], factors[channels], groups), kinds)
            layer = ctx.part(node, channels, len(part), depth, groups)
            packed = ctx.packed(shape, lambda: pack_conv2d_s8(part, groups, by_rows), key, np.int8)
            shifts = ctx.constant(words, layer)
            size = conv2d_s8_scratch(own, False)
            own |= {
                "weights": packed,
                "channels": shifts,
                "out": target,
                "out_c": target.shape[1],
                "weights_kind": kind,
                "scratch": ctx.scratch(size) if size else None,
            }
            site = ctx.site(layer, PANELS_S8, packed, shifts, finish.affine.scale)
            ctx.emit("CONV2D_S8", own, site=site)

        def dense(channels: slice, source: Buffer, target: Buffer) -> None:
            def piece(columns: slice, part: Buffer) -> None:
                start = channels.start
                emit(slice(start + columns.start, start + columns.stop), source, part, 1)

            by_columns(ctx, target, rounded_depth(depth) + CHANNEL, piece, itemsize=1)

        if group == 1:
            dense(slice(0, len(weights)), x, y)
        elif depthwise:
            by_groups(ctx, x, y, group, depth + CHANNEL, emit_depthwise)
        else:
            panels = panels_shape(len(weights) // group, depth)[0]
            by_groups(ctx, x, y, group, (rounded_depth(depth) + CHANNEL) * PANEL_S8 * panels, emit, dense)

    def cost(self, node: Node, graph: Graph) -> Cost:
        """As Conv; elements are bytes."""
        y, w = graph.shape(node.outputs[0]), graph.shape(node.inputs[1])
        moved = prod(graph.shape(node.inputs[0])) + prod(w) + prod(y)
        return Cost(macs=prod(y) * prod(w[1:]), flops=prod(y), moved=moved)


@register("int8::Gemm")
class Int8Gemm(Int8Product):
    """(..., k) times a constant (k, n)."""

    channel_axis = 1

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One GEMM_S8 over the rows of all outer dimensions."""
        weights, bias, factors = self.parameters(node, ctx.graph)
        k, n = weights.shape
        x, order = ctx.get_flattened(node.inputs[0])
        rows = (weights if order is None else weights[order]).T
        y = ctx.new(node.outputs[0])
        m = y.count // n
        flat = Buffer(y.memory, (m, n), y.dtype, plain(2), y.start)
        scratch = ctx.scratch(GATHERED * rounded_depth(k)) if k != rounded_depth(k) else None
        finish: Finish = node.attrs["finish"]

        def emit(columns: slice, target: Buffer) -> None:
            part = rows[columns]
            key = (node.inputs[1], columns.start, columns.stop, None if order is None else order.tobytes())
            kinds = self.kinds(node, key, lambda: pack_panels_s8(part)[:, None])
            kind, words = pack_kinds(pack_channels(bias[columns], factors[columns]), kinds)
            layer = ctx.part(node, columns, len(part), k)
            packed = ctx.packed(panels_shape(len(part), k), lambda: pack_panels_s8(part), key, np.int8)
            shifts = ctx.constant(words, layer)
            fields = {
                "in": x,
                "weights": packed,
                "channels": shifts,
                "out": target,
                "scratch": scratch,
                "m": m,
                "k": k,
                "n": target.shape[1],
                "weights_kind": kind,
                "finish": finish.fields,
            }
            ctx.emit("GEMM_S8", fields, site=ctx.site(layer, PANELS_S8, packed, shifts, finish.affine.scale))

        by_columns(ctx, flat, rounded_depth(k) + CHANNEL, emit, itemsize=1)

    def cost(self, node: Node, graph: Graph) -> Cost:
        """m * k * n multiply-accumulates; elements are bytes."""
        k, n = graph.shape(node.inputs[1])
        m = prod(graph.shape(node.outputs[0])) // n
        return Cost(macs=m * k * n, flops=m * n, moved=m * k + k * n + m * n)

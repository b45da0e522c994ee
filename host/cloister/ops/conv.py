# SPDX-License-Identifier: BSD-2-Clause
"""Conv: one or two spatial dimensions, any kernel, stride, pad, dilation and group, constant weights."""

from __future__ import annotations

from math import prod
from typing import Any

from cloister.compile.layout import channels_last
from cloister.compile.lowering import Buffer, Lowering
from cloister.compile.pack import PANEL, pack_conv2d, pack_depthwise, panel_count
from cloister.compile.sites import PANELS, ROWS
from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.base import Cost, Operator, register
from cloister.ops.product import FLOAT, by_columns, by_groups
from cloister.ops.windows import AUTO_PADS, Window, place

#: Up to this many channels the kernel copies rows and takes a row of the filter at once (cloister_format.h).
ROW_CHANNELS = 16


@register("Conv")
class Conv(Operator):
    """Channels-last convolution; a one-dimensional one is a two-dimensional one of height 1."""

    fuses_activation = True

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32, rank 3 or 4, constant weights and bias, channels that fit the group."""
        problems = self.require_float(node, graph)
        problems += self.require_constant(node, graph, 1, "W") + self.require_constant(node, graph, 2, "B")
        problems += self.require_attr(node, "auto_pad", "NOTSET", AUTO_PADS)
        x, w = graph.shape(node.inputs[0]), graph.shape(node.inputs[1])
        if len(x) not in (3, 4) or len(w) != len(x):
            reason = "one and two spatial dimensions are supported"
            return [*problems, self.problem(node, reason, "shape of X", x)]
        group = node.attrs.get("group", 1)
        if group < 1 or x[1] != w[1] * group or w[0] % group:
            problems.append(self.problem(node, f"does not fit X {x} and W {w}", "group", group))
        if list(node.attrs.get("kernel_shape", w[2:])) != list(w[2:]):
            problems.append(self.problem(node, f"W has {w[2:]}", "kernel_shape", node.attrs["kernel_shape"]))
        if any(pad < 0 for pad in node.attrs.get("pads", [])):
            problems.append(self.problem(node, "negative pads are not supported", "pads", node.attrs["pads"]))
        if not problems:
            windows = conv_windows(node, graph)
            outputs = tuple(window.output for window in windows)
            if outputs != graph.shape(node.outputs[0])[2:]:
                problems.append(self.problem(node, f"inferred {graph.shape(node.outputs[0])}", "output", outputs))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One CONV2D, or DEPTHWISE where every channel has its own filter."""
        graph = ctx.graph
        weights = graph.tensor(node.inputs[1]).data
        assert weights is not None
        x = ctx.get_channels_last(node.inputs[0])
        y = ctx.new(node.outputs[0], channels_last(len(x.shape)))
        fields = {**conv_fields(node, graph, x, y), "activation": ctx.activation(node)}
        kernel = (fields["kernel_h"], fields["kernel_w"])
        group = fields["group"]
        weights = weights.reshape(*weights.shape[:2], *kernel)
        depthwise = group == x.shape[1] == y.shape[1]
        bias = graph.constant(node.input(2))
        taps = prod(weights.shape[1:])

        def emit(channels: slice, source: Buffer, target: Buffer, groups: int) -> None:
            part = weights[channels]
            layer = ctx.part(node, channels, len(part), taps, 1 if depthwise else groups)
            shift = ctx.own_bias(layer, None if bias is None else bias[channels])
            own = {**fields, "in": source, "in_c": source.shape[1], "group": groups}
            if depthwise:
                packed = ctx.constant(pack_depthwise(part))
            else:
                panels = (groups, panel_count(len(part) // groups), *kernel, weights.shape[1], PANEL)
                key = (node.inputs[1], channels.start, channels.stop, groups)
                packed = ctx.packed(panels, lambda: pack_conv2d(part, groups), key, part=layer)
                size = conv2d_scratch(own)
                own["scratch"] = ctx.scratch(size) if size else None
            own |= {"weights": packed, "bias": shift, "out": target, "out_c": target.shape[1]}
            site = ctx.site(layer, ROWS if depthwise else PANELS, packed, shift)
            ctx.emit("DEPTHWISE" if depthwise else "CONV2D", own, site=site)

        def dense(channels: slice, source: Buffer, target: Buffer) -> None:
            def piece(columns: slice, part: Buffer) -> None:
                start = channels.start
                emit(slice(start + columns.start, start + columns.stop), source, part, 1)

            by_columns(ctx, target, taps, piece)

        if group == 1:
            dense(slice(0, y.shape[1]), x, y)
        elif depthwise:
            by_groups(ctx, x, y, group, FLOAT * (taps + 1), emit)
        else:
            by_groups(ctx, x, y, group, FLOAT * (taps + 1) * PANEL * panel_count(len(weights) // group), emit, dense)

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One multiply-accumulate for each output element and weight of its filter."""
        y, w = graph.shape(node.outputs[0]), graph.shape(node.inputs[1])
        moved = 4 * (prod(graph.shape(node.inputs[0])) + prod(w) + prod(y))
        return Cost(macs=prod(y) * prod(w[1:]), flops=prod(y), moved=moved)


def conv_fields(node: Node, graph: Graph, x: Buffer, y: Buffer) -> dict[str, Any]:
    """The geometry that the records of all convolutions share; ``x`` and ``y`` lie channels last."""
    windows = conv_windows(node, graph)
    strides, dilations = _pair(node, "strides"), _pair(node, "dilations")
    kernel = (1, *graph.shape(node.inputs[1])[2:])[-2:]
    in_hw, out_hw = (1, *x.shape[2:])[-2:], (1, *y.shape[2:])[-2:]
    begins = (0, *(window.begin for window in windows))[-2:]
    return {
        "in": x,
        "batch": x.shape[0],
        "in_h": in_hw[0],
        "in_w": in_hw[1],
        "in_c": x.shape[1],
        "out_h": out_hw[0],
        "out_w": out_hw[1],
        "kernel_h": kernel[0],
        "kernel_w": kernel[1],
        "stride_h": strides[0],
        "stride_w": strides[1],
        "dilation_h": dilations[0],
        "dilation_w": dilations[1],
        "pad_top": begins[0],
        "pad_left": begins[1],
        "group": node.attrs.get("group", 1),
    }


def conv2d_scratch(fields: dict[str, Any]) -> int:
    """Bytes of scratch of a CONV2D record: the formula at struct cl_conv2d in cloister_format.h."""
    taps = fields["kernel_h"] * fields["kernel_w"]
    moves = (fields["stride_h"], fields["stride_w"], fields["pad_top"], fields["pad_left"]) != (1, 1, 0, 0)
    resized = (fields["out_h"], fields["out_w"]) != (fields["in_h"], fields["in_w"])
    if taps == 1 and not moves and not resized:
        return 0
    in_c = fields["in_c"]
    dense = (fields["group"], fields["dilation_h"], fields["dilation_w"]) == (1, 1, 1)
    if in_c <= ROW_CHANNELS and dense and fields["stride_w"] <= fields["kernel_w"]:
        pixels = (fields["out_w"] - 1) * fields["stride_w"] + fields["kernel_w"]
        return int(64 * fields["kernel_h"] + 4 * fields["kernel_h"] * pixels * in_c)
    return int(64 * taps + 4 * in_c)


def _pair(node: Node, attribute: str) -> tuple[int, int]:
    values = (1, *node.attrs.get(attribute, (1, 1)))
    return values[-2], values[-1]


def conv_windows(node: Node, graph: Graph) -> list[Window]:
    """The placing of the filter along each spatial dimension."""
    x, w = graph.shape(node.inputs[0]), graph.shape(node.inputs[1])
    count = len(x) - 2
    pads = node.attrs.get("pads", [0] * (2 * count))
    strides = node.attrs.get("strides", [1] * count)
    dilations = node.attrs.get("dilations", [1] * count)
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    return [
        place(x[2 + i], w[2 + i], strides[i], dilations[i], (pads[i], pads[i + count]), auto_pad) for i in range(count)
    ]

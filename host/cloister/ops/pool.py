# SPDX-License-Identifier: BSD-2-Clause
"""Pooling over one to three spatial axes, and over all of them."""

from __future__ import annotations

from math import prod
from typing import Any

from cloister.compile.layout import channels_last
from cloister.compile.lowering import Buffer, Lowering
from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.base import Cost, Operator, register
from cloister.ops.reduce import emit_reduce
from cloister.ops.windows import AUTO_PADS, Window, place
from cloister.wire import C

SPATIAL = 3


@register("MaxPool", "AveragePool")
class Pool(Operator):
    """One POOL kernel, channels last."""

    fuses_activation = True

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32, (N, C, one to three spatial axes), no Indices, windows that fit."""
        problems = self.require_float(node, graph)
        problems += self.require_no_output(node, graph, 1, "Indices")
        problems += self.require_attr(node, "auto_pad", "NOTSET", AUTO_PADS)
        problems += self.require_attr(node, "storage_order", 0, [0])
        shape = graph.shape(node.inputs[0])
        spatial = len(shape) - 2
        if not 1 <= spatial <= SPATIAL:
            reason = f"needs (N, C, ...) with one to {SPATIAL} spatial axes"
            return [*problems, self.problem(node, reason, "shape of X", shape)]
        for name, count, least in (
            ("kernel_shape", spatial, 1),
            ("strides", spatial, 1),
            ("dilations", spatial, 1),
            ("pads", 2 * spatial, 0),
        ):
            value = node.attrs.get(name)
            absent = value is None and name != "kernel_shape"
            if not absent and (value is None or len(value) != count or min(value) < least):
                problems.append(self.problem(node, f"needs {count} numbers of at least {least}", name, value))
        if problems:
            return problems
        try:
            windows = pool_windows(node, graph)
        except ValueError as error:
            return [self.problem(node, str(error), "kernel_shape", node.attrs["kernel_shape"])]
        wanted = graph.shape(node.outputs[0])[2:]
        placed = tuple(window.output for window in windows)
        if placed != wanted:
            reason = f"the windows give {placed}, the model's shape says {wanted}"
            return [self.problem(node, reason, "ceil_mode", node.attrs.get("ceil_mode", 0))]
        kernel = _spatial(node, "kernel_shape", spatial, 1)
        dilations = _spatial(node, "dilations", spatial, 1)
        reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
        if any(max(window.begin, window.end) >= far for window, far in zip(windows, reach, strict=True)):
            reason = "a pad as large as its window leaves windows without a cell"
            problems.append(self.problem(node, reason, "pads", node.attrs.get("pads")))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One POOL kernel."""
        x = ctx.get_channels_last(node.inputs[0])
        y = ctx.new(node.outputs[0], channels_last(len(x.shape)))
        ctx.emit("POOL", {**pool_fields(node, ctx.graph, x, y), "activation": ctx.activation(node)})

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One operation for each cell of each window."""
        size = prod(graph.shape(node.outputs[0]))
        return Cost(flops=size * prod(node.attrs["kernel_shape"]), moved=4 * (size + prod(graph.shape(node.inputs[0]))))


def pool_fields(node: Node, graph: Graph, x: Buffer, y: Buffer) -> dict[str, Any]:
    """What the records of float and 8-bit pooling share; ``x`` and ``y`` lie channels last."""
    spatial = len(x.shape) - 2
    windows = pool_windows(node, graph)
    if node.op.endswith("MaxPool"):
        kind = C.CL_POOL_MAX
    elif int(node.attrs.get("count_include_pad", 0)):
        kind = C.CL_POOL_AVERAGE_INCLUDE_PAD
    else:
        kind = C.CL_POOL_AVERAGE

    def three(values: Any, filler: int) -> list[int]:
        return [filler] * (SPATIAL - spatial) + list(values)

    return {
        "in": x,
        "out": y,
        "kind": kind,
        "batch": x.shape[0],
        "channels": x.shape[1],
        "in_dims": three(x.shape[2:], 1),
        "out_dims": three(y.shape[2:], 1),
        "kernel": three(_spatial(node, "kernel_shape", spatial, 1), 1),
        "stride": three(_spatial(node, "strides", spatial, 1), 1),
        "dilation": three(_spatial(node, "dilations", spatial, 1), 1),
        "pad_begin": three((window.begin for window in windows), 0),
        "pad_end": three((window.end for window in windows), 0),
    }


def pool_windows(node: Node, graph: Graph) -> list[Window]:
    """The placing of the windows along each spatial axis; ValueError where none fits."""
    lengths = graph.shape(node.inputs[0])[2:]
    spatial = len(lengths)
    pads = _spatial(node, "pads", 2 * spatial, 0)
    return [
        place(length, kernel, stride, dilation, (pads[axis], pads[axis + spatial]), auto_pad, ceil_mode)
        for axis, (length, kernel, stride, dilation) in enumerate(
            zip(
                lengths,
                _spatial(node, "kernel_shape", spatial, 1),
                _spatial(node, "strides", spatial, 1),
                _spatial(node, "dilations", spatial, 1),
                strict=True,
            )
        )
        for auto_pad, ceil_mode in [(str(node.attrs.get("auto_pad", "NOTSET")), bool(node.attrs.get("ceil_mode", 0)))]
    ]


def _spatial(node: Node, name: str, count: int, default: int) -> list[int]:
    return [int(value) for value in node.attrs.get(name, [default] * count)]


@register("GlobalAveragePool", "GlobalMaxPool")
class GlobalPool(Operator):
    """Over all spatial axes: one REDUCE kernel, in any layout."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32, at least (N, C)."""
        return self.require_float(node, graph) + self.require_channels(node, graph)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """REDUCE over all axes from the third on."""
        x = ctx.get(node.inputs[0])
        y = ctx.new(node.outputs[0], x.layout)
        emit_reduce(ctx, "MEAN" if node.op == "GlobalAveragePool" else "MAX", x, y, set(range(2, len(x.shape))))

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One operation for each element that is read."""
        size = prod(graph.shape(node.inputs[0]))
        return Cost(flops=size, moved=4 * size)

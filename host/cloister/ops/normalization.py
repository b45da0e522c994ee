# SPDX-License-Identifier: BSD-2-Clause
"""Normalisations: BatchNormalization (where it was not folded), LRN, Softmax, LogSoftmax."""

from __future__ import annotations

from math import prod

import numpy as np

from cloister.compile.layout import around_axis, plain, same_order
from cloister.compile.lowering import Lowering
from cloister.ir.graph import Array, Graph, Node, Problem
from cloister.ops.arguments import axis_in
from cloister.ops.arithmetic import emit_binary
from cloister.ops.base import Cost, Operator, normalize_axis, register


@register("BatchNormalization")
class BatchNormalization(Operator):
    """Inference only: one factor and one offset for each channel, computed here in double precision."""

    fuses_activation = True

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32, constant statistics, no training form."""
        problems = self.require_float(node, graph)
        for position, what in enumerate(("scale", "B", "input_mean", "input_var"), start=1):
            problems += self.require_constant(node, graph, position, what)
        problems += self.require_attr(node, "training_mode", 0, [0])
        problems += self.require_attr(node, "spatial", 1, [1])
        for position in range(1, len(node.outputs)):
            problems += self.require_no_output(node, graph, position, "training output")
        return problems + self.require_channels(node, graph)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """BINARY mul, then add."""
        graph = ctx.graph
        scale, offset, mean, variance = (
            np.asarray(graph.tensor(name).data, dtype=np.float64).reshape(-1) for name in node.inputs[1:5]
        )
        factor = scale / np.sqrt(variance + float(node.attrs.get("epsilon", 1e-5)))
        shape = (-1, *[1] * (graph.rank(node.inputs[0]) - 2))

        def per_channel(values: Array) -> Array:
            return np.asarray(values, dtype=np.float32).reshape(shape)

        x = ctx.get(node.inputs[0])
        y = ctx.new(node.outputs[0], x.layout)
        emit_binary(ctx, "MUL", x, ctx.constant(per_channel(factor)), y)
        emit_binary(ctx, "ADD", y, ctx.constant(per_channel(offset - mean * factor)), y, ctx.activation(node))

    def cost(self, node: Node, graph: Graph) -> Cost:
        """Two operations for each element."""
        size = prod(graph.shape(node.outputs[0]))
        return Cost(flops=2 * size, moved=16 * size)


@register("LRN")
class LocalResponseNormalization(Operator):
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32; a window of at least one channel."""
        problems = self.require_float(node, graph)
        if int(node.attrs.get("size", 0)) < 1:
            problems.append(self.problem(node, "must be at least 1", "size", node.attrs.get("size")))
        return problems + self.require_channels(node, graph)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One LRN kernel, in any layout."""
        x = ctx.get(node.inputs[0])
        outer, channels, inner = around_axis(x.shape, x.layout, 1)
        window = int(node.attrs["size"])
        fields = {
            "in": x,
            "out": ctx.new(node.outputs[0], x.layout),
            "outer": outer,
            "channels": channels,
            "inner": inner,
            "window": window,
            "alpha": float(node.attrs.get("alpha", 1e-4)) / window,
            "beta": float(node.attrs.get("beta", 0.75)),
            "bias": float(node.attrs.get("bias", 1.0)),
        }
        ctx.emit("LRN", fields)

    def cost(self, node: Node, graph: Graph) -> Cost:
        """A window of squares and a power (about 20) for each element."""
        size = prod(graph.shape(node.outputs[0]))
        return Cost(flops=size * (2 * int(node.attrs["size"]) + 20), moved=8 * size)


@register("Softmax", "LogSoftmax")
class Softmax(Operator):
    """Over one axis since opset 13; before, over all axes from ``axis`` on at once (the input counts as a matrix)."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32; an axis inside the rank."""
        problems = self.require_float(node, graph)
        rank = graph.rank(node.inputs[0])
        axis = self._axis(node, graph)
        # The older form allows axis = rank: each element alone.
        if not axis_in(axis, max(rank, 1)) and not (graph.opset < 13 and axis == rank):
            problems.append(self.problem(node, f"is outside rank {rank}", "axis", axis))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One SOFTMAX kernel; the older form needs ONNX's order if several axes are joined."""
        graph = ctx.graph
        shape = graph.shape(node.inputs[0])
        rank = len(shape)
        axis = self._axis(node, graph)
        axis = axis + rank if axis < 0 else axis
        x = ctx.get(node.inputs[0])
        joined = [place for place in range(axis, rank) if shape[place] != 1]
        if rank == 0:
            outer, n, inner = 1, 1, 1
        elif graph.opset < 13 and len(joined) != 1:
            if not same_order(shape, x.layout, plain(rank)):
                x = ctx.get_plain(node.inputs[0])
            outer, n, inner = prod(shape[:axis]), prod(shape[axis:]), 1
        else:
            one = joined[0] if graph.opset < 13 else normalize_axis(axis, rank)
            outer, n, inner = around_axis(x.shape, x.layout, one)
        fields = {
            "in": x,
            "out": ctx.new(node.outputs[0], x.layout),
            "outer": outer,
            "n": n,
            "inner": inner,
            "log": int(node.op == "LogSoftmax"),
        }
        ctx.emit("SOFTMAX", fields, in_place=("in",))

    def cost(self, node: Node, graph: Graph) -> Cost:
        """An exponential (about 20), a maximum, a sum and a product for each element."""
        size = prod(graph.shape(node.outputs[0]))
        return Cost(flops=23 * size, moved=8 * size)

    def _axis(self, node: Node, graph: Graph) -> int:
        return int(node.attrs.get("axis", -1 if graph.opset >= 13 else 1))

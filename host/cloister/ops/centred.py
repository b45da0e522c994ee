# SPDX-License-Identifier: BSD-2-Clause
"""Normalisations whose mean and deviation are the input's own: of instances, groups and layers."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import numpy as np

from cloister.compile.lowering import Buffer, Lowering, activation_fields
from cloister.ir.graph import Activation, Graph, Node, Problem
from cloister.ops.arguments import axis_in
from cloister.ops.arithmetic import emit_binary
from cloister.ops.base import Cost, Operator, normalize_axis, register
from cloister.ops.reduce import emit_reduce
from cloister.wire import C


def emit_function(ctx: Lowering, function: str, x: Buffer, out: Buffer) -> None:
    """out = function(x), both of one layout."""
    fields = {"in": x, "out": out, "count": x.count, "function": activation_fields(Activation(function))}
    ctx.emit("UNARY", fields, in_place=("in",))


def emit_centred(
    ctx: Lowering, x: Buffer, y: Buffer, axes: Collection[int], epsilon: float,
    mean: Buffer | None = None, inverse: Buffer | None = None,
) -> None:  # fmt: skip
    """y = (x - mean) / sqrt(variance + epsilon), both over ``axes``; the variance is that of all, not of a sample.

    The variance is taken of the differences (two passes), so that a large mean costs no digits.

    Args:
        ctx: gets the kernels.
        x, y: of one shape and layout.
        axes: logical ones.
        epsilon: as ONNX has it.
        mean, inverse: get what their names say, of the shape of x with ``axes`` of size 1; default: temporaries.
    """
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    mean = mean or ctx.temporary(shape, layout=x.layout)
    inverse = inverse or ctx.temporary(shape, layout=x.layout)
    emit_reduce(ctx, "MEAN", x, mean, axes)
    emit_binary(ctx, "SUB", x, mean, y)
    squares = ctx.temporary(x.shape, layout=x.layout)
    emit_binary(ctx, "MUL", y, y, squares)
    emit_reduce(ctx, "MEAN", squares, inverse, axes)
    emit_binary(ctx, "ADD", inverse, ctx.constant(np.array([epsilon], np.float32)), inverse)
    emit_function(ctx, "SQRT", inverse, inverse)
    emit_function(ctx, "RECIPROCAL", inverse, inverse)
    emit_binary(ctx, "MUL", y, inverse, y)


def in_groups(x: Buffer, groups: int) -> Buffer:
    """(N, C, ...) in any layout as (N, groups, C / groups, ...), the same bytes."""
    shape = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    places = {0: (0,), 1: (1, 2)}
    layout = tuple(place for axis in x.layout for place in places.get(axis, (axis + 1,)))
    return Buffer(x.memory, shape, x.dtype, layout, x.start)


class Centred(Operator):
    """What they have in common."""

    fuses_activation = True

    def _scaled(self, node: Node, ctx: Lowering, y: Buffer, scale: Buffer, offset: Buffer | None) -> None:
        """y * scale + offset, in place; both broadcast to y."""
        emit_binary(ctx, "MUL", y, scale, y, None if offset else ctx.activation(node))
        if offset:
            emit_binary(ctx, "ADD", y, offset, y, ctx.activation(node))

    def _by_channel(self, node: Node, ctx: Lowering) -> tuple[Buffer, Buffer]:
        """Inputs 1 and 2, of shape (C,), such that they broadcast to (N, C, ...)."""
        ones = (1,) * (ctx.graph.rank(node.inputs[0]) - 2)
        scale, offset = (ctx.get_plain(name) for name in node.inputs[1:3])
        return scale.reshaped((*scale.shape, *ones)), offset.reshaped((*offset.shape, *ones))

    def cost(self, node: Node, graph: Graph) -> Cost:
        """Two means, a difference, a square, and three products or sums for each element."""
        size = prod(graph.shape(node.outputs[0]))
        return Cost(flops=7 * size, moved=40 * size)


@register("InstanceNormalization")
class InstanceNormalization(Centred):
    """Each channel of each image by itself; any layout."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32, (N, C, ...)."""
        return self.require_float(node, graph) + self.require_channels(node, graph, 3)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """REDUCE, BINARY and UNARY kernels."""
        x = ctx.get(node.inputs[0])
        y = ctx.new(node.outputs[0], x.layout)
        emit_centred(ctx, x, y, range(2, len(x.shape)), float(node.attrs.get("epsilon", 1e-5)))
        self._scaled(node, ctx, y, *self._by_channel(node, ctx))


@register("GroupNormalization")
class GroupNormalization(Centred):
    """Groups of channels of each image by themselves; any layout.

    ONNX has withdrawn what opset 18 meant by it, a scale for each group, and infers no shapes for that any more.
    """

    since = 21

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32, (N, C, ...), groups that C is a multiple of, and a scale and an offset for each channel."""
        problems = self.require_float(node, graph)
        problems += self.require_attr(node, "stash_type", 1, [1])
        shape, groups = graph.shape(node.inputs[0]), int(node.attrs["num_groups"])
        if not 3 <= len(shape) < C.CL_MAX_RANK:
            reason = f"needs (N, C, ...) of at most {C.CL_MAX_RANK - 1} dimensions"
            return [*problems, self.problem(node, reason, "shape of X", shape)]
        if groups < 1 or shape[1] % groups:
            return [*problems, self.problem(node, f"must divide the {shape[1]} channels", "num_groups", groups)]
        if (told := graph.shape(node.outputs[0])) != shape:  # ONNX infers none, and so believes what a model says
            problems.append(self.problem(node, f"must be that of X, {shape}", "shape of Y", told))
        for name in node.inputs[1:3]:
            if graph.shape(name) != shape[1:2]:
                reason = f"needs {shape[1:2]}, one for each channel"
                problems.append(self.problem(node, reason, f"shape of input {name!r}", graph.shape(name)))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """REDUCE, BINARY and UNARY kernels."""
        x, groups = ctx.get(node.inputs[0]), int(node.attrs["num_groups"])
        y = ctx.new(node.outputs[0], x.layout)
        parted = in_groups(y, groups)
        axes = range(2, len(parted.shape))
        emit_centred(ctx, in_groups(x, groups), parted, axes, float(node.attrs.get("epsilon", 1e-5)))
        self._scaled(node, ctx, y, *self._by_channel(node, ctx))


@register("LayerNormalization")
class LayerNormalization(Centred):
    """All axes from ``axis`` on; any layout."""

    since = 17

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32; an axis inside the rank."""
        problems = self.require_float(node, graph)
        problems += self.require_attr(node, "stash_type", 1, [1])
        axis, rank = int(node.attrs.get("axis", -1)), graph.rank(node.inputs[0])
        if not axis_in(axis, rank):
            problems.append(self.problem(node, f"is outside rank {rank}", "axis", axis))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """REDUCE, BINARY and UNARY kernels."""
        x = ctx.get(node.inputs[0])
        rank = len(x.shape)
        y = ctx.new(node.outputs[0], x.layout)
        wanted = [
            ctx.new(node.outputs[position], x.layout) if node.has_output(position) else None for position in (1, 2)
        ]
        axes = range(normalize_axis(int(node.attrs.get("axis", -1)), rank), rank)
        emit_centred(ctx, x, y, axes, float(node.attrs.get("epsilon", 1e-5)), *wanted)
        offset = ctx.get(node.inputs[2]) if node.input(2) else None
        self._scaled(node, ctx, y, ctx.get(node.inputs[1]), offset)

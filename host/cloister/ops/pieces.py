# SPDX-License-Identifier: BSD-2-Clause
"""Operators that put tensors together or take them apart: Concat, Split, Slice, Gather, Expand, Tile."""

from __future__ import annotations

import numpy as np

from cloister.compile.layout import broadcast_strides, plain
from cloister.compile.lowering import Buffer, Lowering
from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.arguments import axis_in, ints
from cloister.ops.arithmetic import widest_layout
from cloister.ops.base import Operator, normalize_axis, register
from cloister.ops.moving import copy_box, gather, take_box


@register("Concat")
class Concat(Operator):
    """Tensors behind each other along one axis; any dtype."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """An axis inside the rank."""
        axis, rank = int(node.attrs.get("axis", 0)), graph.rank(node.outputs[0])
        return [] if axis_in(axis, rank) else [self.problem(node, f"is outside rank {rank}", "axis", axis)]

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One COPY for each input, into the layout of the largest."""
        rank = ctx.graph.rank(node.outputs[0])
        axis = normalize_axis(int(node.attrs["axis"]), rank)
        layout = widest_layout(ctx, node.inputs, rank)
        parts = [ctx.get(name) for name in node.inputs]
        out = ctx.new(node.outputs[0], layout)
        at = [0] * rank
        for part in parts:
            copy_box(ctx, part, out, part.shape, target_at=at)
            at[axis] += part.shape[axis]


@register("Split")
class Split(Operator):
    """Equal or given parts along one axis; any dtype. The sizes are those that shape inference found."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Sizes known at compile time, which add up; an axis inside the rank."""
        problems = self.require_constant(node, graph, 1, "split")
        axis, rank = int(node.attrs.get("axis", 0)), graph.rank(node.inputs[0])
        if not axis_in(axis, rank):
            return [*problems, self.problem(node, f"is outside rank {rank}", "axis", axis)]
        sizes = [graph.shape(name)[axis] for name in node.outputs if name]
        if not problems and all(node.outputs) and sum(sizes) != graph.shape(node.inputs[0])[axis]:
            problems.append(self.problem(node, "the parts do not add up to the axis", "split", sizes))
        if not problems and not all(node.outputs) and ints(node, graph, "split", 1) is None:
            problems.append(self.problem(node, "an absent output needs explicit sizes", "split"))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """A view for each part where the bytes allow, else a COPY."""
        x = ctx.get(node.inputs[0])
        rank = len(x.shape)
        axis = normalize_axis(int(node.attrs.get("axis", 0)), rank)
        sizes = ints(node, ctx.graph, "split", 1) or [ctx.graph.shape(name)[axis] for name in node.outputs]
        at = [0] * rank
        for name, size in zip(node.outputs, sizes, strict=True):
            if name:
                take_box(ctx, name, x, list(at), [1] * rank)
            at[axis] += size


@register("Slice")
class Slice(Operator):
    """A box with steps, which may be negative; any dtype."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """starts, ends, axes and steps known at compile time."""
        problems: list[Problem] = []
        for position, what in enumerate(("starts", "ends", "axes", "steps"), start=1):
            problems += self.require_constant(node, graph, position, what)
        if not problems and ints(node, graph, "starts", 1) is None:
            problems.append(self.problem(node, "is missing", "starts"))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """A view where the bytes allow, else a COPY."""
        x = ctx.get(node.inputs[0])
        rank = len(x.shape)
        starts = ints(node, ctx.graph, "starts", 1) or []
        ends = ints(node, ctx.graph, "ends", 2) or []
        axes = ints(node, ctx.graph, "axes", 3) or list(range(len(starts)))
        steps = ints(node, ctx.graph, "steps", 4) or [1] * len(starts)
        at, advance = [0] * rank, [1] * rank
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            # ONNX clamps as Python's own slices do.
            at[axis], _, advance[axis] = slice(start, end, step).indices(x.shape[axis])
        take_box(ctx, node.outputs[0], x, at, advance)


@register("Gather")
class Gather(Operator):
    """Rows by constant indices; any dtype."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Constant indices inside the axis."""
        problems = self.require_constant(node, graph, 1, "indices")
        axis, shape = int(node.attrs.get("axis", 0)), graph.shape(node.inputs[0])
        if not axis_in(axis, len(shape)):
            problems.append(self.problem(node, f"is outside rank {len(shape)}", "axis", axis))
        elif not problems:
            size, indices = shape[axis], np.asarray(graph.constant(node.inputs[1]))
            if np.any((indices < -size) | (indices >= size)):
                problems.append(self.problem(node, f"must lie in [-{size}, {size})", "indices", indices.tolist()))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """A gather along the axis, with all dimensions of the indices as one."""
        x = ctx.get_plain(node.inputs[0])
        axis = normalize_axis(int(node.attrs.get("axis", 0)), len(x.shape))
        index = np.asarray(ctx.graph.constant(node.inputs[1]), dtype=np.int64).reshape(-1) % x.shape[axis]
        y = ctx.new(node.outputs[0])
        gather(ctx, x, y.reshaped((*x.shape[:axis], len(index), *x.shape[axis + 1 :])), axis, index)


@register("Expand")
class Expand(Operator):
    """Broadcast to a constant shape; any dtype."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """A shape known at compile time."""
        return self.require_constant(node, graph, 1, "shape")

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One COPY with strides of zero."""
        x = ctx.get(node.inputs[0])
        shape = ctx.graph.shape(node.outputs[0])
        y = ctx.new(node.outputs[0], x.layout if len(shape) == len(x.shape) else plain(len(shape)))
        strides = broadcast_strides(x.shape, x.layout, shape)
        ctx.copy(x, y, y.dims, [strides[axis] for axis in y.layout], [y.strides[axis] for axis in y.layout])


@register("Tile")
class Tile(Operator):
    """The tensor repeated along each axis; any dtype."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Repeats known at compile time."""
        return self.require_constant(node, graph, 1, "repeats")

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One COPY for each axis that is repeated."""
        x = ctx.get(node.inputs[0])
        shape = ctx.graph.shape(node.outputs[0])
        changed = [axis for axis in reversed(x.layout) if shape[axis] != x.shape[axis]]
        if not changed:
            ctx.alias(node.outputs[0], x, x.layout)
            return
        for axis in changed:
            longer = tuple(shape[axis] if place == axis else size for place, size in enumerate(x.shape))
            final = axis == changed[-1]
            y = ctx.new(node.outputs[0], x.layout) if final else ctx.temporary(longer, x.dtype, x.layout)
            _tile(ctx, x, y, axis)
            x = y


def _tile(ctx: Lowering, source: Buffer, target: Buffer, axis: int) -> None:
    """Repeats ``source`` along one axis until it fills ``target``."""
    run = source.strides[axis] * source.shape[axis]
    repeats, outer = target.shape[axis] // source.shape[axis], source.count // run
    ctx.copy(source, target, [outer, repeats, run], [run, 0, 1], [run * repeats, run, 1])

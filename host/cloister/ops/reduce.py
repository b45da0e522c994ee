# SPDX-License-Identifier: BSD-2-Clause
"""Reductions over axes: ReduceMean, ReduceSum, ReduceMax, ReduceMin, ArgMax, ArgMin."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import numpy as np

from cloister.compile.layout import around_axis
from cloister.compile.lowering import Buffer, Lowering
from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.arguments import axis_in, ints, layout_without
from cloister.ops.base import Cost, Operator, normalize_axis, register
from cloister.wire import C

KINDS = {"ReduceMean": "MEAN", "ReduceSum": "SUM", "ReduceMax": "MAX", "ReduceMin": "MIN"}


def emit_reduce(ctx: Lowering, kind: str, source: Buffer, out: Buffer, axes: Collection[int]) -> None:
    """Emits REDUCE over logical axes of an array in any layout; ``out`` is dense in what remains of that order."""
    mask = sum(1 << place for place, axis in enumerate(source.layout) if axis in axes)
    dims = list(source.dims) or [1]
    fields = {
        "in": source,
        "out": out,
        "kind": getattr(C, f"CL_REDUCE_{kind}"),
        "rank": len(dims),
        "dims": dims,
        "axes": mask,
    }
    ctx.emit("REDUCE", fields)


@register(*KINDS)
class Reduce(Operator):
    """Over given axes, or all; any layout."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32; constant axes inside the rank."""
        problems = self.require_float(node, graph, node.inputs[:1])
        problems += self.require_constant(node, graph, 1, "axes")
        rank = graph.rank(node.inputs[0])
        for axis in (ints(node, graph, "axes", 1) or []) if not problems else []:
            if not axis_in(axis, rank):
                problems.append(self.problem(node, f"is outside rank {rank}", "axes", axis))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One REDUCE kernel, or none where no axis is reduced."""
        x = ctx.get(node.inputs[0])
        axes = self._axes(node, ctx.graph)
        layout = layout_without(x.layout, axes, bool(node.attrs.get("keepdims", 1)))
        if all(x.shape[axis] == 1 for axis in axes):
            ctx.alias(node.outputs[0], x, layout)
        else:
            emit_reduce(ctx, KINDS[node.op], x, ctx.new(node.outputs[0], layout), axes)

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One operation for each element that is read."""
        size = prod(graph.shape(node.inputs[0]))
        return Cost(flops=size, moved=4 * size)

    def _axes(self, node: Node, graph: Graph) -> set[int]:
        rank = graph.rank(node.inputs[0])
        axes = ints(node, graph, "axes", 1)
        if not axes:
            return set() if int(node.attrs.get("noop_with_empty_axes", 0)) else set(range(rank))
        return {normalize_axis(axis, rank) for axis in axes}


@register("ArgMax", "ArgMin")
class ArgMax(Operator):
    """Index of the largest or smallest element along one axis, int64; any layout."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32; an axis inside the rank."""
        problems = self.require_float(node, graph)
        axis, rank = int(node.attrs.get("axis", 0)), graph.rank(node.inputs[0])
        if not axis_in(axis, max(rank, 1)):
            problems.append(self.problem(node, f"is outside rank {rank}", "axis", axis))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One ARGMAX kernel."""
        x = ctx.get(node.inputs[0])
        rank = len(x.shape)
        axis = normalize_axis(int(node.attrs.get("axis", 0)), rank) if rank else 0
        outer, n, inner = around_axis(x.shape, x.layout, axis) if rank else (1, 1, 1)
        layout = layout_without(x.layout, {axis}, bool(node.attrs.get("keepdims", 1))) if rank else ()
        out = ctx.new(node.outputs[0], layout)
        if out.dtype != np.int64:
            raise ValueError(f"{node.name}: {node.op} makes int64, not {out.dtype}")
        fields = {
            "in": x,
            "out": out,
            "outer": outer,
            "n": n,
            "inner": inner,
            "select_last": int(bool(node.attrs.get("select_last_index", 0))),
            "minimum": int(node.op == "ArgMin"),
        }
        ctx.emit("ARGMAX", fields)

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One comparison for each element."""
        size = prod(graph.shape(node.inputs[0]))
        return Cost(flops=size, moved=4 * size)

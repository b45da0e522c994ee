# SPDX-License-Identifier: BSD-2-Clause
"""Element-wise operators of several values with broadcasting: Add, Sub, Mul, Div, Pow, PRelu; Sum, Max, Min."""

from __future__ import annotations

from typing import Any

from cloister.compile.layout import Layout, broadcast_strides, merge_axes, plain
from cloister.compile.lowering import Buffer, Lowering, activation_fields
from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.base import Operator, register
from cloister.wire import C

FUNCTIONS = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Pow": "POW", "PRelu": "PRELU"}
VARIADIC = {"Sum": "ADD", "Max": "MAX", "Min": "MIN"}


def emit_binary(
    ctx: Lowering, function: str, a: Buffer, b: Buffer, out: Buffer, activation: dict[str, object] | None = None
) -> None:
    """out = activation(function(a, b)) with numpy's broadcasting; operands may lie in any layout."""
    fields, dense = binary_fields(function, a, b, out)
    if activation:
        fields["activation"] = activation
    ctx.emit("BINARY", fields, in_place=dense)


def binary_fields(function: str, a: Buffer, b: Buffer, out: Buffer) -> tuple[dict[str, Any], list[str]]:
    """What the records of float and 8-bit BINARY share, and the operands whose memory ``out`` may take over."""
    a_strides = broadcast_strides(a.shape, a.layout, out.shape)
    b_strides = broadcast_strides(b.shape, b.layout, out.shape)
    dims, (a_walk, b_walk) = merge_axes(
        out.dims, [a_strides[axis] for axis in out.layout], [b_strides[axis] for axis in out.layout]
    )
    fields: dict[str, Any] = {
        "a": a,
        "b": b,
        "out": out,
        "function": getattr(C, f"CL_BINARY_{function}"),
        "rank": len(dims),
        "dims": dims,
        "a_strides": a_walk,
        "b_strides": b_walk,
    }
    dense = [
        name
        for name, walk, buffer in (("a", a_walk, a), ("b", b_walk, b))
        if len(dims) == 1 and walk[0] == 1 and buffer.count == out.count
    ]
    return fields, dense


def widest_layout(ctx: Lowering, names: list[str], rank: int) -> Layout:
    """The layout of the largest run-time operand of full rank; plain where there is none."""
    full = [name for name in names if not ctx.graph.is_constant(name) and ctx.graph.rank(name) == rank]
    return ctx.get(max(full, key=lambda name: ctx.get(name).count)).layout if full else plain(rank)


@register(*FUNCTIONS)
class Binary(Operator):
    """Two operands, broadcast; the result takes the layout of the larger operand."""

    fuses_activation = True

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32 only; at most eight dimensions."""
        return self.require_float(node, graph)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One BINARY kernel; broadcasting is done by strides."""
        layout = widest_layout(ctx, node.inputs, ctx.graph.rank(node.outputs[0]))
        a, b = (ctx.get(name) for name in node.inputs)
        out = ctx.new(node.outputs[0], layout)
        emit_binary(ctx, FUNCTIONS[node.op], a, b, out, ctx.activation(node))


@register(*VARIADIC)
class Variadic(Operator):
    """Any number of operands, at least one, all broadcast to the result's shape: a chain of BINARY kernels."""

    fuses_activation = True

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32 only."""
        return self.require_float(node, graph)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """x1 op x2 op ...; the first pair makes the result, the others are taken into it in place."""
        rank = ctx.graph.rank(node.outputs[0])
        layout = widest_layout(ctx, node.inputs, rank)
        operands = [ctx.get(name) for name in node.inputs]
        out = ctx.new(node.outputs[0], layout)
        function = VARIADIC[node.op]
        if len(operands) == 1:
            fields = {"in": operands[0], "out": out, "count": out.count, "function": ctx.activation(node)}
            ctx.emit("UNARY", fields, in_place=("in",))
            return
        so_far = operands[0]
        for position, operand in enumerate(operands[1:]):
            last = position == len(operands) - 2
            emit_binary(ctx, function, so_far, operand, out, activation_fields(node.activation if last else None))
            so_far = out

# SPDX-License-Identifier: BSD-2-Clause
"""Base of the element-wise functions of one value: they keep the layout, may run in place, and fuse."""

from __future__ import annotations

from cloister.compile.lowering import Lowering, activation_fields
from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.base import Operator


class Unary(Operator):
    """y = function(x), any shape; subclasses give ``activation`` (never None where check finds nothing)."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32 only."""
        return self.require_float(node, graph, node.inputs[:1])

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One UNARY kernel over all elements, in whatever layout they lie."""
        x = ctx.get(node.inputs[0])
        y = ctx.new(node.outputs[0], x.layout)
        function = activation_fields(self.activation(node, ctx.graph))
        ctx.emit("UNARY", {"in": x, "out": y, "count": x.count, "function": function}, in_place=("in",))

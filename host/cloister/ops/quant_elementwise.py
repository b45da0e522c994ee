# SPDX-License-Identifier: BSD-2-Clause
"""8-bit Add, Sub and Mul (made by passes). Attributes: ``a``, ``b`` (:class:`Affine`), ``finish`` (:class:`Finish`)."""

from __future__ import annotations

from math import prod

import numpy as np

from cloister.compile.lowering import Lowering
from cloister.ir.graph import Graph, Node, Problem
from cloister.ir.quantised import Affine, Finish
from cloister.ops.arithmetic import binary_fields, widest_layout
from cloister.ops.base import Cost, Operator, register


@register("int8::Add", "int8::Sub", "int8::Mul")
class Int8Binary(Operator):
    """Two int8 operands of any scales, broadcast; operands may be constants."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Made by passes: always right."""
        return []

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One BINARY_S8."""
        layout = widest_layout(ctx, node.inputs, ctx.graph.rank(node.outputs[0]))
        a, b = (ctx.get(name) for name in node.inputs)
        out = ctx.new(node.outputs[0], layout)
        first: Affine = node.attrs["a"]
        second: Affine = node.attrs["b"]
        finish: Finish = node.attrs["finish"]
        scales = [np.float32(affine.scale) for affine in (first, second, finish.affine)]
        if self.name == "int8::Mul":
            factors = (scales[0] * scales[1] / scales[2], np.float32(0))
        else:
            factors = (scales[0] / scales[2], scales[1] / scales[2])
        fields, dense = binary_fields("MUL" if self.name == "int8::Mul" else "ADD", a, b, out)
        own = {
            "a_zero": first.zero,
            "b_zero": second.zero,
            "a_multiplier": float(factors[0]),
            "b_multiplier": float(-factors[1] if self.name == "int8::Sub" else factors[1]),
            "finish": finish.fields,
        }
        ctx.emit("BINARY_S8", {**fields, **own}, in_place=dense)

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One operation for each element."""
        size = prod(graph.shape(node.outputs[0]))
        return Cost(flops=size, moved=3 * size)

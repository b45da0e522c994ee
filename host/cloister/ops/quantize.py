# SPDX-License-Identifier: BSD-2-Clause
"""QuantizeLinear and DequantizeLinear at run time, and tables of 256 entries."""

from __future__ import annotations

import numpy as np

from cloister.compile.lowering import Buffer, Lowering
from cloister.ir.graph import Array, Graph, Node, Problem
from cloister.ir.qdq import affine_of
from cloister.ir.quantised import Finish
from cloister.ops.base import Cost, Operator, register

#: Unsigned and signed 8-bit values of the same meaning differ in their highest bit; by unsigned value.
FLIP = (np.arange(256, dtype=np.uint8) ^ 0x80).view(np.int8)


def emit_table(ctx: Lowering, source: Buffer, out: Buffer, table: Array) -> None:
    """out = table[unsigned byte of source]; ``table`` is int8 (256,)."""
    fields = {"in": source, "table": ctx.constant(table), "out": out, "count": source.count}
    ctx.emit("UNARY_S8", fields, in_place=("in",))


class Quantizer(Operator):
    """Base of the two."""

    since = 10

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """8 bits, float32 on the other side, one constant positive scale for the whole tensor."""
        real, quantised = node.inputs[0], node.outputs[0]
        if node.op == "DequantizeLinear":
            real, quantised = quantised, real
        problems = [
            self.problem(node, f"supported at run time: {kind}", "dtype", str(graph.dtype(name)))
            for name, kind, right in (
                (real, "float32", graph.dtype(real) == np.float32),
                (quantised, "int8 and uint8", graph.dtype(quantised).name in ("int8", "uint8")),
            )
            if not right
        ]
        problems += self.require_constant(node, graph, 1, "scale") + self.require_constant(node, graph, 2, "zero_point")
        if not problems and affine_of(node, graph) is None:
            scale = graph.constant(node.inputs[1])
            shown = None if scale is None else scale.reshape(-1)[:4].tolist()
            reason = "a tensor of run time needs one positive finite float32 scale; only weights may have several"
            problems.append(self.problem(node, reason, "scale", shown))
        return problems


@register("QuantizeLinear")
class QuantizeLinear(Quantizer):
    """float32 to int8 or uint8: round to the nearest, ties to even, saturated."""

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One QUANTIZE; uint8 is int8 with the highest bit flipped."""
        affine = affine_of(node, ctx.graph)
        assert affine is not None
        x = ctx.get(node.inputs[0])
        y = ctx.new(node.outputs[0], x.layout)
        finish = Finish(affine).fields
        ctx.emit("QUANTIZE", {"in": x, "out": y, "count": x.count, "scale": affine.scale, "finish": finish})
        if y.dtype == np.uint8:
            emit_table(ctx, y, y, FLIP)


@register("DequantizeLinear")
class DequantizeLinear(Quantizer):
    """int8 or uint8 to float32."""

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One DEQUANTIZE, after a flip of the highest bit where the elements are unsigned."""
        affine = affine_of(node, ctx.graph)
        assert affine is not None
        x = ctx.get(node.inputs[0])
        y = ctx.new(node.outputs[0], x.layout)
        if x.dtype == np.uint8:
            signed = ctx.temporary(x.shape, np.int8, x.layout)
            emit_table(ctx, x, signed, FLIP)
            x = signed
        ctx.emit("DEQUANTIZE", {"in": x, "out": y, "count": x.count, "zero": affine.zero, "scale": affine.scale})


@register("int8::Table")
class Table(Operator):
    """Any function of one 8-bit value; attribute ``table``: int8 (256,), by the value's unsigned byte."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Made by passes: always right."""
        return []

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One UNARY_S8, in any layout."""
        x = ctx.get(node.inputs[0])
        emit_table(ctx, x, ctx.new(node.outputs[0], x.layout), node.attrs["table"])

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One look-up for each element."""
        size = int(np.prod(graph.shape(node.outputs[0])))
        return Cost(flops=size, moved=2 * size)

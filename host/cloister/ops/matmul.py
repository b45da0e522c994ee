# SPDX-License-Identifier: BSD-2-Clause
"""MatMul with numpy's rules for ranks and broadcasting."""

from __future__ import annotations

from math import prod

from cloister.compile.layout import merge_axes
from cloister.compile.lowering import Buffer, Lowering, activation_fields
from cloister.compile.pack import PANEL
from cloister.ir.graph import Graph, Node, Problem, Shape
from cloister.ops.base import Cost, Operator, register
from cloister.ops.product import emit_gemm
from cloister.wire import ffi

#: Outer dimensions that the MATMUL kernel takes.
BATCH_RANK = len(ffi.new("struct cl_matmul *").batch_dims)


@register("MatMul")
class MatMul(Operator):
    """A constant right matrix becomes a GEMM kernel with packed weights; everything else a batched MATMUL."""

    fuses_activation = True

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32; at most six outer dimensions."""
        return self.require_float(node, graph)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One GEMM or MATMUL kernel."""
        graph = ctx.graph
        a_shape, b_shape, batch = _sizes(node, graph)
        m, k, n = a_shape[-2], a_shape[-1], b_shape[-1]
        out = ctx.new(node.outputs[0])
        weights = graph.constant(node.inputs[1])
        if weights is not None and prod(b_shape[:-2]) == 1:
            # Rows of all batches are rows of one matrix.
            a, order = ctx.get_flattened(node.inputs[0])
            matrix = weights.reshape(k, n)
            emit_gemm(ctx, node, a, matrix if order is None else matrix[order], None, out, node.activation)
            return
        dims, (a_strides, b_strides) = merge_axes(batch, _outer_strides(a_shape, batch), _outer_strides(b_shape, batch))
        fields = {
            "a": ctx.get_plain(node.inputs[0]),
            "b": ctx.get_plain(node.inputs[1]),
            "out": out,
            "scratch": ctx.scratch(PANEL * k * 4),
            "m": m,
            "k": k,
            "n": n,
            "batch_rank": len(dims),
            "batch_dims": dims,
            "a_strides": a_strides,
            "b_strides": b_strides,
        }
        ctx.emit("MATMUL", fields)
        if node.activation is not None:
            _apply(ctx, out, node)

    def cost(self, node: Node, graph: Graph) -> Cost:
        """m * k * n multiply-accumulates for each batch."""
        a_shape, b_shape, batch = _sizes(node, graph)
        m, k, n = a_shape[-2], a_shape[-1], b_shape[-1]
        moved = 4 * (prod(a_shape) + prod(b_shape) + prod(batch) * m * n)
        return Cost(macs=prod(batch) * m * k * n, moved=moved)


def _sizes(node: Node, graph: Graph) -> tuple[Shape, Shape, Shape]:
    """The operands' shapes, vectors made matrices, and the outer dimensions of the result."""
    a, b = (graph.shape(name) for name in node.inputs)
    a = (1, *a) if len(a) == 1 else a
    b = (*b, 1) if len(b) == 1 else b
    rank = max(len(a), len(b)) - 2
    batch = tuple(
        max(pair)
        for pair in zip(
            (1,) * (rank - len(a) + 2) + a[:-2],
            (1,) * (rank - len(b) + 2) + b[:-2],
            strict=True,
        )
    )
    return a, b, batch


def _outer_strides(shape: Shape, batch: Shape) -> list[int]:
    """Stride in elements of each outer dimension of the result; 0 where the operand is broadcast."""
    outer = shape[:-2]
    missing = len(batch) - len(outer)
    strides = _plain_strides(outer, prod(shape[-2:]))
    return [0] * missing + [0 if size == 1 else step for size, step in zip(outer, strides, strict=True)]


def _plain_strides(shape: Shape, element: int) -> list[int]:
    """Strides of a dense array in ONNX's order whose elements take ``element`` units."""
    return [element * prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _apply(ctx: Lowering, out: Buffer, node: Node) -> None:
    fields = {"in": out, "out": out, "count": out.count, "function": activation_fields(node.activation)}
    ctx.emit("UNARY", fields)

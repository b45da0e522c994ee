# SPDX-License-Identifier: BSD-2-Clause
"""Gemm: alpha * A' * B' + beta * C, B constant (packed) or computed at run time."""

from __future__ import annotations

from math import prod

import numpy as np

from cloister.compile.lowering import Buffer, Lowering, activation_fields
from cloister.ir.graph import Activation, Array, Graph, Node, Problem
from cloister.ops.arithmetic import emit_binary
from cloister.ops.base import Cost, Operator, register
from cloister.ops.product import emit_gemm


@register("Gemm")
class Gemm(Operator):
    """Constant B: one GEMM kernel, alpha in the weights and C in the bias where C is one constant row."""

    fuses_activation = True

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32 only."""
        return self.require_float(node, graph)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """GEMM (B constant) or MATMUL; what C and alpha then lack is done by BINARY and UNARY kernels."""
        graph = ctx.graph
        alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
        m, n = graph.shape(node.outputs[0])
        k = graph.shape(node.inputs[0])[0 if node.attrs.get("transA", 0) else 1]
        out = ctx.new(node.outputs[0])
        bias = node.input(2) if node.input(2) and beta != 0.0 else ""
        row = _constant_row(graph.constant(bias), beta, n)
        rest = bool(bias) and row is None
        weights = graph.constant(node.inputs[1])
        if weights is None:
            self._run_time_product(node, ctx, out, (m, k, n))
            if alpha != 1.0:
                emit_binary(ctx, "MUL", out, ctx.constant(np.array([alpha], np.float32)), out)
            rest = bool(bias)
        else:
            a, order = _left(node, ctx)
            matrix = weights.T if node.attrs.get("transB", 0) else weights
            emit_gemm(ctx, node, a, matrix, row, out, None if rest else node.activation, alpha, order, not rest)
        if rest:
            self._add_bias(node, ctx, out, bias, beta)
        elif weights is None and node.activation:
            _apply(ctx, out, node.activation)

    def _run_time_product(self, node: Node, ctx: Lowering, out: Buffer, sizes: tuple[int, int, int]) -> None:
        m, k, n = sizes
        a, _ = _left(node, ctx, flattened=False)
        b = _transposed(ctx, ctx.get_plain(node.inputs[1])) if node.attrs.get("transB", 0) else None
        fields = {
            "a": a,
            "b": b or ctx.get_plain(node.inputs[1]),
            "out": out,
            "scratch": ctx.scratch(8 * k * 4),
            "m": m,
            "k": k,
            "n": n,
        }
        ctx.emit("MATMUL", fields)

    def _add_bias(self, node: Node, ctx: Lowering, out: Buffer, bias: str, beta: float) -> None:
        value = ctx.graph.constant(bias)
        if value is not None:
            c = ctx.constant((value.astype(np.float64) * beta).astype(np.float32))
        else:
            c = ctx.get(bias)
            if beta != 1.0:
                scaled = ctx.temporary(c.shape, np.float32, c.layout)
                emit_binary(ctx, "MUL", c, ctx.constant(np.array([beta], np.float32)), scaled)
                c = scaled
        emit_binary(ctx, "ADD", out, c, out, activation_fields(node.activation))

    def cost(self, node: Node, graph: Graph) -> Cost:
        """m * k * n multiply-accumulates."""
        m, n = graph.shape(node.outputs[0])
        k = graph.shape(node.inputs[0])[0 if node.attrs.get("transA", 0) else 1]
        moved = 4 * (m * k + k * n + m * n)
        return Cost(macs=m * k * n, flops=prod((m, n)), moved=moved)


def _constant_row(bias: Array | None, beta: float, n: int) -> Array | None:
    """beta * C as one row of n values, where C is constant and the same for all rows."""
    if bias is None or (bias.ndim == 2 and bias.shape[0] != 1):
        return None
    row = np.broadcast_to(bias.reshape(-1), (n,)).astype(np.float64) * beta
    return row.astype(np.float32)


def _left(node: Node, ctx: Lowering, flattened: bool = True) -> tuple[Buffer, Array | None]:
    if node.attrs.get("transA", 0):
        return _transposed(ctx, ctx.get_plain(node.inputs[0])), None
    return ctx.get_flattened(node.inputs[0]) if flattened else (ctx.get_plain(node.inputs[0]), None)


def _transposed(ctx: Lowering, matrix: Buffer) -> Buffer:
    """A run-time or constant matrix (r, c) as a dense (c, r)."""
    rows, columns = matrix.shape
    target = ctx.temporary((columns, rows), matrix.dtype)
    ctx.copy(matrix, target, (columns, rows), (1, columns), (rows, 1))
    return target


def _apply(ctx: Lowering, buffer: Buffer, activation: Activation) -> None:
    fields = {"in": buffer, "out": buffer, "count": buffer.count, "function": activation_fields(activation)}
    ctx.emit("UNARY", fields)

# SPDX-License-Identifier: BSD-2-Clause
"""MatMul of a matrix with constant weights is a Gemm, which can take a bias (Add) and more as well."""

from __future__ import annotations

from cloister.ir.graph import Graph


def matmul_to_gemm(graph: Graph) -> None:
    """Renames every MatMul of two matrices whose second one is constant; both mean the same."""
    for node in graph.nodes:
        matrices = node.op == "MatMul" and all(graph.rank(name) == 2 for name in node.inputs)
        if matrices and graph.is_constant(node.inputs[1]):
            node.op = "Gemm"

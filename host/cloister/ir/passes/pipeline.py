# SPDX-License-Identifier: BSD-2-Clause
"""The passes in their order."""

from __future__ import annotations

from cloister.ir.graph import Graph
from cloister.ir.passes.activation import fuse_activations
from cloister.ir.passes.affine import fold_affine
from cloister.ir.passes.dead import remove_dead
from cloister.ir.passes.identity import remove_identities
from cloister.ir.passes.matmul import matmul_to_gemm
from cloister.ir.passes.quant import quantise
from cloister.ir.passes.reshape import join_reshapes


def clean(graph: Graph) -> None:
    """Before the check: what does nothing or is read by nobody goes, and so raises no problem.

    Quantised models become integer ones here already, as their constants are kept both ways until then.
    """
    remove_dead(graph)
    remove_identities(graph)
    remove_dead(graph)
    quantise(graph)


def optimise(graph: Graph) -> None:
    """After the check: fewer and larger nodes."""
    join_reshapes(graph)
    matmul_to_gemm(graph)
    fold_affine(graph)
    fuse_activations(graph)
    remove_dead(graph)

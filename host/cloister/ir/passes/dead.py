# SPDX-License-Identifier: BSD-2-Clause
"""Dead code elimination."""

from __future__ import annotations

from cloister.ir.graph import Graph


def remove_dead(graph: Graph) -> None:
    """Drops nodes whose outputs nobody reads, and tensors that no node names."""
    wanted = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(name for name in node.inputs if name)
            kept.append(node)
    graph.nodes = kept[::-1]
    named = {*graph.inputs, *wanted, *(name for node in graph.nodes for name in node.outputs)}
    graph.tensors = {name: tensor for name, tensor in graph.tensors.items() if name in named}

# SPDX-License-Identifier: BSD-2-Clause
"""Chains of operators that only change the shape: the last one reads what the first one reads."""

from __future__ import annotations

from cloister.ir.graph import Graph

#: All elements stay in ONNX's order.
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def join_reshapes(graph: Graph) -> None:
    """Lets Reshape and Flatten, which name their whole result's shape, skip such operators before them."""
    producers = {name: node for node in graph.nodes for name in node.outputs if name}
    for node in graph.nodes:
        if node.op in ("Reshape", "Flatten"):
            while (before := producers.get(node.inputs[0])) is not None and before.op in RESHAPES:
                node.inputs[0] = before.inputs[0]

# SPDX-License-Identifier: BSD-2-Clause
"""Small edits that passes share."""

from __future__ import annotations

from cloister.ir.graph import Graph, Node


def replace_uses(graph: Graph, old: str, new: str) -> None:
    """Makes every node that reads ``old`` read ``new``."""
    for node in graph.nodes:
        node.inputs = [new if name == old else name for name in node.inputs]


def only_reader(graph: Graph, name: str) -> Node | None:
    """The one node that reads ``name``, once; None where there are more, or the tensor leaves the graph."""
    if name in graph.outputs:
        return None
    readers = graph.consumers(name)
    if len(readers) != 1 or readers[0].inputs.count(name) != 1:
        return None
    return readers[0]


def absorb(graph: Graph, node: Node, reader: Node) -> None:
    """``node`` takes the place of ``reader``, its only reader: it now computes the reader's first output."""
    node.outputs[0] = reader.outputs[0]
    graph.nodes.remove(reader)

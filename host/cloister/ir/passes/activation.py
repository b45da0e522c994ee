# SPDX-License-Identifier: BSD-2-Clause
"""Fusion of activations into the kernel that computes their operand."""

from __future__ import annotations

from cloister.ir.graph import Graph
from cloister.ir.passes.edit import absorb, only_reader
from cloister.ops.base import find


def fuse_activations(graph: Graph) -> None:
    """Gives every node that can apply one the activation that is its result's only reader."""
    for node in list(graph.nodes):
        operator = find(node.op)
        if operator is None or not operator.fuses_activation or node.activation is not None:
            continue
        reader = only_reader(graph, node.outputs[0])
        if reader is None or reader.inputs[0] != node.outputs[0]:
            continue
        function = find(reader.op)
        activation = function.activation(reader, graph) if function else None
        if activation is not None:
            node.activation = activation
            node.point = node.point or node.outputs[0]
            absorb(graph, node, reader)

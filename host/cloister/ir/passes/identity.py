# SPDX-License-Identifier: BSD-2-Clause
"""Removal of nodes that pass their first input on unchanged."""

from __future__ import annotations

import numpy as np

from cloister.ir.graph import Graph, Node
from cloister.ir.passes.edit import replace_uses

#: Operators that do nothing where shape and type of output and input are the same. Two equal dimensions can be
#: swapped by a Transpose, so that one is decided by its permutation.
SAME_SHAPE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Cast", "CastLike"})


def remove_identities(graph: Graph) -> None:
    """Drops Identity, Dropout in inference, and shape operators that change nothing.

    A Gather of everything in order is a Reshape first.

    A node whose output leaves the graph under its own name stays: it lowers to a view.
    """
    kept = []
    for node in graph.nodes:
        if node.op == "Gather" and _takes_all(node, graph):
            node.op, node.inputs, node.attrs = "Reshape", node.inputs[:1], {}
        if _is_identity(node, graph) and node.outputs[0] not in graph.outputs:
            replace_uses(graph, node.outputs[0], node.inputs[0])
        else:
            kept.append(node)
    graph.nodes = kept


def _is_identity(node: Node, graph: Graph) -> bool:
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        training = graph.constant(node.input(2)) if node.input(2) else None
        inference = not node.input(2) or (training is not None and not bool(training))
        mask_used = node.has_output(1) and (node.outputs[1] in graph.outputs or bool(graph.consumers(node.outputs[1])))
        return inference and not mask_used
    if node.op in SAME_SHAPE:
        before, after = graph.tensors[node.inputs[0]], graph.tensors[node.outputs[0]]
        known = before.shape is not None and all(dim >= 0 for dim in before.shape)
        return known and before.shape == after.shape and before.dtype is not None and before.dtype == after.dtype
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        return perm is not None and list(perm) == list(range(len(perm)))
    return False


def _takes_all(node: Node, graph: Graph) -> bool:
    """Gather of all positions in order, as PyTorch's exporter writes as_strided."""
    index = graph.constant(node.inputs[1])
    shape = graph.tensors[node.inputs[0]].shape
    axis = node.attrs.get("axis", 0)
    if index is None or shape is None or not -len(shape) <= axis < len(shape):
        return False
    return index.size == shape[axis] and bool(np.array_equal(index.reshape(-1), np.arange(index.size)))

# SPDX-License-Identifier: BSD-2-Clause
"""Folding of BatchNormalization (inference) into the weights of the Conv or Gemm before it."""

from __future__ import annotations

import numpy as np

from cloister.ir.graph import Array, Graph, Node
from cloister.ir.passes.edit import absorb, only_reader


def scale_and_shift(node: Node, graph: Graph) -> tuple[Array, Array] | None:
    """BatchNormalization as y = scale * x + shift per channel, float64; None where a parameter is not constant."""
    values = [graph.constant(name) for name in node.inputs[1:5]]
    if len(values) != 4 or any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, dtype=np.float64) for value in values)
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return scale, beta - mean * scale


def fold_batch_normalization(graph: Graph) -> None:
    """Conv or Gemm with constant weights, read only by a BatchNormalization, take its scale and shift."""
    for node in list(graph.nodes):
        if node.op not in ("Conv", "Gemm") or node.activation is not None:
            continue
        reader = only_reader(graph, node.outputs[0])
        if reader is None or reader.op != "BatchNormalization" or reader.inputs[0] != node.outputs[0]:
            continue
        if reader.attrs.get("training_mode", 0) or any(reader.has_output(position) for position in range(1, 5)):
            continue
        normal = scale_and_shift(reader, graph)
        if normal is not None and _scale_weights(node, graph, *normal):
            absorb(graph, node, reader)


def _scale_weights(node: Node, graph: Graph, scale: Array, shift: Array) -> bool:
    weights = graph.constant(node.inputs[1])
    bias = graph.constant(node.input(2))
    if weights is None or (node.input(2) and bias is None):
        return False
    if node.op == "Conv":
        axis, old = 0, np.zeros(weights.shape[0]) if bias is None else bias.astype(np.float64)
    else:
        axis = 0 if node.attrs.get("transB", 0) else 1
        columns = weights.shape[axis]
        old = np.zeros(columns) if bias is None else node.attrs.get("beta", 1.0) * bias.astype(np.float64)
        node.attrs["beta"] = 1.0
    along = [1] * weights.ndim
    along[axis] = -1
    scaled = weights.astype(np.float64) * scale.reshape(along)
    # A Gemm's bias may be (m, n), (m, 1), (n) or a scalar: its last axis is the channel in every case.
    moved = old * scale + shift
    base = node.name
    node.inputs = [
        node.inputs[0],
        graph.add_constant(f"{base}.weight.folded", scaled.astype(weights.dtype)),
        graph.add_constant(f"{base}.bias.folded", moved.astype(weights.dtype)),
    ]
    return True

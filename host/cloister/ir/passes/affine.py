# SPDX-License-Identifier: BSD-2-Clause
"""Folding of per-channel scales and shifts into the weights of the Conv or Gemm before them.

BatchNormalization in inference is one such; others are Mul, Add, Sub and Div by constants, as some exporters write
a bias or an unfolded normalisation. All arithmetic is float64, rounded once.
"""

from __future__ import annotations

import numpy as np

from cloister.ir.graph import Array, Graph, Node
from cloister.ir.passes.edit import absorb, only_reader


def fold_affine(graph: Graph) -> None:
    """Conv or Gemm with constant weights takes over what scales and shifts only their result."""
    for node in list(graph.nodes):
        if node.op not in ("Conv", "Gemm") or node.activation is not None:
            continue
        while (reader := only_reader(graph, node.outputs[0])) is not None:
            normal = scale_and_shift(reader, graph, node.outputs[0])
            if normal is None or not _scale_weights(node, graph, *normal):
                break
            absorb(graph, node, reader)


def scale_and_shift(node: Node, graph: Graph, name: str) -> tuple[Array, Array] | None:
    """``node`` as y = scale * x + shift of its input ``name`` for each channel (axis 1); None where it is not that."""
    channels = graph.shape(name)[1]
    if node.op == "BatchNormalization":
        return _batch_normalization(node, graph, name)
    if node.op not in ("Mul", "Add", "Sub", "Div") or graph.shape(node.outputs[0]) != graph.shape(name):
        return None
    left = node.inputs[0] == name
    constant = graph.constant(node.inputs[1 if left else 0])
    if constant is None:
        return None
    value = _channel_values(constant, graph.rank(name), channels)
    if value is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op == "Add":
        return one, value
    if node.op == "Mul":
        return value, zero
    if node.op == "Sub":
        return (one, -value) if left else (-one, value)
    if left and np.all(value != 0):
        return one / value, zero
    return None


def _channel_values(constant: Array, rank: int, channels: int) -> Array | None:
    """A constant that broadcasts over all axes but the channels', as float64 (channels,)."""
    if constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,)).astype(np.float64)


def _batch_normalization(node: Node, graph: Graph, name: str) -> tuple[Array, Array] | None:
    if node.inputs[0] != name or node.attrs.get("training_mode", 0):
        return None
    if any(node.has_output(position) for position in range(1, 5)):
        return None
    values = [graph.constant(parameter) for parameter in node.inputs[1:5]]
    if len(values) != 4 or any(value is None for value in values):
        return None
    gamma, beta, mean, variance = (np.asarray(value, dtype=np.float64) for value in values)
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return scale, beta - mean * scale


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
    node.inputs = [
        node.inputs[0],
        graph.add_constant(f"{node.name}.weight.folded", scaled.astype(weights.dtype)),
        graph.add_constant(f"{node.name}.bias.folded", moved.astype(weights.dtype)),
    ]
    return True

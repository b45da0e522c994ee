# SPDX-License-Identifier: BSD-2-Clause
"""Dequantisation sinks through operators that only move or choose elements, so that these move bytes."""

from __future__ import annotations

import numpy as np

from cloister.ir.graph import Graph, Node
from cloister.ir.passes.quant_sign import fresh, point
from cloister.ir.qdq import DEQUANTIZE, affine_of
from cloister.ir.quantised import Affine, Finish
from cloister.ops.base import find

#: Every element of the result is an element of the first input.
MOVERS = frozenset(
    {
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)


def sink_dequantize(graph: Graph) -> None:
    """Moves every DequantizeLinear behind the movers that read its result; also behind Concat of equal scales."""
    sources = dequantised(graph)
    at = 0
    while at < len(graph.nodes):
        node = graph.nodes[at]
        at += 1
        if node.op == "Concat":
            inputs = list(node.inputs)
        elif node.op in MOVERS or is_zero_pad(node, graph):
            inputs = node.inputs[:1]
        else:
            continue
        found = [sources.get(name) for name in inputs]
        if None in found or len({affine for _, affine in filter(None, found)}) != 1 or not checked(node, graph):
            continue
        affine = next(affine for _, affine in filter(None, found))
        node.inputs = [*(name for name, _ in filter(None, found)), *node.inputs[len(inputs) :]]
        if node.op == "MaxPool":
            node.op = "int8::MaxPool"
            node.attrs = {**node.attrs, "in": affine, "finish": Finish(affine)}
            node.outputs = node.outputs[:1]
        elif node.op == "Pad":
            zero = graph.add_constant(f"{node.name}.value", np.array(affine.zero, np.int8))
            node.inputs = [node.inputs[0], node.input(1), zero, *node.inputs[3:]]
        for position, name in enumerate(node.outputs):
            if name:
                quantised = fresh(graph, f"{name}.s8", graph.tensors[name].shape)
                node.outputs[position] = quantised
                graph.nodes.insert(at, dequantize(graph, node, quantised, name, affine))
                sources[name] = (quantised, affine)
                at += 1


def dequantised(graph: Graph) -> dict[str, tuple[str, Affine]]:
    """For every result of a DequantizeLinear of int8: what it dequantises, and how."""
    found = {}
    for node in graph.nodes:
        affine = affine_of(node, graph) if node.op == DEQUANTIZE else None
        if affine is not None and graph.dtype(node.inputs[0]) == np.int8:
            found[node.outputs[0]] = (node.inputs[0], affine)
    return found


def dequantize(graph: Graph, origin: Node, source: str, target: str, affine: Affine) -> Node:
    """A DequantizeLinear of int8."""
    node = Node(DEQUANTIZE, f"{origin.name}.dequantize", [source], [target], index=origin.index)
    point(graph, node, affine)
    return node


def checked(node: Node, graph: Graph) -> bool:
    """The float operator is one that can be lowered, shapes included; what is not stays for the check to name."""
    operator = find(node.op)
    names = [name for name in (*node.inputs, *node.outputs) if name]
    tensors = [graph.tensors[name] for name in names]
    if operator is None or any(
        tensor.dtype is None or not tensor.shape or any(size < 1 for size in tensor.shape)
        for tensor in tensors
        if not tensor.is_constant
    ):
        return False
    try:
        return not operator.check(node, graph)
    except (ValueError, KeyError, TypeError, IndexError):
        return False


def is_zero_pad(node: Node, graph: Graph) -> bool:
    """A Pad which adds zeros; they are the zero point exactly. Only since opset 11 is the value an input."""
    if node.op != "Pad" or graph.opset < 11:
        return False
    value = graph.constant(node.input(2))
    absent = not node.input(2)
    return absent or (value is not None and not np.any(value))

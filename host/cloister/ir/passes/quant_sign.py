# SPDX-License-Identifier: BSD-2-Clause
"""Unsigned quantised tensors become signed ones: q - 128 with zero point - 128 means the same."""

from __future__ import annotations

import numpy as np

from cloister.ir.graph import Array, Graph, Node, Shape, Tensor
from cloister.ir.passes.edit import replace_uses
from cloister.ir.qdq import DEQUANTIZE, QUANTIZE, affine_of, quantised_name
from cloister.ir.quantised import Affine

#: Unsigned and signed values of the same meaning differ in their highest bit; by the value's unsigned byte.
FLIP = (np.arange(256, dtype=np.uint8) ^ 0x80).view(np.int8)


def fresh(graph: Graph, base: str, shape: Shape | None, dtype: type[np.generic] = np.int8) -> str:
    """Adds a run-time tensor named after ``base``; returns its name."""
    name, count = base, 0
    while name in graph.tensors:
        count += 1
        name = f"{base}_{count}"
    graph.tensors[name] = Tensor(name, shape, np.dtype(dtype))
    return name


def point(graph: Graph, node: Node, affine: Affine) -> None:
    """Gives a (De)QuantizeLinear the scale and the zero point of int8."""
    scale = graph.add_constant(f"{node.name}.scale", np.array(affine.scale, np.float32))
    zero = graph.add_constant(f"{node.name}.zero", np.array(affine.zero, np.int8))
    node.inputs = [node.inputs[0], scale, zero]


def merge_duplicates(graph: Graph) -> None:
    """Of nodes that quantise or dequantise the same tensor the same way, one stays (outputs of the graph aside)."""
    seen: dict[object, Node] = {}
    for node in list(graph.nodes):
        affine = affine_of(node, graph) if node.op in (QUANTIZE, DEQUANTIZE) else None
        if affine is None:
            continue
        kind = graph.tensors[quantised_name(node)].dtype
        first = seen.setdefault((node.op, node.inputs[0], affine, kind), node)
        if first is not node and node.outputs[0] not in graph.outputs:
            replace_uses(graph, node.outputs[0], first.outputs[0])
            graph.nodes.remove(node)


def make_signed(graph: Graph) -> None:
    """Retypes every unsigned tensor between QuantizeLinear and DequantizeLinear.

    Where an unsigned tensor enters or leaves the graph, or another operator reads or makes it, a table converts it.
    """
    signed: dict[str, str] = {}
    for node in list(graph.nodes):
        affine = affine_of(node, graph) if node.op in (QUANTIZE, DEQUANTIZE) else None
        name = quantised_name(node) if affine is not None else ""
        if affine is None or graph.is_constant(name) or (graph.dtype(name) != np.uint8 and name not in signed):
            continue
        at = graph.nodes.index(node)
        if node.op == QUANTIZE:
            signed[name] = fresh(graph, f"{name}.s8", graph.tensors[name].shape)
            point(graph, node, affine)
            node.outputs[0] = signed[name]
            graph.nodes.insert(at + 1, table(node, signed[name], name, FLIP))
        else:
            if name not in signed:
                signed[name] = fresh(graph, f"{name}.s8", graph.tensors[name].shape)
                graph.nodes.insert(at, table(node, name, signed[name], FLIP))
            node.inputs[0] = signed[name]
            point(graph, node, affine)


def table(origin: Node, source: str, target: str, values: Array) -> Node:
    """A node that looks every element of ``source`` up."""
    return Node("int8::Table", f"{origin.name}.table", [source], [target], {"table": values}, origin.index)

# SPDX-License-Identifier: BSD-2-Clause
"""What is in an ONNX model and what of it is supported, without compiling it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloister.ir.check import check_graph
from cloister.ir.graph import Graph, Problem
from cloister.ir.importer import import_onnx
from cloister.ir.load import ModelSource
from cloister.ir.passes.pipeline import clean
from cloister.ops.base import find


@dataclass(frozen=True)
class OperatorRow:
    """One operator: how often it occurs, whether it is supported at all, and its multiply-accumulates (if known)."""

    operator: str
    count: int
    supported: bool
    macs: int | None


@dataclass(frozen=True)
class Survey:
    """Facts of a model after constant folding; inputs and outputs are dictionaries of name, dtype and shape."""

    opset: int
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    parameters: int
    macs: int | None
    operators: list[OperatorRow]
    problems: list[Problem]
    notes: list[str]


def survey(source: ModelSource, dims: Mapping[str, int] | None = None) -> Survey:
    """Looks at a model; what is not supported is listed, not raised.

    Raises:
        FormatError: no valid ONNX model.
        ModelError: ``dims`` names what the model does not have.
        UnsupportedModelError: the opset is too old, or constants are sparse.
    """
    imported = import_onnx(source, dims)
    graph = imported.graph
    clean(graph)
    problems = [*imported.problems, *check_graph(graph)]
    rows = []
    for operator, count in sorted(Counter(node.op for node in graph.nodes).items()):
        rows.append(OperatorRow(operator, count, find(operator) is not None, _macs(graph, operator)))
    known = [row.macs for row in rows]
    macs = None if any(value is None for value in known) else sum(value for value in known if value is not None)
    read = {name for node in graph.nodes for name in node.inputs if graph.is_constant(name)}
    parameters = sum(tensor.data.size for name in read if (tensor := graph.tensors[name]).data is not None)
    inputs, outputs = (_describe(graph, names) for names in (graph.inputs, graph.outputs))
    return Survey(graph.opset, inputs, outputs, parameters, macs, rows, problems, graph.notes)


def _macs(graph: Graph, name: str) -> int | None:
    operator = find(name)
    if operator is None:
        return None
    try:
        return sum(operator.cost(node, graph).macs for node in graph.nodes if node.op == name)
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _describe(graph: Graph, names: list[str]) -> list[dict[str, Any]]:
    found = []
    for name in names:
        tensor = graph.tensors[name]
        shape = None if tensor.shape is None else [dim if dim >= 0 else "?" for dim in tensor.shape]
        found.append({"name": name, "dtype": "unknown" if tensor.dtype is None else tensor.dtype.name, "shape": shape})
    return found

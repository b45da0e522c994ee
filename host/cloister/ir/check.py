# SPDX-License-Identifier: BSD-2-Clause
"""Everything that stands against compiling a graph, found at once."""

from __future__ import annotations

from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.base import RUNTIME_DTYPES, find
from cloister.wire import C


def check_graph(graph: Graph) -> list[Problem]:
    """Problems of inputs, outputs and all nodes: operators, attributes, element types, shapes."""
    problems: list[Problem] = []
    for kind, names in (("input", graph.inputs), ("output", graph.outputs)):
        if len(names) > C.CL_MAX_IO:
            reason = f"at most {C.CL_MAX_IO} {kind}s are supported"
            problems.append(Problem("the model", "", reason, f"number of {kind}s", len(names)))
    if not graph.outputs:
        problems.append(Problem("the model", "", "it has no output"))
    for name in graph.inputs:
        problems += [
            Problem(f"input {name!r}", "", reason, what, value) for what, value, reason in _tensor(graph, name)
        ]
    for name in graph.outputs:
        # An output that constant folding has settled still has to leave the engine.
        if graph.is_constant(name):
            problems += [
                Problem(f"output {name!r}", "", reason, what, value) for what, value, reason in _facts(graph, name)
            ]
    for node in graph.nodes:
        problems += _check_node(node, graph)
    return problems


def _check_node(node: Node, graph: Graph) -> list[Problem]:
    operator = find(node.op)
    if operator is None:
        return [Problem(node.name, node.op, "this operator is not supported")]
    if graph.opset < operator.since:
        return [operator.problem(node, f"supported since opset {operator.since}", "opset", graph.opset)]
    inputs_known = all(_static(graph, name) for name in node.inputs if name)
    problems = []
    for name in node.outputs:
        # What follows from an unknown input is told there, once.
        if name and inputs_known:
            for what, value, reason in _tensor(graph, name):
                problems.append(operator.problem(node, reason, f"{what} of output {name!r}", value))
    if problems or not inputs_known or not all(_static(graph, name) for name in node.outputs if name):
        return problems
    try:
        return operator.check(node, graph)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return [operator.problem(node, f"cannot be understood: {error}")]


def _static(graph: Graph, name: str) -> bool:
    tensor = graph.tensors[name]
    return tensor.dtype is not None and tensor.shape is not None and all(dim >= 0 for dim in tensor.shape)


def _tensor(graph: Graph, name: str) -> list[tuple[str, object, str]]:
    """(what, value, reason) of everything wrong with a run-time tensor; nothing for a constant."""
    return [] if graph.is_constant(name) else _facts(graph, name)


def _facts(graph: Graph, name: str) -> list[tuple[str, object, str]]:
    tensor = graph.tensors[name]
    found: list[tuple[str, object, str]] = []
    if tensor.dtype is None or tensor.dtype.name not in RUNTIME_DTYPES:
        kind = "unknown" if tensor.dtype is None else tensor.dtype.name
        reason = f"supported at run time: {', '.join(RUNTIME_DTYPES)}; export the model in float32"
        found.append(("dtype", kind, reason))
    if tensor.shape is None:
        found.append(("shape", "unknown", "shapes must be static; fix free dimensions of the inputs with --dim"))
    elif any(dim < 0 for dim in tensor.shape):
        shape = tuple("?" if dim < 0 else dim for dim in tensor.shape)
        found.append(("shape", shape, "shapes must be static; fix free dimensions of the inputs with --dim"))
    elif 0 in tensor.shape:
        found.append(("shape", tensor.shape, "empty tensors are not supported"))
    elif len(tensor.shape) > C.CL_MAX_RANK:
        found.append(("rank", len(tensor.shape), f"at most {C.CL_MAX_RANK} dimensions are supported"))
    return found

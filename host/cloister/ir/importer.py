# SPDX-License-Identifier: BSD-2-Clause
"""ONNX model to :class:`~cloister.ir.graph.Graph`: fixed shapes, constants folded, problems collected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from cloister.errors import UnsupportedModelError
from cloister.ir.fold import fold_constants
from cloister.ir.graph import Array, Graph, Node, Problem, Tensor
from cloister.ir.load import ModelSource, fix_dims, fix_inputs, load_model, model_problems, opset_of


@dataclass
class Imported:
    """A graph, the model it came from (shapes fixed, not folded), and what was found wrong so far."""

    graph: Graph
    model: onnx.ModelProto = field(repr=False)
    problems: list[Problem] = field(default_factory=list)


def import_onnx(
    source: ModelSource,
    dims: Mapping[str, int] | None = None,
    fixed_inputs: Mapping[str, Array] | None = None,
) -> Imported:
    """Reads an ONNX model.

    Args:
        source: path, serialized bytes, or ModelProto (not changed).
        dims: sizes of free dimensions by symbolic name or "input:axis"; a free first dimension defaults to 1.
        fixed_inputs: inputs that become constants, by name.

    Raises:
        FormatError: no valid ONNX model, or contradicting shapes.
        ModelError: ``dims`` or ``fixed_inputs`` name what the model does not have.
        UnsupportedModelError: the opset is too old, or constants are sparse.
    """
    model = load_model(source)
    raise_problems(model_problems(model))
    fix_inputs(model, fixed_inputs or {})
    notes, problems = fix_dims(model, dims or {})
    shaped = onnx.ModelProto()
    shaped.CopyFrom(model)
    positions = {str(name): index for index, node in enumerate(model.graph.node) for name in node.output if name}
    constants, known, origins = fold_constants(model)
    tensors: dict[str, Tensor] = {}
    for name, value in constants.items():
        tensors[name] = Tensor(name, tuple(value.shape), value.dtype, value, origins.get(name))
    nodes = []
    for proto in model.graph.node:
        index = next((positions[str(name)] for name in proto.output if name), 0)
        nodes.append(_node(proto, index, problems))
    graph = Graph(
        nodes,
        tensors,
        [str(info.name) for info in model.graph.input],
        [str(info.name) for info in model.graph.output],
        opset_of(model),
        str(model.graph.name) or "model",
        notes,
    )
    for info in model.graph.input:
        if not info.type.HasField("tensor_type"):
            kind = info.type.WhichOneof("value") or "untyped"
            problems.append(Problem(f"input {info.name!r}", "", "only tensors are supported", "type", kind))
    for name in {*graph.inputs, *graph.outputs, *(name for node in nodes for name in (*node.inputs, *node.outputs))}:
        if name and name not in tensors:
            shape, element = known.get(name, (None, 0))
            tensors[name] = Tensor(name, shape, _dtype(element))
    return Imported(graph, shaped, problems)


def raise_problems(problems: list[Problem]) -> None:
    """Raises one UnsupportedModelError that lists all problems, if there are any."""
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in dict.fromkeys(map(str, problems)))
        count = len(set(map(str, problems)))
        raise UnsupportedModelError(
            f"the model cannot be compiled, {count} problem{'s' if count > 1 else ''}:\n{lines}",
            "change the named nodes or export the model differently; `cloister inspect` lists what is supported",
        )


def _dtype(element: int) -> np.dtype[Any] | None:
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
    except (KeyError, ValueError, TypeError):
        return None


def _node(proto: onnx.NodeProto, index: int, problems: list[Problem]) -> Node:
    foreign = proto.domain not in ("", "ai.onnx")
    operator = f"{proto.domain}::{proto.op_type}" if foreign else str(proto.op_type)
    name = str(proto.name) or f"{proto.op_type}_{index}"
    attrs: dict[str, Any] = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.HasField("g") or attribute.graphs:
            problems.append(Problem(name, operator, "control flow and subgraphs are not supported", attribute.name))
            continue
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            problems.append(Problem(name, operator, "sparse tensors are not supported", attribute.name))
            continue
        attrs[str(attribute.name)] = _value(value)
    return Node(operator, name, [str(item) for item in proto.input], [str(item) for item in proto.output], attrs, index)


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, int | float | str):
        return value
    return [_value(item) for item in value]

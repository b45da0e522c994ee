# SPDX-License-Identifier: BSD-2-Clause
"""The official ONNX node cases, made ready for a compiler that fixes all shapes.

The ``onnx`` package carries one model of (mostly) one node for each case, with inputs and expected outputs. There,
every input of the operator is an input of the graph, also those that a trained network holds as constants: weights, and
inputs that determine shapes. :func:`node_cases` makes these (:data:`CONSTANT_INPUTS`) initializers, with the value
from the case's own data, fixes every shape from the data as well, and changes nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]

#: Positions of the inputs that become constants, by operator.
CONSTANT_INPUTS: dict[str, tuple[int, ...]] = {
    # They determine the shape of the output.
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    # They choose what the node does.
    "Dropout": (1, 2),
    "Gather": (1,),
    # A trained network's weights.
    "BatchNormalization": (1, 2, 3, 4),
    "Conv": (1, 2),
    "Gemm": (1, 2),
    # A quantised network's scales.
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
}

#: Input of a case that has none of its own at run time: a sealed model takes at least one. Nothing reads it.
UNUSED = "unused"


@dataclass(frozen=True, eq=False)
class NodeCase:
    """One official case.

    Attributes:
        name: as ONNX calls it, ``test_...``.
        operators: of all nodes, sorted, each once; with the domain in front where it is not ONNX's own.
        model: the case's model with constants and shapes fixed.
        inputs: run-time inputs by name.
        expected: outputs by name, in the model's order.
        fixed: names of the inputs that became constants.
        rtol: relative tolerance of the official runner for this case.
        atol: absolute tolerance.
    """

    name: str
    operators: tuple[str, ...]
    model: onnx.ModelProto = field(repr=False)
    inputs: dict[str, Any] = field(repr=False)
    expected: dict[str, Any] = field(repr=False)
    fixed: tuple[str, ...] = ()
    rtol: float = 1e-3
    atol: float = 1e-7

    def compare(self, outputs: dict[str, Array]) -> None:
        """Holds outputs against the expected ones, as the official runner does.

        Raises:
            AssertionError: an output is missing, or differs in shape, dtype or value.
        """
        assert list(outputs) == list(self.expected), f"outputs {list(outputs)}, expected {list(self.expected)}"
        for name, expected in self.expected.items():
            output = outputs[name]
            np.testing.assert_equal(output.shape, expected.shape, err_msg=f"shape of {name}")
            np.testing.assert_equal(output.dtype, expected.dtype, err_msg=f"dtype of {name}")
            np.testing.assert_allclose(output, expected, rtol=self.rtol, atol=self.atol, err_msg=name)


def _graph_operators(nodes: Any) -> Iterator[str]:
    for node in nodes:
        domain = node.domain if node.domain not in ("", "ai.onnx") else ""
        yield f"{domain}::{node.op_type}" if domain else str(node.op_type)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _graph_operators(graph.node)


def _constants(model: onnx.ModelProto) -> set[str]:
    names = set()
    for node in model.graph.node:
        for position in CONSTANT_INPUTS.get(node.op_type, ()) if not node.domain else ():
            if position < len(node.input) and node.input[position]:
                names.add(str(node.input[position]))
    return names


def _as_array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _prepare(case: Any) -> NodeCase:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    given, wanted = case.data_sets[0]
    constants = _constants(model)
    inputs: dict[str, Any] = {}
    kept = []
    for info, value in zip(list(model.graph.input), given, strict=True):
        array = _as_array(value)
        # Sequences, optionals and strings stay as they are: the compiler refuses them and says why.
        plain = isinstance(array, np.ndarray) and array.dtype != object
        if plain and info.name in constants:
            tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(array)
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = info.name
            continue
        if plain and info.type.HasField("tensor_type"):
            shape = info.type.tensor_type.shape
            shape.Clear()
            for size in array.shape:
                shape.dim.add().dim_value = size
        inputs[info.name] = array
        kept.append(info)
    fixed = tuple(info.name for info in case.model.graph.input if info.name not in inputs)
    if not kept:
        kept.append(onnx.helper.make_tensor_value_info(UNUSED, onnx.TensorProto.FLOAT, [1]))
        inputs[UNUSED] = np.zeros(1, np.float32)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    expected = {info.name: _as_array(value) for info, value in zip(model.graph.output, wanted, strict=True)}
    functions = [node for function in model.functions for node in function.node]
    names = tuple(sorted({*_graph_operators(model.graph.node), *_graph_operators(functions)}))
    return NodeCase(case.name, names, model, inputs, expected, fixed, case.rtol, case.atol)


@cache
def node_cases() -> tuple[NodeCase, ...]:
    """All node cases that the installed ``onnx`` package carries, in its own order (made once, in a few seconds)."""
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        # The package computes infinities and NaN on purpose in the cases of operators such as Cast.
        warnings.simplefilter("ignore")
        return tuple(_prepare(case) for case in loader.load_model_tests(kind="node"))


def cases_of(supported: set[str]) -> list[NodeCase]:
    """The node cases whose operators are all in ``supported``."""
    return [case for case in node_cases() if supported.issuperset(case.operators)]

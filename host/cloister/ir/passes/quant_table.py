# SPDX-License-Identifier: BSD-2-Clause
"""Functions of one 8-bit value become tables: all that is element-wise from one quantised tensor to another.

QuantizeLinear and DequantizeLinear inside such a chain are element-wise functions themselves, so a table holds exactly
what the chain computes for each of the 256 values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from cloister.ir.graph import Array, Graph, Node
from cloister.ir.passes.edit import replace_uses
from cloister.ir.passes.quant_sign import table
from cloister.ir.qdq import DEQUANTIZE, QUANTIZE, affine_of

#: y[i] depends on x[i] alone; other inputs are constants of one element.
ELEMENTWISE = frozenset(
    (
        "Abs",
        "Add",
        "Ceil",
        "Celu",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Log",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
    )
)

#: All int8 values, by their unsigned byte.
VALUES = np.arange(256, dtype=np.uint8).view(np.int8)

#: The tensor that a function is of, and what it gives for each of VALUES.
Function = tuple[str, Array]


def make_tables(graph: Graph) -> None:
    """Replaces every QuantizeLinear whose operand is such a function by a table, or by the tensor itself."""
    finder = _Finder(graph)
    for position, node in enumerate(list(graph.nodes)):
        function = finder.quantised(node.outputs[0]) if node.op == QUANTIZE else None
        if function is None or function[0] == node.outputs[0]:
            continue
        source, values = function
        if np.array_equal(values, VALUES):
            replace_uses(graph, node.outputs[0], source)
            graph.nodes[position] = Node("Identity", node.name, [source], node.outputs, index=node.index)
        else:
            graph.nodes[position] = table(node, source, node.outputs[0], values)


class _Finder:
    """Looks back from a tensor; results are kept by the names that the tensors had at first."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._producers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._quantised: dict[str, Function] = {}
        self._real: dict[str, Function | None] = {}

    def quantised(self, name: str) -> Function:
        """An int8 tensor as a function of another one, in the end of itself."""
        if name not in self._quantised:
            self._quantised[name] = (name, VALUES)
            node = self._producers.get(name)
            if node is not None and node.op == QUANTIZE and self._graph.dtype(name) == np.int8:
                affine = affine_of(node, self._graph)
                operand = self.real(node.inputs[0])
                if affine is not None and operand is not None:
                    self._quantised[name] = (operand[0], affine.quantised(operand[1]))
        return self._quantised[name]

    def real(self, name: str) -> Function | None:
        """A float tensor as a function of one int8 tensor; None where it is not that."""
        if name not in self._real:
            self._real[name] = None
            node = self._producers.get(name)
            if node is not None and node.op == DEQUANTIZE and self._graph.dtype(node.inputs[0]) == np.int8:
                affine = affine_of(node, self._graph)
                if affine is not None:
                    source, values = self.quantised(node.inputs[0])
                    self._real[name] = (source, affine.real(values))
            elif node is not None and node.op in ELEMENTWISE and len(node.outputs) == 1:
                self._real[name] = self._applied(node)
        return self._real[name]

    def _applied(self, node: Node) -> Function | None:
        graph = self._graph
        shape = graph.tensors[node.outputs[0]].shape
        source = ""
        values: dict[str, Array] = {}
        for name in filter(None, node.inputs):
            constant = graph.constant(name)
            if constant is not None:
                if constant.size != 1:
                    return None
                values[name] = constant.reshape(())
                continue
            operand = self.real(name)
            if operand is None or graph.tensors[name].shape != shape or source not in ("", operand[0]):
                return None
            source = operand[0]
            values[name] = operand[1]
        result = _evaluate(node, values, graph.opset) if source else None
        return None if result is None else (source, result)


def _evaluate(node: Node, values: dict[str, Array], opset: int) -> Array | None:
    """The node's result for all values, computed by ONNX's reference; None where that cannot."""
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape))
        for name, value in values.items()
    ]
    proto = onnx.helper.make_node(node.op, node.inputs, ["result"], **_plain(node))
    graph = onnx.helper.make_graph([proto], "table", infos, [onnx.ValueInfoProto(name="result")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, values)
    except Exception:
        # What the reference cannot do is left to the engine's own float kernels.
        return None
    result = np.asarray(results[0])  # type: ignore[index]
    return result if result.shape == (256,) and result.dtype == np.float32 else None


def _plain(node: Node) -> dict[str, Any]:
    return {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attrs.items()
    }

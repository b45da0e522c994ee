# SPDX-License-Identifier: BSD-2-Clause
"""QDQ models for the calibration: every tensor of a float model gets a scale, whether it means anything or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: What an activation that follows is fused into.
_FUSED = ("Relu", "Clip")
_SCALE = 0.05


def quantised(model: onnx.ModelProto, weights: str = "normal") -> onnx.ModelProto:
    """A float model in 8 bits, as static quantisers write it.

    Args:
        weights: `normal` as they are, `uniform` with all magnitudes alike, `full` with a -128 among them: the engine
            has a way of its own for each.
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = _Maker()
    current = {value.name: made.pair(value.name) for value in graph.input}
    for index, node in enumerate(graph.node):
        inputs = []
        for place, name in enumerate(node.input):
            if name in current:
                inputs.append(current[name])
            elif node.op_type in ("Conv", "Gemm", "Add", "Mul") and place == 1:
                inputs.append(made.weights(name, constants[name], weights))
            elif node.op_type in ("Conv", "Gemm") and place == 2:
                inputs.append(made.bias(name, constants[name]))
            else:
                inputs.append(made.keep(name, constants[name]))
        copied = helper.make_node(node.op_type, inputs, list(node.output), name=node.name)
        copied.attribute.extend(node.attribute)
        made.nodes.append(copied)
        follower = graph.node[index + 1] if index + 1 < len(graph.node) else None
        fused = follower is not None and follower.op_type in _FUSED
        current[node.output[0]] = node.output[0] if fused else made.pair(node.output[0])
    result = helper.make_tensor_value_info("result", onnx.TensorProto.FLOAT, None)
    result.CopyFrom(graph.output[0])
    result.name = current[graph.output[0].name]
    new = helper.make_graph(made.nodes, graph.name, list(graph.input), [result], made.constants)
    return helper.make_model(new, opset_imports=list(model.opset_import), ir_version=model.ir_version)


class _Maker:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def keep(self, name: str, values: np.ndarray[Any, Any]) -> str:
        if all(tensor.name != name for tensor in self.constants):
            self.constants.append(numpy_helper.from_array(values, name))
        return name

    def pair(self, name: str) -> str:
        """QuantizeLinear and DequantizeLinear behind a tensor."""
        scale = self.keep("scale", np.array(_SCALE, np.float32))
        zero = self.keep("zero", np.array(3, np.int8))
        self.nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"], name=f"{name}_q"))
        self.nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], name=f"{name}_dq")
        )
        return f"{name}_dq"

    def weights(self, name: str, values: np.ndarray[Any, Any], kind: str) -> str:
        if kind == "uniform":
            values = np.sign(values) * (np.abs(values).max() * (0.97 + 0.03 * np.cos(np.arange(values.size)))).reshape(
                values.shape
            )
        scale = np.float32(np.abs(values).max() / 127)
        small = np.rint(values / scale).clip(-127, 127).astype(np.int8)
        if kind == "full":
            small.reshape(small.shape[0], -1)[:, 0] = -128
        return self._dequantised(name, small, scale)

    def bias(self, name: str, values: np.ndarray[Any, Any]) -> str:
        scale = np.float32(_SCALE * 0.01)
        return self._dequantised(name, np.rint(values / scale).astype(np.int32), scale)

    def _dequantised(self, name: str, values: np.ndarray[Any, Any], scale: np.float32) -> str:
        stored = self.keep(f"{name}_q", values)
        factor = self.keep(f"{name}_s", np.array(scale, np.float32))
        zero = self.keep(f"{name}_z", np.array(0, values.dtype))
        self.nodes.append(
            helper.make_node("DequantizeLinear", [stored, factor, zero], [f"{name}_dq"], name=f"{name}_dq")
        )
        return f"{name}_dq"

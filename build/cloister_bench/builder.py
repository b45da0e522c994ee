# SPDX-License-Identifier: BSD-2-Clause
"""Builds ONNX models layer by layer, with seeded random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Builder:
    """A model under construction; each method adds a node and returns the name of its result.

    Weights are normal with the variance 2 / fan-in (He et al., 2015), so that activations keep their size through
    any depth. The same seed gives the same model.
    """

    def __init__(self, name: str, shape: Sequence[int], seed: int = 0) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": tuple(shape)}
        self._shape = list(shape)
        self._random = np.random.default_rng(seed)

    def constant(self, values: np.ndarray[Any, Any]) -> str:
        """A constant tensor."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def weights(self, *shape: int, fan_in: int, gain: float = 2.0) -> str:
        """Random weights."""
        values = self._random.standard_normal(shape) * np.sqrt(gain / fan_in)
        return self.constant(values.astype(np.float32))

    def node(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> str:
        """Any node, whose result has that shape."""
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op}_{len(self.nodes)}", **attributes))
        self.shapes[out] = tuple(shape)
        return out

    def conv(
        self, x: str, out: int, kernel: int, stride: int = 1, pad: int | None = None, group: int = 1, gain: float = 2.0
    ) -> str:
        """Conv with bias; padded to keep the size (divided by the stride) unless told otherwise."""
        n, channels, height, width = self.shapes[x]
        pad = kernel // 2 if pad is None else pad
        size = [(side + 2 * pad - kernel) // stride + 1 for side in (height, width)]
        fan_in = channels // group * kernel * kernel
        weights = self.weights(out, channels // group, kernel, kernel, fan_in=fan_in, gain=gain)
        bias = self.weights(out, fan_in=400)
        return self.node(
            "Conv",
            [x, weights, bias],
            [n, out, *size],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=group,
        )

    def relu(self, x: str) -> str:
        """Relu."""
        return self.node("Relu", [x], self.shapes[x])

    def relu6(self, x: str) -> str:
        """Clip from 0 to 6."""
        low, high = (self.constant(np.array(value, np.float32)) for value in (0.0, 6.0))
        return self.node("Clip", [x, low, high], self.shapes[x])

    def add(self, a: str, b: str) -> str:
        """Sum of two tensors of one shape."""
        return self.node("Add", [a, b], self.shapes[a])

    def concat(self, a: str, b: str) -> str:
        """Channels of a, then those of b."""
        n, channels, height, width = self.shapes[a]
        return self.node("Concat", [a, b], [n, channels + self.shapes[b][1], height, width], axis=1)

    def max_pool(self, x: str, kernel: int, stride: int, pad: int = 0, ceil: bool = False) -> str:
        """MaxPool."""
        n, channels, height, width = self.shapes[x]
        add = stride - 1 if ceil else 0
        size = [(side + 2 * pad - kernel + add) // stride + 1 for side in (height, width)]
        return self.node(
            "MaxPool",
            [x],
            [n, channels, *size],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            ceil_mode=int(ceil),
        )

    def global_pool(self, x: str) -> str:
        """GlobalAveragePool."""
        return self.node("GlobalAveragePool", [x], [*self.shapes[x][:2], 1, 1])

    def flatten(self, x: str) -> str:
        """All but the first dimension become one."""
        shape = self.shapes[x]
        return self.node("Flatten", [x], [shape[0], int(np.prod(shape[1:]))], axis=1)

    def gemm(self, x: str, out: int) -> str:
        """Fully connected, with bias."""
        rows, columns = self.shapes[x]
        weights = self.weights(out, columns, fan_in=columns)
        return self.node("Gemm", [x, weights, self.weights(out, fan_in=400)], [rows, out], transB=1)

    def softmax(self, x: str) -> str:
        """Softmax over the last dimension."""
        return self.node("Softmax", [x], self.shapes[x], axis=-1)

    def finish(self, result: str) -> onnx.ModelProto:
        """The model whose input is `x` and whose output is `result`, checked."""
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, list(self.shapes[result]))],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model

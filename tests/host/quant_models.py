# SPDX-License-Identifier: BSD-2-Clause
"""Quantised models for tests: single operators between DequantizeLinear and QuantizeLinear, and whole networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from onnx_models import build, engine, floats, node

from cloister.compile import CompiledModel, compile_onnx
from cloister.quantization import quantize_model

Array = np.ndarray[Any, Any]

#: Scale and zero point, of a tensor or (lists) of each channel.
Scale = tuple[Any, Any]

OFF = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
ALL = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


class Builder:
    """Collects nodes and constants of a model whose inputs and outputs are quantised tensors."""

    def __init__(self, dtype: type[np.integer[Any]] = np.int8) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.inputs: dict[str, Sequence[int]] = {}

    def scale(self, name: str, scale: Scale, dtype: Any = None) -> str:
        """Adds the constants of a scale and a zero point; returns their names. Zero points are given as for int8."""
        kind = np.dtype(dtype or self.dtype)
        shift = 128 if kind == np.uint8 else 0
        self.constants[f"{name}_scale"] = np.array(scale[0], np.float32)
        self.constants[f"{name}_zero"] = (np.array(scale[1]) + shift).astype(kind)
        return f"{name}_scale {name}_zero"

    def input(self, name: str, shape: Sequence[int], scale: Scale) -> str:
        """A quantised input; returns the name of its float value."""
        self.inputs[name] = shape
        return self.dequantize(name, scale)

    def dequantize(self, name: str, scale: Scale) -> str:
        """A DequantizeLinear; returns its result."""
        self.nodes.append(node("DequantizeLinear", f"{name} {self.scale(name, scale)}", f"{name}_f"))
        return f"{name}_f"

    def constant(self, name: str, values: Array, scale: Scale, axis: int = 0) -> str:
        """A constant as integers behind DequantizeLinear; returns its float value's name."""
        self.constants[name] = values
        self.nodes.append(
            node("DequantizeLinear", f"{name} {self.scale(name, scale, values.dtype)}", f"{name}_f", axis=axis)
        )
        return f"{name}_f"

    def add(self, op: str, inputs: str, output: str, **attrs: Any) -> str:
        """A float operator; returns its result."""
        self.nodes.append(node(op, inputs, output, name=output, **attrs))
        return output

    def quantize(self, name: str, scale: Scale, output: str = "y") -> str:
        """A QuantizeLinear; returns its result."""
        self.nodes.append(node("QuantizeLinear", f"{name} {self.scale(output, scale)}", output))
        return output

    def model(self, outputs: str = "y", opset: int = 17, floats_out: Sequence[str] = ()) -> onnx.ModelProto:
        """The model."""
        kind = TensorProto.INT8 if self.dtype == np.int8 else TensorProto.UINT8
        types = dict.fromkeys((*self.inputs, *(n for n in outputs.split() if n not in floats_out)), kind)
        return build(self.nodes, self.inputs, outputs.split(), self.constants, opset, types)

    def data(self, seed: int = 0) -> dict[str, Array]:
        """Random values of the whole range for all inputs."""
        numbers = np.random.default_rng(seed)
        info = np.iinfo(self.dtype)
        return {
            name: numbers.integers(info.min, info.max + 1, shape).astype(self.dtype)
            for name, shape in self.inputs.items()
        }


def weights(*shape: int, seed: int = 0, largest: int = 63) -> Array:
    """int8 weights; by default so small that no onnxruntime kernel saturates (its AVX2 u8s8 products can)."""
    return np.random.default_rng([seed, *shape]).integers(-largest, largest + 1, shape).astype(np.int8)


def reference(model: onnx.ModelProto, inputs: Mapping[str, Array], level: Any = OFF) -> dict[str, Array]:
    """onnxruntime's outputs; OFF: every operator by itself, as ONNX defines it; ALL: its own 8-bit kernels."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def largest_step(one: Mapping[str, Array], other: Mapping[str, Array]) -> int:
    """Largest difference of integer outputs."""
    assert list(one) == list(other)
    worst = 0
    for name, value in one.items():
        assert value.shape == other[name].shape, name
        assert value.dtype == other[name].dtype, name
        worst = max(worst, int(np.abs(value.astype(np.int64) - other[name].astype(np.int64)).max()))
    return worst


def assert_within_a_step(
    model: onnx.ModelProto, inputs: Mapping[str, Array], levels: Any = (OFF, ALL)
) -> CompiledModel:
    """The compiled model is within one step of onnxruntime; returns it."""
    compiled = compile_onnx(model)
    results = engine().run(compiled, inputs)
    for level in levels:
        assert largest_step(results, reference(model, inputs, level)) <= 1, level
    return compiled


def kernels(compiled: CompiledModel) -> list[str]:
    """The kernels that compute, in order; copies left out."""
    return [row.kernel for row in compiled.report.rows if row.kernel != "COPY"]


def network(seed: int = 0) -> onnx.ModelProto:
    """A small fp32 classifier (1, 3, 16, 16) to 10 with a residual, a depthwise, a concatenation and pools."""
    c = {
        "w1": floats(12, 3, 3, 3, seed=seed) / 5, "b1": floats(12, seed=seed),
        "w2": floats(12, 12, 3, 3, seed=seed + 1) / 10, "b2": floats(12, seed=seed + 1),
        "w3": floats(12, 1, 3, 3, seed=seed + 2) / 3, "b3": floats(12, seed=seed + 2),
        "w4": floats(20, 12, 1, 1, seed=seed + 3) / 3, "b4": floats(20, seed=seed + 3),
        "w5": floats(10, 32, seed=seed + 4) / 3, "b5": floats(10, seed=seed + 4),
    }  # fmt: skip
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "c2", pads=[1, 1, 1, 1]),
        node("Add", "c2 r1", "a2"),
        node("Relu", "a2", "r2"),
        node("MaxPool", "r2", "p2", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p2 w3 b3", "c3", group=12, pads=[1, 1, 1, 1]),
        node("Relu", "c3", "r3"),
        node("Conv", "r3 w4 b4", "c4"),
        node("Sigmoid", "c4", "s4"),
        node("Concat", "s4 p2", "k", axis=1),
        node("GlobalAveragePool", "k", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w5 b5", "y", transB=1),
    ]
    return build(nodes, {"x": [1, 3, 16, 16]}, ["y"], c)


def quantised_network(path: Path, unsigned: bool, per_channel: bool) -> tuple[onnx.ModelProto, Array]:
    """The network quantised by onnxruntime on random images, and these images."""
    images = np.random.default_rng(7).random((40, 3, 16, 16), dtype=np.float32)
    if not unsigned:
        quantize_model(network(), images, path, per_channel=per_channel)
        return onnx.load(str(path)), images
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": image[None]} for image in images]

        def get_next(self) -> dict[str, Array] | None:
            return self.left.pop() if self.left else None

    quantize_static(
        network(), path, Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return onnx.load(str(path)), images

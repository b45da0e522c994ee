# SPDX-License-Identifier: BSD-2-Clause
"""Small pairs with random weights: a backbone whose taps become ready one by one, and a CPM that merges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

IMAGE = (1, 1, 16, 16)
Array = np.ndarray[Any, Any]


def floats(*shape: int, seed: int = 0) -> Array:
    """Standard normal values, the same for the same arguments."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; tensor names are separated by blanks."""
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: Mapping[str, Array],
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of float32 tensors (others by `types`), output shapes left to inference."""

    def infos(shapes: Mapping[str, Sequence[int | str] | None]) -> list[onnx.ValueInfoProto]:
        kinds = types or {}
        return [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in shapes.items()
        ]

    graph = helper.make_graph(
        list(nodes),
        "pair",
        infos(inputs),
        infos(dict.fromkeys(outputs)),
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


def backbone(*, taps: int = 2, batch: int | str = 1) -> onnx.ModelProto:
    """LeNet-like: `image` to its own poor `logits`, and taps `tap_0` (1, 4, 8, 8), `tap_1` (1, 6, 4, 4), ..."""
    nodes = [
        node("Conv", "image w0 b0", "c0", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", "c0", "r0"),
        node("MaxPool", "r0", "tap_0", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "tap_0 w1 b1", "c1", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("AveragePool", "r1", "tap_1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "tap_1", "f"),
        node("Gemm", "f w2 b2", "logits", transB=1),
    ]
    constants = {
        "w0": floats(4, 1, 3, 3),
        "b0": floats(4),
        "w1": floats(6, 4, 3, 3, seed=1) / 3,
        "b1": floats(6),
        "w2": floats(10, 96) / 8,
        "b2": floats(10),
    }
    names = ["logits", *(f"tap_{i}" for i in range(taps))]
    return build(nodes, {"image": [batch, *IMAGE[1:]]}, names, constants)


def cpm(*, image: bool = False, shapes: tuple[tuple[int, ...], ...] = ((4, 8, 8), (6, 4, 4))) -> onnx.ModelProto:
    """Reads both taps (the later one first, as an exporter may write it), and the image too if wanted."""
    nodes = [
        node("Relu", "tap_1", "late"),
        node("Conv", "tap_0 w0 b0", "early", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "early", "early_r"),
        node("Add", "early_r late", "sum"),
        node("GlobalAveragePool", "sum", "pooled"),
        node("Flatten", "pooled", "flat"),
    ]
    constants = {
        "w0": floats(6, 4, 3, 3, seed=2) / 3,
        "b0": floats(6, seed=2),
        "w1": floats(10, 6, seed=2),
        "b1": floats(10, seed=2),
    }
    inputs: dict[str, list[int]] = {f"tap_{i}": [1, *shape] for i, shape in reversed(list(enumerate(shapes)))}
    if image:
        inputs["image"] = list(IMAGE)
        nodes += [
            node("GlobalMaxPool", "image", "brightest"),
            node("Flatten", "brightest", "bright"),
            node("Add", "flat bright", "all"),
        ]
    nodes.append(node("Gemm", f"{'all' if image else 'flat'} w1 b1", "logits", transB=1))
    return build(nodes, inputs, ["logits"], constants)


def expected(cpm_model: onnx.ModelProto, backbone_model: onnx.ModelProto, image: Array) -> Array:
    """What onnxruntime computes of both files, one sample after the other."""
    outer, inner = (
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for model in (backbone_model, cpm_model)
    )
    rows = []
    for sample in image:
        names = [info.name for info in outer.get_outputs()]
        values = dict(zip(names, outer.run(names, {"image": sample[None]}), strict=True), image=sample[None])
        rows.append(inner.run(["logits"], {info.name: values[info.name] for info in inner.get_inputs()})[0])
    return np.concatenate(rows)


def quantised(kind: str = "int8", taps: int = 2) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """CPM and backbone whose taps cross as 8-bit integers: the backbone ends with QuantizeLinear, the CPM begins with
    DequantizeLinear."""
    scales = {"s0": np.float32(0.05), "s1": np.float32(0.03)}
    zeros = {f"z{i}": np.array(-3 if kind == "int8" else 110, kind) for i in range(2)}
    types = {f"tap_{i}": TensorProto.INT8 if kind == "int8" else TensorProto.UINT8 for i in range(taps)}
    rename = {f"tap_{i}": f"real_{i}" for i in range(taps)}

    def renamed(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
        nodes = []
        for item in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(item)
            copy.input[:] = [rename.get(name, name) for name in item.input]
            copy.output[:] = [rename.get(name, name) for name in item.output]
            nodes.append(copy)
        return nodes, {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    outer, outer_constants = renamed(backbone(taps=taps))
    outer += [node("QuantizeLinear", f"real_{i} s{i} z{i}", f"tap_{i}") for i in range(taps)]
    inner, inner_constants = renamed(cpm())
    inner = [node("DequantizeLinear", f"tap_{i} s{i} z{i}", f"real_{i}") for i in range(taps)] + inner
    shared = {**{name: np.array(value) for name, value in scales.items()}, **zeros}
    inputs = {"tap_0": [1, 4, 8, 8], "tap_1": [1, 6, 4, 4]}
    return (
        build(inner, inputs, ["logits"], {**inner_constants, **shared}, types),
        build(
            outer,
            {"image": list(IMAGE)},
            ["logits", *(f"tap_{i}" for i in range(taps))],
            {**outer_constants, **shared},
            types,
        ),
    )

# SPDX-License-Identifier: BSD-2-Clause
"""Small pairs with random weights: a backbone whose taps become ready one by one, and a CPM that merges them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx_models import build, floats, node

IMAGE = (1, 1, 16, 16)


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


def expected(cpm_model: onnx.ModelProto, backbone_model: onnx.ModelProto, image: np.ndarray[Any, Any]) -> Any:
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

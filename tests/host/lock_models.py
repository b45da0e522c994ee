# SPDX-License-Identifier: BSD-2-Clause
"""A network with every kind of layer that can be locked, locks for it, and what they make of 8-bit models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx_models import build, floats, node

from cloister.password import Lock, Password


def lock(tensor: str, channels: int, seed: int = 0, scales: tuple[float, ...] = (0, -1, 1, 0.5, -2.25)) -> Lock:
    """Two thirds of the channels, with every kind of scale."""
    numbers = np.random.default_rng([seed, channels])
    chosen = np.sort(numbers.permutation(channels)[: max(1, channels * 2 // 3)]).astype(np.uint16)
    return Lock(
        tensor,
        chosen,
        numbers.choice(np.array(scales, np.float32), len(chosen)),
        numbers.standard_normal(len(chosen)).astype(np.float32),
    )


def network(biased: bool = False) -> onnx.ModelProto:
    """Every kind of float layer: dense, grouped, depthwise (``biased`` or not), strided, 1x1, and products."""
    channels = 20
    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2" if biased else "r1 w2", "c2", pads=[1, 1, 1, 1], group=channels),
        node("Conv", "c2 w3 b3", "c3", pads=[1, 1, 1, 1], group=2),
        node("LeakyRelu", "c3", "r3"),
        node("Conv", "r3 w4", "c4", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c4 g s m v", "n4"),
        node("Relu", "n4", "r4"),
        node("Add", "r3 r4", "a"),
        node("Conv", "a w5 b5", "c5", strides=[2, 2]),
        node("Relu", "c5", "r5"),
        node("Flatten", "r5", "f"),
        node("Gemm", "f w6 b6", "d6", transB=1),
        node("Relu", "d6", "r6"),
        node("Gemm", "r6 w7 b7", "d7", alpha=0.5, beta=2.0),
        node("Tanh", "d7", "r7"),
        node("Gemm", "r7 w8 b8", "y"),
    ]
    n = channels
    constants = {
        "w1": floats(n, 3, 3, 3), "b1": floats(n), "b2": floats(n, seed=6),
        "w2": floats(n, 1, 3, 3), "w3": floats(n, n // 2, 3, 3),
        "b3": floats(n, seed=1), "w4": floats(n, n, 3, 3), "g": floats(n, seed=2), "s": floats(n, seed=3),
        "m": floats(n, seed=4), "v": np.abs(floats(n, seed=5)) + 1, "w5": floats(30, n, 1, 1), "b5": floats(30),
        "w6": floats(50, 480), "b6": floats(50), "w7": floats(50, 33), "b7": floats(33), "w8": floats(33, 10),
        "b8": floats(10),
    }  # fmt: skip
    return build(
        nodes, {"x": [1, 3, 8, 8]}, ["y"], {name: value * np.float32(0.3) for name, value in constants.items()}
    )


WIDTHS = {"c1": 20, "c2": 20, "c3": 20, "c5": 30, "d6": 50, "d7": 33}
PASSWORD = Password("test", [lock(name, count, seed) for seed, (name, count) in enumerate(WIDTHS.items())])


def apply_s8(model: onnx.ModelProto, password: Password) -> onnx.ModelProto:
    """The password in the integers of a QDQ model, as the format says: the model that the device then computes."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    producers = {name: item for item in changed.graph.node for name in item.output}
    constants = {tensor.name: tensor for tensor in changed.graph.initializer}

    def value(name: str) -> np.ndarray[Any, Any]:
        return numpy_helper.to_array(constants[name])

    def write(name: str, array: np.ndarray[Any, Any]) -> None:
        constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))

    for entry in password.locks:
        layer = producers[entry.tensor]
        weights, bias = (producers[name] for name in layer.input[1:3])
        step = value(producers[layer.input[0]].input[1]).reshape(())
        whole, shifts = value(weights.input[0]).copy(), value(bias.input[0]).copy()
        scales = value(weights.input[1])
        factors = np.ones_like(scales)
        for channel, scale, shift in zip(entry.channels, entry.scales, entry.values, strict=True):
            factors[channel] = abs(scale) or 1
            unit = np.float64(step) * np.float64(scales[channel] * factors[channel])
            whole[channel] *= np.int8(np.sign(scale))
            shifts[channel] = np.int32(np.sign(scale)) * shifts[channel] + np.rint(shift / unit).astype(np.int32)
        write(weights.input[0], whole)
        write(weights.input[1], scales * factors)
        write(bias.input[0], shifts)
        write(bias.input[1], value(bias.input[1]) * factors)
    return changed

# SPDX-License-Identifier: BSD-2-Clause
"""Weights of float models stored as 8-bit integers: the same answer as with weights rounded to them, in fewer bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import build, engine, floats, node

from cloister.compile import compile_onnx
from cloister.compile.compiler import WEIGHTS
from cloister.ir.reference import Reference

Array = np.ndarray[Any, Any]


def rounded(weights: Array, axis: int) -> Array:
    """Weights as multiples of a 127th of the largest one of their output channel."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.abs(weights).max(axis=others, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.asarray(np.rint(weights / scale) * scale, np.float32)


def model(round_to: bool) -> onnx.ModelProto:
    """Convolutions, one of them grouped, and a product; weights rounded or not."""
    constants = {
        "w1": (floats(40, 12, 3, 3), 0), "w2": (floats(24, 20, 5, 5, seed=1), 0),
        "w3": (floats(384, 61, seed=2), 1), "w4": (floats(9, 12, 1, 1, seed=3), 0),
    }  # fmt: skip
    constants["w1"][0][3] = 0  # a channel of zeros has no scale of its own
    values = {name: rounded(value, axis) if round_to else value for name, (value, axis) in constants.items()}
    nodes = [
        node("Conv", "x w1 b", "a", pads=[1, 1, 1, 1]),
        node("Relu", "a", "r"),
        node("Conv", "r w2", "c", group=2),
        node("Flatten", "c", "f"),
        node("MatMul", "f w3", "y"),
        node("Conv", "x w4", "z"),
    ]
    return build(nodes, {"x": [1, 12, 8, 8]}, ["y", "z"], {**values, "b": floats(40)})


@pytest.mark.parametrize("limit", [1 << 20, 30_000, 12_000])
def test_the_answer_is_that_of_rounded_weights(limit: int) -> None:
    compiled = compile_onnx(model(False), weights="int8", max_partition=limit, winograd=False)
    found = {row.kernel for row in compiled.report.rows}
    assert {"DEQUANTIZE", "CONV2D", "GEMM"} <= found
    x = {"x": floats(1, 12, 8, 8, seed=7)}
    results, wanted = engine().run(compiled, x), Reference(model(True)).run(x)
    # z's weights are few and stay float32.
    wanted["z"] = Reference(model(False)).run(x)["z"]
    for name, value in wanted.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), err_msg=name)
    assert limit != 30_000 or max(map(len, compiled.partitions)) <= limit


def test_a_quarter_of_the_bytes() -> None:
    sizes = [sum(map(len, compile_onnx(model(False), weights=weights).partitions)) for weights in WEIGHTS]
    assert sizes[1] < 0.4 * sizes[0]


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (compile_onnx(model(False), weights="int8") for _ in range(2))
    assert first.partitions == second.partitions


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="float32 or int8"):
        compile_onnx(model(False), weights="int4")

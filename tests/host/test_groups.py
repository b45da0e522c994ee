# SPDX-License-Identifier: BSD-2-Clause
"""Grouped and depthwise convolutions whose weights exceed a partition: cut by groups, and within a group by columns."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import assert_matches, build, engine, floats, kernels, node
from quant_models import Builder, weights

from cloister.compile import compile_onnx

#: in and out channels, groups, kernel, limit of a partition.
CASES = {
    "few groups in a part": (24, 48, 8, 3, 4000),
    "an odd number of parts": (21, 35, 7, 3, 4000),
    "a group in columns": (32, 64, 2, 3, 6000),
    "depthwise": (64, 64, 64, 5, 3000),
    "two results of a channel": (16, 32, 16, 5, 3000),
}


@pytest.mark.parametrize("name", CASES)
def test_a_grouped_convolution_is_cut_by_groups(name: str) -> None:
    into, out, group, size, limit = CASES[name]
    weights, bias = floats(out, into // group, size, size) * np.float32(0.2), floats(out)
    pads = [size // 2] * 4
    model = build(
        [node("Conv", "x w b", "1", group=group, pads=pads, strides=[2, 1]), node("Relu", "1", "y")],
        {"x": [2, into, 9, 7]},
        ["y"],
        {"w": weights, "b": bias},
    )
    made = assert_matches(model, {"x": floats(2, into, 9, 7)}, max_partition=limit)
    kernel = "DEPTHWISE" if name == "depthwise" else "CONV2D"
    assert kernels(made).count(kernel) > 1
    assert max(map(len, made.partitions)) <= limit
    assert kernels(assert_matches(model, {"x": floats(2, into, 9, 7)})).count(kernel) == 1


@pytest.mark.parametrize("name", ["few groups in a part", "a group in columns", "depthwise"])
def test_an_8_bit_one_gives_the_same_bits(name: str) -> None:
    into, out, group, size, limit = CASES[name]
    b = Builder(np.int8)
    x = b.input("x", (1, into, 9, 7), (0.03, 5))
    scales = np.linspace(0.004, 0.02, out)
    w = b.constant("w", weights(out, into // group, size, size), (scales, np.zeros(out, np.int8)))
    bias = np.random.default_rng(1).integers(-9000, 9000, out).astype(np.int32)
    c = b.constant("c", bias, (0.03 * scales, np.zeros(out)))
    b.quantize(b.add("Conv", f"{x} {w} {c}", "v", group=group, pads=[size // 2] * 4), (0.09, -11))
    whole, cut = (compile_onnx(b.model(), max_partition=most) for most in (1 << 20, limit * 2 // 3))
    kernel = "DEPTHWISE_S8" if name == "depthwise" else "CONV2D_S8"
    assert (kernels(whole).count(kernel), kernels(cut).count(kernel) > 1) == (1, True)
    expected = engine().run(whole, b.data())
    for output, value in engine().run(cut, b.data()).items():
        assert value.tobytes() == expected[output].tobytes()

# SPDX-License-Identifier: BSD-2-Clause
"""The choice of WINOGRAD for 3x3 convolutions: who gets it, with how much scratch, and how exact it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import build, engine, floats, kernels, node

from cloister.compile import compile_onnx
from cloister.compile.winograd import winograd_scratch
from cloister.ir.reference import Reference
from cloister.native import _load, find_library


def stack(layers: int, channels: int, size: int) -> onnx.ModelProto:
    """Residual pairs of 3x3 convolutions with ReLU, weights scaled so that the activations keep their size."""
    nodes, constants, last = [], {}, "x"
    scale = np.float32((2 / (9 * channels)) ** 0.5)
    for i in range(layers):
        constants[f"w{i}"] = floats(channels, channels, 3, 3, seed=i) * scale
        constants[f"b{i}"] = floats(channels, seed=i)
        nodes.append(node("Conv", f"{last} w{i} b{i}", f"c{i}", pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", f"c{i}", f"r{i}"))
        last = f"r{i}"
    nodes.append(node("GlobalAveragePool", last, "y"))
    return build(nodes, {"x": [1, channels, size, size]}, ["y", last], constants)


def test_the_compiler_and_the_engine_agree_about_winograds_scratch() -> None:
    ffi, lib = _load(str(find_library()))
    ffi.cdef("uint64_t cl_winograd_scratch(const struct cl_conv2d *conv, uint32_t tiles);")
    numbers = np.random.default_rng(11)
    for _ in range(300):
        fields = {
            "batch": int(numbers.integers(1, 3)), "in_c": int(numbers.integers(1, 70)),
            "out_h": int(numbers.integers(1, 40)), "out_w": int(numbers.integers(1, 40)),
        }  # fmt: skip
        tiles = int(numbers.integers(1, 100))
        record = ffi.new("struct cl_conv2d *", fields)
        assert winograd_scratch(fields, tiles) == lib.cl_winograd_scratch(record, tiles), (fields, tiles)


def test_a_deep_stack_is_computed_so_and_stays_exact() -> None:
    model = stack(18, 32, 16)
    x = {"x": floats(1, 32, 16, 16, seed=5)}
    expected = Reference(model).run(x)
    compiled = compile_onnx(model)
    assert kernels(compiled).count("WINOGRAD") == 18
    direct = compile_onnx(model, winograd=False)
    assert "WINOGRAD" not in kernels(direct)
    assert compiled.report.weight_bytes == direct.report.weight_bytes
    for name, value in engine().run(compiled, x).items():
        assert np.abs(value - expected[name]).max() <= 1e-5 * np.ptp(expected[name]), name


@pytest.mark.parametrize(
    ("weights", "attrs"),
    [
        ((32, 32, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((32, 32, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ((32, 16, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
        ((32, 32, 5, 5), {"pads": [2, 2, 2, 2]}),
        ((32, 32, 1, 1), {}),
    ],
)
def test_other_convolutions_are_left_alone(weights: tuple[int, ...], attrs: dict[str, Any]) -> None:
    model = build([node("Conv", "x w", "y", **attrs)], {"x": [1, 32, 16, 16]}, ["y"], {"w": floats(*weights)})
    assert "WINOGRAD" not in kernels(compile_onnx(model))


def test_a_tiny_convolution_is_not_worth_transformed_weights() -> None:
    model = build([node("Conv", "x w", "y")], {"x": [1, 64, 3, 3]}, ["y"], {"w": floats(64, 64, 3, 3)})
    assert kernels(compile_onnx(model)).count("CONV2D") == 1


def test_scratch_stays_in_the_budget() -> None:
    model = stack(4, 32, 16)
    whole = compile_onnx(model)
    roomy = compile_onnx(model, secure_memory=8 << 20)
    assert kernels(roomy).count("WINOGRAD") == 4
    for budget in (700 << 10, 600 << 10):
        tight = compile_onnx(model, secure_memory=budget)
        assert tight.arena_size + max(map(len, tight.partitions)) <= budget
        x = {"x": floats(1, 32, 16, 16, seed=3)}
        np.testing.assert_allclose(engine().run(tight, x)["y"], engine().run(whole, x)["y"], rtol=1e-4, atol=1e-5)

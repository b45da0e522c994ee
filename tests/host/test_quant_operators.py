# SPDX-License-Identifier: BSD-2-Clause
"""Each operator between DequantizeLinear and QuantizeLinear: the 8-bit kernel, within one step of onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import engine
from quant_models import OFF, Builder, assert_within_a_step, kernels, largest_step, reference, weights

from cloister.compile import compile_onnx
from cloister.compile.pack_s8 import pack_panels_s8, panel_kinds
from cloister.native import _load, find_library
from cloister.ops.quant_product import conv2d_s8_scratch
from cloister.wire import C

DTYPES = pytest.mark.parametrize("dtype", [np.int8, np.uint8])


@DTYPES
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("shape", "filters", "attrs"),
    [
        ((1, 3, 8, 8), (5, 3, 3, 3), {}),
        ((2, 3, 9, 7), (8, 3, 3, 5), {"strides": [2, 1], "pads": [1, 0, 2, 3]}),
        ((1, 4, 12, 12), (6, 4, 3, 3), {"dilations": [2, 3]}),
        ((1, 6, 8, 8), (9, 2, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
        ((1, 6, 8, 8), (6, 1, 3, 3), {"group": 6, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((1, 16, 6, 6), (17, 16, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((1, 32, 6, 6), (9, 32, 1, 1), {}),
        ((1, 20, 6, 6), (9, 20, 1, 1), {"strides": [2, 2]}),
        ((1, 3, 7, 8), (4, 3, 2, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((2, 3, 11), (4, 3, 3), {"strides": [2], "pads": [1, 1]}),
    ],
)
def test_convolutions(
    dtype: Any, per_channel: bool, shape: tuple[int, ...], filters: tuple[int, ...], attrs: Any
) -> None:
    b = Builder(dtype)
    x = b.input("x", shape, (0.03, 5))
    count = filters[0]
    scales = np.linspace(0.004, 0.02, count) if per_channel else 0.01
    w = b.constant("w", weights(*filters), (scales, np.zeros_like(np.int8(scales))))
    bias = np.random.default_rng(1).integers(-9000, 9000, count).astype(np.int32)
    c = b.constant("c", bias, (0.03 * np.asarray(scales), np.zeros(np.shape(scales))))
    b.quantize(b.add("Conv", f"{x} {w} {c}", "v", **attrs), (0.09, -11))
    compiled = assert_within_a_step(b.model(), b.data())
    depthwise = attrs.get("group") == 6
    wanted = ["DEPTHWISE_S8" if depthwise else "CONV2D_S8"]
    assert [kernel for kernel in kernels(compiled) if kernel != "UNARY_S8"] == wanted
    # Tables only shift what enters and leaves a model of unsigned tensors.
    assert kernels(compiled).count("UNARY_S8") == (2 if dtype == np.uint8 else 0)


@DTYPES
@pytest.mark.parametrize("kind", ["Gemm", "transB", "alpha", "MatMul", "MatMul3"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_products(dtype: Any, kind: str, per_channel: bool) -> None:
    b = Builder(dtype)
    x = b.input("x", (3, 5, 37) if kind == "MatMul3" else (5, 37), (0.05, -7))
    transposed = kind == "transB"
    scales = np.linspace(0.004, 0.02, 11) if per_channel else 0.01
    matrix = weights(11, 37) if transposed else weights(37, 11)
    w = b.constant("w", matrix, (scales, np.zeros_like(np.int8(scales))), axis=0 if transposed else 1)
    if kind.startswith("MatMul"):
        b.add("MatMul", f"{x} {w}", "v")
    else:
        bias = np.random.default_rng(1).integers(-900, 900, 11).astype(np.int32)
        c = b.constant("c", bias, (0.05 * np.asarray(scales), np.zeros(np.shape(scales))))
        attrs = {"transB": 1} if transposed else {"alpha": 0.5, "beta": 2.0} if kind == "alpha" else {}
        b.add("Gemm", f"{x} {w} {c}", "v", **attrs)
    b.quantize("v", (0.2, 3))
    compiled = assert_within_a_step(b.model(), b.data())
    assert "GEMM_S8" in kernels(compiled) and "GEMM" not in kernels(compiled)


@DTYPES
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("second", [(2, 6, 5, 5), (6, 1, 1), (1, 6, 1, 5)])
def test_arithmetic(dtype: Any, op: str, second: tuple[int, ...]) -> None:
    b = Builder(dtype)
    x, z = b.input("x", (2, 6, 5, 5), (0.03, 5)), b.input("z", second, (0.011, -20))
    b.quantize(b.add(op, f"{x} {z}", "v"), (0.04, 9))
    assert "BINARY_S8" in kernels(assert_within_a_step(b.model(), b.data()))


def test_a_constant_operand() -> None:
    b = Builder()
    x = b.input("x", (2, 6, 5, 5), (0.03, 5))
    z = b.constant("z", weights(6, 1, 1, largest=127), (0.02, 4))
    b.quantize(b.add("Add", f"{x} {z}", "v"), (0.04, 9))
    assert kernels(assert_within_a_step(b.model(), b.data())) == ["BINARY_S8"]


@DTYPES
@pytest.mark.parametrize(
    ("op", "attrs", "same"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, True),
        ("MaxPool", {"kernel_shape": [2, 2]}, False),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, False),
        ("AveragePool", {"kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}, True),
        ("GlobalAveragePool", {}, False),
        ("ReduceMean", {"axes": [2, 3], "keepdims": 0}, True),
        ("ReduceMean", {"axes": [-1, -2]}, False),
    ],
)
def test_pools(dtype: Any, op: str, attrs: dict[str, Any], same: bool) -> None:
    b = Builder(dtype)
    x = b.input("x", (2, 6, 9, 7), (0.03, 5))
    b.quantize(b.add(op, x, "v", **attrs), (0.03, 5) if same else (0.025, -3))
    compiled = assert_within_a_step(b.model(), b.data())
    assert "POOL_S8" in kernels(compiled) and "POOL" not in kernels(compiled)


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("Reshape", "to", {}),
        ("Flatten", "", {}),
        ("Transpose", "", {"perm": [0, 2, 3, 1]}),
        ("Slice", "one two", {}),
        ("Pad", "pads", {}),
        ("Tile", "repeats", {}),
    ],
)
def test_what_moves_elements_moves_bytes_and_changes_none(op: str, inputs: str, attrs: Any) -> None:
    b = Builder()
    b.constants |= {
        "to": np.array([1, -1]), "one": np.array([0, 1, 0, 2]), "two": np.array([1, 5, 3, 4]),
        "pads": np.array([0, 0, 1, 2, 0, 1, 1, 0]), "repeats": np.array([1, 2, 1, 3]),
    }  # fmt: skip
    b.constants = {name: value for name, value in b.constants.items() if name in inputs.split()}
    x = b.input("x", (1, 6, 4, 5), (0.03, 5))
    b.quantize(b.add(op, f"{x} {inputs}", "v", **attrs), (0.03, 5))
    model, data = b.model(), b.data()
    compiled = compile_onnx(model)
    assert set(kernels(compiled)) <= {"FILL"}
    assert largest_step(engine().run(compiled, data), reference(model, data, OFF)) == 0


@DTYPES
@pytest.mark.parametrize("scales", [((0.03, 5), (0.03, 5)), ((0.03, 5), (0.01, -90))])
def test_concatenation_of_equal_and_of_different_scales(dtype: Any, scales: Any) -> None:
    b = Builder(dtype)
    x, z = b.input("x", (1, 6, 4, 5), scales[0]), b.input("z", (1, 3, 4, 5), scales[1])
    b.quantize(b.add("Concat", f"{x} {z}", "v", axis=1), (0.03, 5))
    compiled = assert_within_a_step(b.model(), b.data())
    assert set(kernels(compiled)) <= {"UNARY_S8"}


@DTYPES
@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "HardSwish", "LeakyRelu", "Elu", "Relu", "Exp"])
def test_functions_of_one_value_become_a_table(dtype: Any, op: str) -> None:
    b = Builder(dtype)
    x = b.input("x", (2, 300), (0.03, 5))
    b.quantize(b.add(op, x, "v"), (0.02, -3))
    assert set(kernels(assert_within_a_step(b.model(), b.data()))) == {"UNARY_S8"}


def test_a_composed_function_becomes_one_table() -> None:
    b = Builder()
    x = b.input("x", (2, 300), (0.05, 5))
    b.quantize(b.add("Sigmoid", x, "s"), (1 / 256, -128), "q")
    b.quantize(b.add("Mul", f"{x} {b.dequantize('q', (1 / 256, -128))}", "v"), (0.03, -20))
    assert kernels(assert_within_a_step(b.model(), b.data())) == ["UNARY_S8"]


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize(("op", "bounds"), [("Relu", ""), ("Clip", "low high")])
def test_relu_and_clip_become_bounds(between: bool, op: str, bounds: str) -> None:
    b = Builder()
    if bounds:
        b.constants |= {"low": np.array(-0.5, np.float32), "high": np.array(3, np.float32)}
    x = b.input("x", (1, 3, 8, 8), (0.03, 5))
    v = b.add("Conv", f"{x} {b.constant('w', weights(5, 3, 3, 3), (0.01, 0))}", "v")
    if between:
        v = b.dequantize(b.quantize(v, (0.05, -11), "q"), (0.05, -11))
    b.quantize(b.add(op, f"{v} {bounds}", "r"), (0.05, -11))
    assert kernels(assert_within_a_step(b.model(), b.data())) == ["CONV2D_S8"]


@DTYPES
def test_weights_of_minus_128_are_exact(dtype: Any) -> None:
    b = Builder(dtype)
    x = b.input("x", (4, 64), (0.03, 5))
    w = np.full((64, 3), -128, np.int8)
    b.quantize(b.add("MatMul", f"{x} {b.constant('w', w, (0.01, 0))}", "v"), (0.5, 1))
    data = {"x": np.full((4, 64), np.iinfo(dtype).min, dtype)}
    assert "GEMM_S8" in kernels(assert_within_a_step(b.model(), data, [OFF]))


def test_unsigned_weights_around_128_are_signed_ones() -> None:
    b = Builder()
    x = b.input("x", (4, 20), (0.03, 5))
    w = (weights(20, 6).astype(np.int16) + 128).astype(np.uint8)
    b.quantize(b.add("MatMul", f"{x} {b.constant('w', w, (0.01, 0))}", "v"), (0.1, 1))
    assert kernels(assert_within_a_step(b.model(), b.data(), [OFF])) == ["GEMM_S8"]


@pytest.mark.parametrize("why", ["zero point", "32 bits", "not quantised"])
def test_what_the_kernels_cannot_do_runs_in_float_and_is_noted(why: str) -> None:
    b = Builder()
    x = b.input("x", (4, 20), (0.03, 5))
    if why == "not quantised":
        b.constants["w_f"] = weights(20, 6).astype(np.float32) / 100
    else:
        b.constant("w", weights(20, 6), (0.01, 4 if why == "zero point" else 0))
    inputs = f"{x} w_f"
    if why == "32 bits":
        inputs += " " + b.constant("c", np.full(6, (1 << 31) - 1000, np.int32), (0.0003, 0))
    b.quantize(b.add("Gemm", inputs, "v"), (0.1, 1))
    compiled = assert_within_a_step(b.model(), b.data(), [OFF])
    assert kernels(compiled) == ["DEQUANTIZE", "GEMM", "QUANTIZE"]
    assert any(why in note for note in compiled.notes)


def test_a_tensor_that_leaves_in_float_too_is_computed_in_float() -> None:
    b = Builder()
    x = b.input("x", (4, 20), (0.03, 5))
    b.quantize(b.add("MatMul", f"{x} {b.constant('w', weights(20, 6), (0.01, 0))}", "v"), (0.1, 1))
    model = b.model("v y", floats_out=["v"])
    compiled = compile_onnx(model)
    results, wanted = engine().run(compiled, b.data()), reference(model, b.data(), OFF)
    np.testing.assert_allclose(results["v"], wanted["v"], rtol=1e-5, atol=1e-5)
    assert largest_step({"y": results["y"]}, {"y": wanted["y"]}) <= 1


def test_the_compiler_and_the_engine_agree_about_a_convolutions_scratch() -> None:
    ffi, lib = _load(str(find_library()))
    ffi.cdef("uint64_t cl_conv2d_s8_scratch(const struct cl_conv2d_s8 *conv);")
    numbers = np.random.default_rng(7)
    for _ in range(500):
        depthwise = bool(numbers.integers(0, 2))
        channels = int(numbers.integers(1, 40))
        group = channels if depthwise else int(numbers.integers(1, 3))
        fields = {
            "in_c": channels if depthwise else group * channels, "group": group,
            "kernel_h": int(numbers.integers(1, 4)), "kernel_w": int(numbers.integers(1, 4)),
            "stride_h": int(numbers.integers(1, 3)), "stride_w": int(numbers.integers(1, 3)),
            "pad_top": int(numbers.integers(0, 2)), "pad_left": int(numbers.integers(0, 2)),
            "dilation_h": int(numbers.integers(1, 3)), "dilation_w": int(numbers.integers(1, 3)),
            "in_h": 8, "in_w": 8, "out_h": int(numbers.integers(7, 9)), "out_w": int(numbers.integers(7, 9)),
        }  # fmt: skip
        record = ffi.new("struct cl_conv2d_s8 *", fields)
        record.op.kernel = lib.CL_KERNEL_DEPTHWISE_S8 if depthwise else lib.CL_KERNEL_CONV2D_S8
        assert conv2d_s8_scratch(fields, depthwise) == lib.cl_conv2d_s8_scratch(record), fields


@pytest.mark.parametrize("largest", [20, 63, 127, 128])
@pytest.mark.parametrize("depth", [9, 16, 40, 80])
def test_every_kind_of_weights_is_exact_at_the_extremes(largest: int, depth: int) -> None:
    numbers = np.random.default_rng(depth)
    values = numbers.choice([-largest, min(largest, 127)], (depth, 11)).astype(np.int8)
    values[:, 4:8] //= 4  # a panel of small weights beside large ones
    b = Builder()
    x = b.input("x", (3, depth), (0.03, 5))
    b.quantize(b.add("MatMul", f"{x} {b.constant('w', values, (0.01, 0))}", "v"), (0.03 * depth, 1))
    for data in (np.full((3, depth), -128, np.int8), np.full((3, depth), 127, np.int8), b.data()["x"]):
        assert_within_a_step(b.model(), {"x": data}, [OFF])


def test_kinds_of_panels() -> None:
    rows = np.zeros((16, 80), np.int8)  # five steps: the first stands alone
    rows[0, 16::8] = 63  # 252 in each sum of four
    rows[4, 16::8] = 64  # 256
    rows[8, 20] = -128
    rows[12, :8] = 127  # in the first step only
    assert panel_kinds(pack_panels_s8(rows)[:, None]).tolist() == [
        C.CL_WEIGHTS_S8_FOURS, C.CL_WEIGHTS_S8_SYMMETRIC, C.CL_WEIGHTS_S8_ANY, C.CL_WEIGHTS_S8_FOURS
    ]  # fmt: skip

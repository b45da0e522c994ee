# SPDX-License-Identifier: BSD-2-Clause
"""Whole models through the compiler and the native engine, against ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_models import assert_matches, build, engine, floats, kernels, node

from cloister.native import _load, find_library
from cloister.ops.conv import conv2d_scratch


@pytest.mark.parametrize(
    ("shape", "weights", "attrs"),
    [
        ((1, 3, 8, 8), (5, 3, 3, 3), {}),
        ((2, 3, 9, 7), (8, 3, 3, 5), {"strides": [2, 1], "pads": [1, 0, 2, 3]}),
        ((1, 4, 12, 12), (6, 4, 3, 3), {"dilations": [2, 3]}),
        ((1, 6, 8, 8), (9, 2, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
        ((1, 6, 8, 8), (6, 1, 3, 3), {"group": 6, "strides": [2, 2]}),
        ((1, 6, 8, 8), (12, 1, 3, 3), {"group": 6}),
        ((1, 20, 6, 6), (17, 20, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((1, 40, 6, 6), (16, 20, 3, 3), {"group": 2}),
        ((1, 20, 6, 6), (9, 20, 1, 1), {}),
        ((1, 20, 6, 6), (9, 20, 1, 1), {"strides": [2, 2]}),
        ((1, 3, 7, 8), (4, 3, 2, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 3, 7, 8), (4, 3, 2, 4), {"auto_pad": "SAME_LOWER"}),
        ((1, 3, 7, 8), (4, 3, 2, 3), {"auto_pad": "VALID"}),
        ((2, 3, 11), (4, 3, 3), {"strides": [2], "pads": [1, 1]}),
        ((2, 4, 11), (4, 1, 3), {"group": 4, "dilations": [2]}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(shape: tuple[int, ...], weights: tuple[int, ...], attrs: dict[str, Any], bias: bool) -> None:
    constants = {"w": floats(*weights), **({"b": floats(weights[0])} if bias else {})}
    model = build([node("Conv", "x w b" if bias else "x w", "y", **attrs)], {"x": list(shape)}, ["y"], constants)
    assert_matches(model, {"x": floats(*shape, seed=1)})


def test_the_compiler_and_the_engine_agree_about_a_convolutions_scratch() -> None:
    ffi, lib = _load(str(find_library()))
    ffi.cdef("uint64_t cl_conv2d_scratch(const struct cl_conv2d *conv);")
    numbers = np.random.default_rng(7)
    for _ in range(500):
        group = int(numbers.integers(1, 3))
        fields = {
            "in_c": group * int(numbers.integers(1, 40)), "group": group,
            "kernel_h": int(numbers.integers(1, 4)), "kernel_w": int(numbers.integers(1, 4)),
            "stride_h": int(numbers.integers(1, 3)), "stride_w": int(numbers.integers(1, 3)),
            "pad_top": int(numbers.integers(0, 2)), "pad_left": int(numbers.integers(0, 2)),
            "dilation_h": int(numbers.integers(1, 3)), "dilation_w": int(numbers.integers(1, 3)),
            "in_h": 8, "in_w": 8, "out_h": int(numbers.integers(7, 9)), "out_w": int(numbers.integers(7, 9)),
        }  # fmt: skip
        record = ffi.new("struct cl_conv2d *", fields)
        record.op.kernel = lib.CL_KERNEL_CONV2D
        assert conv2d_scratch(fields) == lib.cl_conv2d_scratch(record), fields


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("scalars", [{}, {"alpha": 0.5, "beta": 2.0}, {"beta": 0.0}])
@pytest.mark.parametrize("c", [None, (6,), (1, 6), (4, 1), (4, 6), ()])
@pytest.mark.parametrize("run_time", ["", "b", "c", "bc"])
def test_gemm(trans: tuple[int, int], scalars: dict[str, Any], c: tuple[int, ...] | None, run_time: str) -> None:
    if "c" in run_time and c is None:
        c = (6,)
    values = {"a": floats(*((5, 4) if trans[0] else (4, 5))), "b": floats(*((6, 5) if trans[1] else (5, 6)), seed=1)}
    if c is not None:
        values["c"] = np.asarray(floats(*c, seed=2), np.float32)
    inputs = {name: value for name, value in values.items() if name == "a" or name in run_time}
    constants = {name: value for name, value in values.items() if name not in inputs}
    nodes = [node("Gemm", " ".join(values), "g", transA=trans[0], transB=trans[1], **scalars), node("Relu", "g", "y")]
    model = build(nodes, {name: value.shape for name, value in inputs.items()}, ["y"], constants)
    assert_matches(model, inputs)


@pytest.mark.parametrize("trans", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm_with_a_constant_left_matrix(trans: tuple[int, int]) -> None:
    a, b = floats(*((5, 4) if trans[0] else (4, 5))), floats(*((6, 5) if trans[1] else (5, 6)), seed=1)
    nodes = [node("Gemm", "a b c", "y", transA=trans[0], transB=trans[1])]
    assert_matches(build(nodes, {"b": b.shape}, ["y"], {"a": a, "c": floats(6)}), {"b": b})


def test_flatten_permutes_the_weights_and_not_the_activations() -> None:
    nodes = [node("Conv", "x w", "a"), node("Flatten", "a", "f"), node("Gemm", "f v", "y")]
    constants = {"w": floats(5, 1, 3, 3), "v": floats(80, 7)}
    compiled = assert_matches(build(nodes, {"x": [2, 1, 6, 6]}, ["y"], constants), {"x": floats(2, 1, 6, 6)})
    assert kernels(compiled) == ["CONV2D", "GEMM"]


def test_a_flattened_tensor_with_another_reader_is_right_for_both() -> None:
    nodes = [
        node("Conv", "x w", "a"), node("Flatten", "a", "f"), node("Gemm", "f v", "y"), node("Neg", "f", "z"),
        node("Gemm", "f v", "q"),
    ]  # fmt: skip
    constants = {"w": floats(5, 1, 3, 3), "v": floats(80, 7)}
    assert_matches(build(nodes, {"x": [2, 1, 6, 6]}, ["y", "z", "q", "f"], constants), {"x": floats(2, 1, 6, 6)})


def test_a_residual_block_needs_no_conversion_inside() -> None:
    nodes = [
        node("Conv", "x w1", "a", pads=[1, 1, 1, 1]),
        node("Conv", "a w2", "b", pads=[1, 1, 1, 1]),
        node("Add", "a b", "c"),
        node("Relu", "c", "d"),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "y"),
    ]
    constants = {"w1": floats(8, 1, 3, 3), "w2": floats(8, 8, 3, 3)}
    compiled = assert_matches(build(nodes, {"x": [1, 1, 6, 6]}, ["y"], constants), {"x": floats(1, 1, 6, 6)})
    assert "COPY" not in kernels(compiled)


def test_outputs_that_are_constants_or_inputs() -> None:
    nodes = [node("Identity", "x", "a"), node("Neg", "k", "b"), node("Add", "x k", "c")]
    assert_matches(build(nodes, {"x": [2, 3]}, ["a", "b", "c"], {"k": floats(2, 3, seed=1)}), {"x": floats(2, 3)})


def test_integer_tensors_are_moved_and_answered() -> None:
    nodes = [node("ArgMax", "x", "a", axis=1), node("Transpose", "n", "b")]
    types = {"a": TensorProto.INT64, "n": TensorProto.INT64, "b": TensorProto.INT64}
    model = build(nodes, {"x": [3, 5], "n": [2, 3]}, ["a", "b"], types=types)
    assert_matches(model, {"x": floats(3, 5), "n": np.arange(6, dtype=np.int64).reshape(2, 3)})


def test_nan_and_infinity_spread_as_in_the_reference() -> None:
    x = floats(1, 3, 6, 6)
    x[0, 1, 2, 2] = np.nan
    x[0, 0, 0, 0] = np.inf
    x[0, 2, 5, 5] = -np.inf
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "r"), node("Mul", "x x", "m")]
    model = build(nodes, {"x": [1, 3, 6, 6]}, ["r", "m"], {"w": np.abs(floats(4, 3, 3, 3))})
    assert_matches(model, {"x": x})


STEPS = (
    "relu",
    "conv",
    "depthwise",
    "add",
    "mul",
    "scale",
    "split",
    "transpose",
    "flat",
    "pool",
    "sum",
    "neg",
    "slice",
)


class Growth:
    """Grows a random model in which every tensor that counts has the shape (1, 4, 6, 6)."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = ["x"]
        self.constants: dict[str, Any] = {
            "w": floats(4, 4, 3, 3) / 4, "d": floats(4, 1, 3, 3) / 2, "s": floats(4, 1, 1),
            "flat": np.array([1, 144], np.int64), "full": np.array([1, 4, 6, 6], np.int64),
            "two": np.array([0], np.int64), "four": np.array([2], np.int64), "axis": np.array([2], np.int64),
        }  # fmt: skip

    def emit(self, op: str, inputs: str, count: int = 1, **attrs: Any) -> list[str]:
        names = [f"t{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(node(op, inputs, " ".join(names), **attrs))
        return names

    def grow(self, step: str, a: str, b: str) -> None:
        if step == "conv":
            (out,) = self.emit("Conv", f"{a} w", pads=[1, 1, 1, 1])
        elif step == "depthwise":
            (out,) = self.emit("Conv", f"{a} d", pads=[1, 1, 1, 1], group=4)
        elif step == "split":
            left, right = self.emit("Split", a, 2, axis=1)
            (left,) = self.emit("Relu", left)
            (out,) = self.emit("Concat", f"{right} {left}", axis=1)
        elif step == "transpose":
            (turned,) = self.emit("Transpose", a, perm=[0, 2, 3, 1])
            (turned,) = self.emit("Tanh", turned)
            (out,) = self.emit("Transpose", turned, perm=[0, 3, 1, 2])
        elif step == "flat":
            (flat,) = self.emit("Reshape", f"{a} flat")
            (flat,) = self.emit("Softmax", flat)
            (out,) = self.emit("Reshape", f"{flat} full")
        elif step == "pool":
            (out,) = self.emit("MaxPool", a, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        elif step == "slice":
            (part,) = self.emit("Slice", f"{a} two four axis")
            (rest,) = self.emit("Slice", f"{b} four axisend axis")
            self.constants["axisend"] = np.array([6], np.int64)
            (out,) = self.emit("Concat", f"{part} {rest}", axis=2)
        else:
            op, inputs = {
                "relu": ("Relu", a), "neg": ("Neg", a), "add": ("Add", f"{a} {b}"), "mul": ("Mul", f"{a} {b}"),
                "scale": ("Mul", f"{a} s"), "sum": ("Sum", f"{a} {b} {a}"),
            }[step]  # fmt: skip
            (out,) = self.emit(op, inputs)
            if step in ("mul", "sum"):
                (out,) = self.emit("Sigmoid", out)
        self.tensors.append(out)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_networks(data: st.DataObject) -> None:
    growth = Growth()
    for _ in range(data.draw(st.integers(1, 9))):
        growth.grow(*(data.draw(st.sampled_from(choices)) for choices in (STEPS, growth.tensors, growth.tensors)))
    made = growth.tensors[1:]
    outputs = data.draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    model = build(growth.nodes, {"x": [1, 4, 6, 6]}, outputs, growth.constants)
    limit = data.draw(st.sampled_from([512, 4096, 1 << 20]))
    assert_matches(model, {"x": floats(1, 4, 6, 6, seed=3)}, max_partition=limit)


def test_a_model_runs_again_after_its_inputs_were_overwritten() -> None:
    model = build([node("Neg", "x", "a"), node("Exp", "a", "y")], {"x": [16]}, ["y"])
    compiled = assert_matches(model, {"x": floats(16)})
    first = engine().run(compiled, floats(16))["y"]
    np.testing.assert_array_equal(first, engine().run(compiled, floats(16))["y"])

# SPDX-License-Identifier: BSD-2-Clause
"""Passes: what is folded and fused, what must not be, and that the answer stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_matches, build, floats, kernels, node

CONV = {"w": floats(6, 3, 3, 3), "b": floats(6)}
X = {"x": [2, 3, 6, 6]}


def positive(*shape: int) -> Any:
    return np.abs(floats(*shape, seed=9)) + np.float32(0.5)


NORMAL = {"g": floats(6, seed=2), "h": floats(6, seed=3), "m": floats(6, seed=4), "v": positive(6)}


def run(nodes: list[onnx.NodeProto], outputs: str, constants: dict[str, Any], inputs: Any = None) -> list[str]:
    shapes = inputs or X
    model = build(nodes, shapes, outputs.split(), constants)
    return kernels(assert_matches(model, {name: floats(*shape, seed=5) for name, shape in shapes.items()}))


@pytest.mark.parametrize("bias", ["b", ""])
def test_batch_normalization_and_activation_vanish_into_a_convolution(bias: str) -> None:
    nodes = [
        node("Conv", f"x w {bias}", "a"),
        node("BatchNormalization", "a g h m v", "n", epsilon=1e-3),
        node("Relu", "n", "y"),
    ]
    assert run(nodes, "y", {**CONV, **NORMAL}) == ["COPY", "CONV2D", "COPY"]


@pytest.mark.parametrize("attrs", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (4, 5), (4, 1), (1,), None])
def test_batch_normalization_vanishes_into_a_gemm(attrs: dict[str, Any], bias: tuple[int, ...] | None) -> None:
    weights = floats(5, 7) if attrs.get("transB") else floats(7, 5)
    constants = {"w": weights, **{name: value[:5] for name, value in NORMAL.items()}}
    if bias is not None:
        constants["c"] = floats(*bias, seed=6)
    nodes = [
        node("Gemm", "x w" + (" c" if bias else ""), "a", **attrs),
        node("BatchNormalization", "a g h m v", "n"),
        node("Sigmoid", "n", "y"),
    ]
    found = run(nodes, "y", constants, {"x": [4, 7]})
    per_row = bias is not None and len(bias) == 2 and bias[0] == 4
    assert found == (["GEMM", "BINARY"] if per_row else ["GEMM"])


@pytest.mark.parametrize(
    ("op", "inputs"),
    [("Mul", "a s"), ("Mul", "s a"), ("Add", "a s"), ("Sub", "a s"), ("Sub", "s a"), ("Div", "a s")],
)
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
def test_scales_and_shifts_by_constants_vanish(op: str, inputs: str, shape: tuple[int, ...]) -> None:
    nodes = [node("Conv", "x w b", "a"), node(op, inputs, "t"), node("Relu", "t", "y")]
    assert run(nodes, "y", {**CONV, "s": positive(*shape)}) == ["COPY", "CONV2D", "COPY"]


@pytest.mark.parametrize(
    ("op", "inputs", "shape"),
    [("Div", "s a", (6, 1, 1)), ("Add", "a s", (4,)), ("Mul", "a s", (1, 1, 4, 1)), ("Add", "a s", (3, 2, 6, 4, 4))],
)
def test_other_arithmetic_stays(op: str, inputs: str, shape: tuple[int, ...]) -> None:
    nodes = [node("Conv", "x w b", "a"), node(op, inputs, "y")]
    assert "BINARY" in run(nodes, "y", {**CONV, "s": positive(*shape)})


def test_a_result_read_twice_is_not_fused() -> None:
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "r"), node("Add", "a r", "y")]
    assert run(nodes, "y", CONV) == ["COPY", "CONV2D", "UNARY", "BINARY", "COPY"]


def test_a_result_that_leaves_the_graph_is_not_fused() -> None:
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "y")]
    assert "UNARY" in run(nodes, "a y", CONV)


def test_only_one_activation_is_fused() -> None:
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "r"), node("Tanh", "r", "y")]
    assert run(nodes, "y", CONV) == ["COPY", "CONV2D", "UNARY", "COPY"]


def test_batch_normalization_after_an_activation_stays() -> None:
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "r"), node("BatchNormalization", "r g h m v", "y")]
    assert len(run(nodes, "y", {**CONV, **NORMAL})) > 3


@pytest.mark.parametrize(
    ("op", "attrs"), [("Relu", {}), ("LeakyRelu", {"alpha": 0.2}), ("Elu", {}), ("HardSigmoid", {}), ("Sigmoid", {})]
)
@pytest.mark.parametrize("first", ["Add", "Conv", "MaxPool"])
def test_activations_fuse_into_what_computes_their_operand(op: str, attrs: dict[str, Any], first: str) -> None:
    start = {
        "Add": node("Add", "x k", "a"),
        "Conv": node("Conv", "x w b", "a"),
        "MaxPool": node("MaxPool", "x", "a", kernel_shape=[2, 2]),
    }[first]
    found = run([start, node(op, "a", "y", **attrs)], "y", {**CONV, "k": floats(3, 1, 1)})
    assert "UNARY" not in found


def test_clip_with_constant_limits_fuses() -> None:
    limits = {"lo": np.array(0, np.float32), "hi": np.array(6, np.float32)}
    nodes = [node("Conv", "x w b", "a"), node("Clip", "a lo hi", "y")]
    assert "UNARY" not in run(nodes, "y", {**CONV, **limits})


def test_nodes_that_do_nothing_vanish() -> None:
    nodes = [
        node("Identity", "x", "a"),
        node("Dropout", "a", "b"),
        node("Reshape", "b s", "c"),
        node("Transpose", "c", "d", perm=[0, 1, 2, 3]),
        node("Neg", "d", "y"),
    ]
    assert run(nodes, "y", {"s": np.array([2, 3, 6, 6], np.int64)}) == ["UNARY"]


def test_a_gather_of_everything_in_order_vanishes_and_no_other() -> None:
    gather = [node("Gather", "x i", "a", axis=1), node("Neg", "a", "y")]
    x = {"x": [2, 4]}
    for everything in (np.arange(4), np.arange(4).reshape(1, 2, 2, 1)):
        assert run(gather, "y", {"i": everything}, x) == ["UNARY"]
    for index in ([0, 1, 3, 2], [0, 1, 2], [0, 1, 2, 3, 3]):
        assert len(run(gather, "y", {"i": np.array(index)}, x)) > 1


def test_reshapes_in_a_row_leave_the_weights_to_permute() -> None:
    nodes = [
        node("Conv", "x w b", "a"), node("Reshape", "a s1", "c"), node("Unsqueeze", "c u", "d"),
        node("Reshape", "d s2", "e"), node("Gemm", "e v", "y"),
    ]  # fmt: skip
    shapes = {"s1": np.array([-1]), "u": np.array([0]), "s2": np.array([2, 96]), "v": floats(96, 5)}
    assert run(nodes, "y", {**CONV, **shapes}) == ["COPY", "CONV2D", "GEMM"]


def test_a_transpose_of_equal_dimensions_is_no_identity() -> None:
    assert run([node("Transpose", "x", "y")], "y", {}, {"x": [4, 4]}) == ["COPY"]


def test_a_matrix_product_takes_a_bias_and_an_activation() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Add", "b a", "s"), node("Relu", "s", "y")]
    assert run(nodes, "y", {"w": floats(7, 9), "b": floats(9)}, {"x": [4, 7]}) == ["GEMM"]

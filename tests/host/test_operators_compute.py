# SPDX-License-Identifier: BSD-2-Clause
"""Operators that compute, with random shapes, attributes and memory orders, against onnxruntime or ONNX's reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from operator_models import Build, broadcastable, operand, property_settings, seeds, shapes, tensor, with_onnxruntime

from cloister.compile import compile_onnx
from cloister.errors import UnsupportedModelError

UNARY = {
    "Relu": {},
    "Sigmoid": {},
    "Tanh": {},
    "HardSwish": {},
    "Exp": {},
    "Abs": {},
    "Neg": {},
    "Erf": {},
    "Softplus": {},
    "LeakyRelu": {"alpha": 0.3},
    "Elu": {"alpha": 1.7},
    "HardSigmoid": {"alpha": 0.4, "beta": 0.3},
}


@property_settings
@given(st.data(), seeds(), shapes(0, 8, 4))
def test_unary(data: st.DataObject, seed: int, shape: tuple[int, ...]) -> None:
    build = Build(seed)
    op = data.draw(st.sampled_from(sorted(UNARY)))
    attrs = {name: value for name, value in UNARY[op].items() if data.draw(st.booleans())}
    build.hold(build.node(op, [data.draw(tensor(build, shape))], **attrs))


@property_settings
@given(st.data(), seeds(), shapes(0, 4))
def test_unary_of_positive_values(data: st.DataObject, seed: int, shape: tuple[int, ...]) -> None:
    build = Build(seed)
    x = data.draw(tensor(build, shape, value=np.abs(build.values(shape)) + np.float32(0.1)))
    build.hold(*(build.node(op, [x]) for op in ("Log", "Sqrt", "Reciprocal")))


@property_settings
@given(st.data(), seeds(), shapes(0, 4), st.sampled_from([7, 11, 12, 13]))
def test_clip(data: st.DataObject, seed: int, shape: tuple[int, ...], opset: int) -> None:
    build = Build(seed, opset)
    x = data.draw(tensor(build, shape))
    bounds = {"min": data.draw(st.sampled_from([None, -1.5, 0.5])), "max": data.draw(st.sampled_from([None, 1.0, 2.5]))}
    if opset < 11:
        build.hold(build.node("Clip", [x], **{name: value for name, value in bounds.items() if value is not None}))
        return
    inputs = [x]
    for bound in bounds.values():
        if bound is None:
            inputs.append("")
        elif data.draw(st.booleans()):
            inputs.append(build.constant(bound, np.float32))
        else:
            inputs.append(build.input(np.float32(bound)))
    build.hold(build.node("Clip", inputs))


@property_settings
@given(st.data(), seeds(), shapes(0, 6, 4))
def test_binary(data: st.DataObject, seed: int, shape: tuple[int, ...]) -> None:
    build = Build(seed)
    op = data.draw(st.sampled_from(["Add", "Sub", "Mul", "Div"]))
    full = data.draw(tensor(build, shape))
    value = build.values(data.draw(broadcastable(shape)))
    if op == "Div":
        value = np.where(np.abs(value) < 0.1, np.float32(0.7), value)
    constant = data.draw(st.booleans())
    other = build.constant(value) if constant else data.draw(tensor(build, value.shape, value=value))
    build.hold(build.node(op, [full, other] if op == "Div" or data.draw(st.booleans()) else [other, full]))


@property_settings
@given(st.data(), seeds(), shapes(0, 5, 4), st.sampled_from(["Sum", "Max", "Min"]))
def test_variadic(data: st.DataObject, seed: int, shape: tuple[int, ...], op: str) -> None:
    build = Build(seed)
    names = [data.draw(tensor(build, shape))]
    for _ in range(data.draw(st.integers(0, 3))):
        names.append(data.draw(operand(build, data.draw(broadcastable(shape)))))
    build.hold(build.node(op, data.draw(st.permutations(names))))


@property_settings
@given(st.data(), seeds(), shapes(0, 5, 4))
def test_prelu(data: st.DataObject, seed: int, shape: tuple[int, ...]) -> None:
    build = Build(seed)
    x = data.draw(tensor(build, shape))
    build.hold(build.node("PRelu", [x, data.draw(operand(build, data.draw(broadcastable(shape))))]))


@property_settings
@given(st.data(), seeds(), shapes(0, 3, 3), st.integers(1, 5), st.integers(1, 17), st.integers(1, 19))
def test_matmul(data: st.DataObject, seed: int, batch: tuple[int, ...], m: int, k: int, n: int) -> None:
    build = Build(seed)
    left = (k,) if data.draw(st.booleans()) and not batch else (*data.draw(broadcastable(batch)), m, k)
    right = (k,) if data.draw(st.booleans()) and not batch else (*batch, k, n)
    a = data.draw(tensor(build, left)) if data.draw(st.booleans()) else data.draw(operand(build, left))
    b = data.draw(operand(build, right))
    y = build.node("MatMul", [a, b])
    build.hold(build.node("Relu", [y]) if data.draw(st.booleans()) and len(left) + len(right) > 2 else y)


@property_settings
@given(st.data(), seeds(), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_gemm(data: st.DataObject, seed: int, m: int, k: int, n: int) -> None:
    build = Build(seed, 13)
    trans_a, trans_b = data.draw(st.booleans()), data.draw(st.booleans())
    inputs = [data.draw(tensor(build, (k, m) if trans_a else (m, k)))]
    inputs.append(data.draw(operand(build, (n, k) if trans_b else (k, n))))
    if data.draw(st.booleans()):
        inputs.append(data.draw(operand(build, data.draw(broadcastable((m, n))))))
    attrs = {"alpha": data.draw(st.sampled_from([1.0, 0.5])), "beta": data.draw(st.sampled_from([1.0, 0.25]))}
    y = build.node("Gemm", inputs, transA=int(trans_a), transB=int(trans_b), **attrs)
    build.hold(build.node("Relu", [y]) if data.draw(st.booleans()) else y)


@property_settings
@given(st.data(), seeds(), shapes(2, 5, 5))
def test_batch_normalization(data: st.DataObject, seed: int, shape: tuple[int, ...]) -> None:
    build = Build(seed, 15)
    channels = shape[1]
    statistics = [build.constant(build.values([channels])) for _ in range(3)]
    statistics.append(build.constant(np.abs(build.values([channels])) + np.float32(0.2)))
    y = build.node("BatchNormalization", [data.draw(tensor(build, shape)), *statistics], epsilon=0.01)
    build.hold(build.node("Relu", [y]) if data.draw(st.booleans()) else y)


@property_settings
@given(st.data(), seeds(), shapes(1, 5), st.sampled_from([7, 11, 13]), st.sampled_from(["Softmax", "LogSoftmax"]))
def test_softmax(data: st.DataObject, seed: int, shape: tuple[int, ...], opset: int, op: str) -> None:
    build = Build(seed, opset)
    rank = len(shape)
    axis = data.draw(st.integers(0 if opset < 11 else -rank, rank - 1))
    x = data.draw(tensor(build, shape))
    default = rank > 1 and data.draw(st.booleans())
    build.hold(build.node(op, [x]) if default else build.node(op, [x], axis=axis))


@property_settings
@given(st.data(), seeds(), shapes(3, 5, 4))
def test_instance_normalization(data: st.DataObject, seed: int, shape: tuple[int, ...]) -> None:
    build = Build(seed)
    scale, offset = (data.draw(tensor(build, shape[1:2])) for _ in range(2))
    y = build.node("InstanceNormalization", [data.draw(tensor(build, shape)), scale, offset], epsilon=0.01)
    build.hold(build.node("Relu", [y]) if data.draw(st.booleans()) else y)


@property_settings
@given(st.data(), seeds(), shapes(3, 5, 4), st.integers(1, 3))
def test_group_normalization(data: st.DataObject, seed: int, shape: tuple[int, ...], groups: int) -> None:
    build = Build(seed, 21)
    shape = (shape[0], groups * shape[1], *shape[2:])
    scale, offset = (data.draw(tensor(build, shape[1:2])) for _ in range(2))
    x = data.draw(tensor(build, shape))
    y = build.node("GroupNormalization", [x, scale, offset], num_groups=groups, epsilon=0.01)
    build.hold(build.node("Relu", [y]) if data.draw(st.booleans()) else y)


def test_group_normalization_that_onnx_has_withdrawn_is_refused_with_a_way_out() -> None:
    build = Build(0, 18)
    inputs = [build.input(build.values((1, 6, 2))), *(build.constant(build.values((3,))) for _ in range(2))]
    model = build.model([build.node("GroupNormalization", inputs, num_groups=3)])
    with pytest.raises(UnsupportedModelError, match="GroupNormalization") as refused:
        compile_onnx(model)
    assert "21 or newer" in refused.value.remedy


@pytest.mark.parametrize(
    ("shape", "groups", "scales", "reason"),
    [
        ((1, 6, 2), 4, 6, "must divide the 6 channels"),
        ((1, 6, 2), 3, 3, r"needs \(6,\), one for each channel"),
        ((2, 6), 3, 6, r"needs \(N, C, ...\)"),
        ((1, 6, 1, 1, 1, 1, 1, 2), 3, 6, "at most 7 dimensions"),
    ],
)
def test_group_normalization_that_does_not_fit_is_refused(
    shape: tuple[int, ...], groups: int, scales: int, reason: str
) -> None:
    build = Build(0, 21)
    inputs = [build.input(build.values(shape)), *(build.constant(build.values((6,))) for _ in range(2))]
    model = build.model([build.node("GroupNormalization", inputs, num_groups=3)])
    model.graph.node[0].attribute[0].i = groups
    for constant in model.graph.initializer:
        constant.CopyFrom(numpy_helper.from_array(build.values((scales,)), constant.name))
    with pytest.raises(UnsupportedModelError, match=reason):
        compile_onnx(model)


def test_group_normalization_whose_result_is_declared_otherwise_is_refused() -> None:
    build = Build(0, 21)
    inputs = [build.input(build.values((1, 6, 2))), *(build.constant(build.values((6,))) for _ in range(2))]
    model = build.model([build.node("GroupNormalization", inputs, num_groups=3)])
    model.graph.output[0].type.tensor_type.shape.Clear()
    with pytest.raises(UnsupportedModelError, match=r"shape of Y = \(\): must be that of X, \(1, 6, 2\)"):
        compile_onnx(model)


@property_settings
@given(st.data(), seeds(), shapes(1, 5, 4))
def test_layer_normalization(data: st.DataObject, seed: int, shape: tuple[int, ...]) -> None:
    build = Build(seed, 17)
    axis = data.draw(st.integers(0, len(shape) - 1))
    inputs = [data.draw(tensor(build, shape)), data.draw(tensor(build, shape[axis:]))]
    if data.draw(st.booleans()):
        inputs.append(data.draw(tensor(build, shape[axis:])))
    y = build.node("LayerNormalization", inputs, axis=axis - data.draw(st.sampled_from([0, len(shape)])), epsilon=0.01)
    build.hold(build.node("Relu", [y]) if data.draw(st.booleans()) else y)


@property_settings
@given(st.data(), seeds(), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9))
def test_lrn(data: st.DataObject, seed: int, channels: int, height: int, width: int, size: int) -> None:
    build = Build(seed)
    value = build.values((2, channels, height, width))

    def formula(*_: object) -> list[np.ndarray]:
        # onnxruntime refuses even windows; ONNX's reference (1.23) places them wrongly.
        squares = np.stack(
            [np.square(value[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]).sum(axis=1) for c in range(channels)],
            axis=1,
        )
        return [value / (1.5 + 0.3 / size * squares) ** np.float32(0.6)]

    x = data.draw(tensor(build, value.shape, value=value))
    y = build.node("LRN", [x], size=size, alpha=0.3, beta=0.6, bias=1.5)
    build.hold(y, oracle=formula if size % 2 == 0 else with_onnxruntime)


@property_settings
@given(st.data(), seeds(), shapes(0, 6, 4), st.sampled_from([11, 13, 18]))
def test_reduce(data: st.DataObject, seed: int, shape: tuple[int, ...], opset: int) -> None:
    build = Build(seed, opset)
    op = data.draw(st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"]))
    rank = len(shape)
    attrs = {"keepdims": data.draw(st.integers(0, 1))}
    inputs = [data.draw(tensor(build, shape))]
    if rank and data.draw(st.booleans()):
        axes = data.draw(st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
        axes = [axis - rank if data.draw(st.booleans()) else axis for axis in axes]
        if opset >= (13 if op == "ReduceSum" else 18):
            inputs.append(build.constant(axes, np.int64))
        else:
            attrs["axes"] = axes
    elif opset >= 18:
        attrs["noop_with_empty_axes"] = data.draw(st.integers(0, 1))
    build.hold(build.node(op, inputs, **attrs))


@property_settings
@given(st.data(), seeds(), shapes(1, 5, 6), st.sampled_from(["ArgMax", "ArgMin"]))
def test_arg_extreme(data: st.DataObject, seed: int, shape: tuple[int, ...], op: str) -> None:
    build = Build(seed, 13)
    rank = len(shape)
    x = data.draw(tensor(build, shape, value=build.random.integers(0, 4, shape).astype(np.float32)))
    attrs = {"axis": data.draw(st.integers(-rank, rank - 1)), "keepdims": data.draw(st.integers(0, 1))}
    build.hold(build.node(op, [x], select_last_index=data.draw(st.integers(0, 1)), **attrs))

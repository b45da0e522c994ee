# SPDX-License-Identifier: BSD-2-Clause
"""Operators that move data, with random shapes, types and memory orders, against onnxruntime or the reference."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from operator_models import MOVED, Build, property_settings, seeds, shapes, tensor, with_reference

dtypes = st.sampled_from(MOVED)


@property_settings
@given(st.data(), seeds(), shapes(1, 5, 4), dtypes)
def test_concat(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str) -> None:
    build = Build(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    names = []
    for _ in range(data.draw(st.integers(1, 4))):
        part = (*shape[:axis], data.draw(st.integers(1, 4)), *shape[axis + 1 :])
        if names and data.draw(st.integers(0, 3)) == 0:
            names.append(build.constant(build.values(part, dtype)))
        else:
            names.append(data.draw(tensor(build, part, dtype)))
    build.hold(build.node("Concat", names, axis=axis - len(shape) if data.draw(st.booleans()) else axis))


@property_settings
@given(st.data(), seeds(), shapes(1, 5, 6), dtypes, st.sampled_from([11, 13, 18]))
def test_split(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str, opset: int) -> None:
    build = Build(seed, opset)
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = data.draw(tensor(build, shape, dtype))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, shape[axis] - 1)), max_size=3)) & set(range(1, shape[axis])))
    sizes = np.diff([0, *cuts, shape[axis]]).tolist()
    if opset == 18 and data.draw(st.booleans()):
        count = data.draw(st.integers(1, shape[axis]))
        assume(-(-shape[axis] // count) * (count - 1) < shape[axis])
        parts = build.node("Split", [x], count, axis=axis, num_outputs=count)
        parts = [parts] if count == 1 else parts
    elif opset >= 13:
        parts = build.node("Split", [x, build.constant(sizes, np.int64)], len(sizes), axis=axis)
    else:
        parts = build.node("Split", [x], len(sizes), axis=axis, split=sizes)
    build.hold(*([parts] if isinstance(parts, str) else parts))


@property_settings
@given(st.data(), seeds(), shapes(1, 5, 6), dtypes, st.sampled_from([9, 10, 13]))
def test_slice(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str, opset: int) -> None:
    build = Build(seed, opset)
    x = data.draw(tensor(build, shape, dtype))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    bound = st.one_of(st.integers(-8, 8), st.sampled_from([-(1 << 31), (1 << 31) - 1]))
    starts, ends, steps = [], [], []
    for axis in axes:
        steps.append(1 if opset < 10 else data.draw(st.sampled_from([1, 1, 2, 3, -1, -2])))
        starts.append(data.draw(bound))
        ends.append(data.draw(bound))
        size = shape[axis]
        assume(len(range(*slice(starts[-1], ends[-1], steps[-1]).indices(size))) > 0)
        # ONNX clamps an end below the first element to "before it" only for negative steps, as Python does.
    axes = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    if opset < 10:
        axes = [axis % len(shape) for axis in axes]
        build.hold(build.node("Slice", [x], starts=starts, ends=ends, axes=axes), oracle=with_reference)
        return
    arguments = [build.constant(values, np.int64) for values in (starts, ends, axes, steps)]
    build.hold(build.node("Slice", [x, *arguments]))


@property_settings
@given(st.data(), seeds(), shapes(1, 5, 5), dtypes, st.sampled_from(["constant", "edge", "reflect", "wrap"]))
def test_pad(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str, mode: str) -> None:
    build = Build(seed, 19)
    x = data.draw(tensor(build, shape, dtype))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    pads = [data.draw(st.integers(0, shape[axis] - 1 if mode == "reflect" else 3)) for axis in axes * 2]
    value = build.constant(build.values((), dtype)) if mode == "constant" and data.draw(st.booleans()) else ""
    inputs = [x, build.constant(pads, np.int64), value, build.constant(axes, np.int64)]
    build.hold(build.node("Pad", inputs, mode=mode), oracle=with_reference)


@property_settings
@given(st.data(), seeds(), shapes(1, 4, 6))
def test_pad_with_negative_pads(data: st.DataObject, seed: int, shape: tuple[int, ...]) -> None:
    build = Build(seed, 13)
    x = data.draw(tensor(build, shape))
    pads = [data.draw(st.integers(-2, 2)) for _ in shape * 2]
    rank = len(shape)
    assume(all(size + min(0, pads[i]) + min(0, pads[i + rank]) > 0 for i, size in enumerate(shape)))
    build.hold(build.node("Pad", [x, build.constant(pads, np.int64), build.constant(1.5, np.float32)]))


@property_settings
@given(st.data(), seeds(), shapes(0, 8, 3), dtypes)
def test_transpose_twice(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str) -> None:
    build = Build(seed)
    x = data.draw(tensor(build, shape, dtype))
    one = build.node("Transpose", [x], perm=list(data.draw(st.permutations(range(len(shape)))))) if shape else x
    build.hold(build.node("Transpose", [one]))


@property_settings
@given(st.data(), seeds(), shapes(0, 6, 4), dtypes)
def test_reshape(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str) -> None:
    build = Build(seed)
    x = data.draw(tensor(build, shape, dtype))
    rest, target = prod(shape), []
    for _ in range(data.draw(st.integers(0, 4))):
        size = data.draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0]))
        target.append(size)
        rest //= size
    if target and data.draw(st.booleans()):
        target[data.draw(st.integers(0, len(target) - 1))] = -1
        rest = 1
    y = build.node("Reshape", [x, build.constant([*target, *([rest] * (rest > 1))], np.int64)])
    build.hold(y if dtype != "float32" else build.node("Relu", [y]))


@property_settings
@given(st.data(), seeds(), shapes(1, 5, 4), st.integers(1, 9))
def test_flatten_then_product(data: st.DataObject, seed: int, shape: tuple[int, ...], columns: int) -> None:
    build = Build(seed)
    axis = data.draw(st.integers(-len(shape), len(shape)))
    flat = build.node("Flatten", [data.draw(tensor(build, shape))], axis=axis)
    inner = prod(shape[axis:]) if axis != len(shape) else 1
    weights = build.constant(build.values((inner, columns)))
    build.hold(build.node("MatMul", [flat, weights]), flat)


@property_settings
@given(st.data(), seeds(), shapes(1, 6, 3), dtypes, st.sampled_from([11, 13]))
def test_unsqueeze_then_squeeze(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str, opset: int) -> None:
    build = Build(seed, opset)
    x = data.draw(tensor(build, shape, dtype))
    rank = len(shape) + data.draw(st.integers(1, 8 - len(shape)))
    axes = data.draw(st.permutations(range(rank)))[: rank - len(shape)]
    given_axes = [axis - rank if data.draw(st.booleans()) else axis for axis in axes]

    def apply(op: str, name: str, some: list[int]) -> str:
        if opset < 13:
            return str(build.node(op, [name], axes=some))
        return str(build.node(op, [name, build.constant(some, np.int64)]))

    wide = apply("Unsqueeze", x, given_axes)
    some = data.draw(st.lists(st.sampled_from(axes), min_size=1, unique=True))
    narrow = build.node("Squeeze", [wide]) if data.draw(st.booleans()) else apply("Squeeze", wide, some)
    build.hold(wide, narrow)


@property_settings
@given(st.data(), seeds(), shapes(0, 5, 3), dtypes)
def test_expand(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str) -> None:
    build = Build(seed)
    x = data.draw(tensor(build, shape, dtype))
    target = [data.draw(st.integers(1, 3)) if size == 1 else data.draw(st.sampled_from([1, size])) for size in shape]
    target = [data.draw(st.integers(1, 3)) for _ in range(data.draw(st.integers(0, 2)))] + target
    build.hold(build.node("Expand", [x, build.constant(target, np.int64)]))


@property_settings
@given(st.data(), seeds(), shapes(1, 5, 3), dtypes)
def test_tile(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str) -> None:
    build = Build(seed)
    x = data.draw(tensor(build, shape, dtype))
    build.hold(build.node("Tile", [x, build.constant([data.draw(st.integers(1, 3)) for _ in shape], np.int64)]))


@property_settings
@given(st.data(), seeds(), shapes(1, 4, 5), dtypes, shapes(0, 3, 4))
def test_gather(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str, indices: tuple[int, ...]) -> None:
    build = Build(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    x = data.draw(tensor(build, shape, dtype))
    index = build.constant(build.random.integers(-size, size, indices), np.int64)
    build.hold(build.node("Gather", [x, index], axis=axis))


@property_settings
@given(st.data(), seeds(), shapes(0, 4, 4), dtypes)
def test_identity_and_dropout(data: st.DataObject, seed: int, shape: tuple[int, ...], dtype: str) -> None:
    build = Build(seed)
    x = data.draw(tensor(build, shape, dtype))
    same = build.node("Identity", [x])
    if dtype != "float32":
        build.hold(same, x)
        return
    value, mask = build.node("Dropout", [same], 2)
    build.hold(value, mask, same)

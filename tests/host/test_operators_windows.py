# SPDX-License-Identifier: BSD-2-Clause
"""Convolution, pooling and Resize with random geometry, and random graphs of many operators."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from operator_models import Build, property_settings, seeds, tensor, with_reference

from cloister.errors import UnsupportedModelError
from cloister.ops.taps import COORDINATE_MODES, NEAREST_MODES


@st.composite
def windows(draw: st.DrawFn, spatial: int) -> dict[str, object]:
    """Attributes of a window over ``spatial`` axes."""
    kernel = [draw(st.integers(1, 3)) for _ in range(spatial)]
    dilations = [draw(st.integers(1, 2)) for _ in range(spatial)]
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    attrs: dict[str, object] = {"kernel_shape": kernel, "strides": [draw(st.integers(1, 3)) for _ in range(spatial)]}
    if draw(st.booleans()):
        attrs["dilations"] = dilations
    else:
        reach = kernel
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad == "NOTSET":
        attrs["pads"] = [draw(st.integers(0, min(2, size // 2))) for size in reach * 2]
    else:
        attrs["auto_pad"] = auto_pad
    if auto_pad.startswith("SAME"):
        # Beyond that, onnxruntime refuses or disagrees with ONNX's formula.
        attrs.pop("dilations", None)
        attrs["strides"] = [draw(st.integers(1, size)) for size in kernel]
    return attrs


def fits(attrs: dict[str, object], lengths: list[int]) -> bool:
    """Every axis holds a window even without pads."""
    kernel, dilations = attrs["kernel_shape"], attrs.get("dilations", [1] * len(lengths))
    return all((k - 1) * d + 1 <= n for k, d, n in zip(kernel, dilations, lengths, strict=True))


@property_settings
@given(st.data(), seeds(), st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_conv(data: st.DataObject, seed: int, spatial: int, group: int, ins: int, outs: int) -> None:
    build = Build(seed)
    attrs = data.draw(windows(spatial))
    lengths = [data.draw(st.integers(1, 9)) for _ in range(spatial)]
    assume(fits(attrs, lengths))
    x = data.draw(tensor(build, (data.draw(st.integers(1, 2)), group * ins, *lengths)))
    inputs = [x, build.constant(build.values((group * outs, ins, *attrs["kernel_shape"])))]
    if data.draw(st.booleans()):
        inputs.append(build.constant(build.values((group * outs,))))
    y = build.node("Conv", inputs, group=group, **attrs)
    build.hold(build.node("Relu", [y]) if data.draw(st.booleans()) else y)


def hold_pool(build: Build, output: str) -> None:
    """As ``hold``; a shape that ONNX's inference gets wrong (a window in the end pad alone) must be refused as such."""
    try:
        build.hold(output)
    except UnsupportedModelError as error:
        assert "the windows give" in str(error)


@property_settings
@given(st.data(), seeds(), st.integers(1, 3), st.integers(1, 6))
def test_max_pool(data: st.DataObject, seed: int, spatial: int, channels: int) -> None:
    build = Build(seed, 12)
    attrs = data.draw(windows(spatial))
    lengths = [data.draw(st.integers(1, 8)) for _ in range(spatial)]
    assume(fits(attrs, lengths))
    if "auto_pad" not in attrs:
        attrs["ceil_mode"] = data.draw(st.integers(0, 1))
    x = data.draw(tensor(build, (data.draw(st.integers(1, 2)), channels, *lengths)))
    y = build.node("MaxPool", [x], **attrs)
    hold_pool(build, build.node("Relu", [y]) if data.draw(st.booleans()) else y)


@property_settings
@given(st.data(), seeds(), st.integers(1, 3), st.integers(1, 6))
def test_average_pool(data: st.DataObject, seed: int, spatial: int, channels: int) -> None:
    build = Build(seed, 19)
    attrs = data.draw(windows(spatial))
    lengths = [data.draw(st.integers(1, 8)) for _ in range(spatial)]
    assume(fits(attrs, lengths))
    attrs["count_include_pad"] = data.draw(st.integers(0, 1))
    if "auto_pad" not in attrs:
        attrs["ceil_mode"] = data.draw(st.integers(0, 1))
    x = data.draw(tensor(build, (data.draw(st.integers(1, 2)), channels, *lengths)))
    hold_pool(build, build.node("AveragePool", [x], **attrs))


@property_settings
@given(st.data(), seeds(), st.integers(1, 3), st.sampled_from(["GlobalAveragePool", "GlobalMaxPool"]))
def test_global_pool(data: st.DataObject, seed: int, spatial: int, op: str) -> None:
    build = Build(seed)
    shape = (2, 3, *(data.draw(st.integers(1, 4)) for _ in range(spatial)))
    build.hold(build.node(op, [data.draw(tensor(build, shape))]))


@property_settings
@given(st.data(), seeds(), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_resize(data: st.DataObject, seed: int, shape: list[int]) -> None:
    build = Build(seed, 19)
    rank = len(shape)
    attrs: dict[str, object] = {
        "mode": data.draw(st.sampled_from(["nearest", "linear", "cubic"])),
        # Left out: the reference lacks tf_half_pixel_for_nn, which ONNX deprecated.
        "coordinate_transformation_mode": data.draw(
            st.sampled_from([mode for mode in COORDINATE_MODES if mode != "tf_half_pixel_for_nn"])
        ),
    }
    if attrs["mode"] == "nearest":
        attrs["nearest_mode"] = data.draw(st.sampled_from(NEAREST_MODES))
    else:
        attrs["exclude_outside"] = data.draw(st.integers(0, 1))
        attrs["antialias"] = data.draw(st.integers(0, 1))
    axes = list(range(rank))
    if data.draw(st.booleans()):
        axes = data.draw(st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
        attrs["axes"] = axes
    roi = ""
    if attrs["coordinate_transformation_mode"] == "tf_crop_and_resize":
        begin = [data.draw(st.sampled_from([0.0, 0.25, -0.125])) for _ in axes]
        end = [data.draw(st.sampled_from([1.0, 0.75, 1.125])) for _ in axes]
        roi = build.constant([*begin, *end], np.float32)
        attrs["extrapolation_value"] = 7.0
    if data.draw(st.booleans()):
        scales = [data.draw(st.sampled_from([1.0, 2.0, 0.5, 1.5, 0.6, 3.0])) for _ in axes]
        assume(all(int(np.float32(scale) * shape[axis]) > 0 for scale, axis in zip(scales, axes, strict=True)))
        tail = [build.constant(scales, np.float32)]
    else:
        attrs["keep_aspect_ratio_policy"] = data.draw(st.sampled_from(["stretch", "not_larger", "not_smaller"]))
        sizes = [data.draw(st.integers(1, 9)) for _ in axes]
        tail = ["", build.constant(sizes, np.int64)]
    y = build.node("Resize", [data.draw(tensor(build, tuple(shape))), roi, *tail], **attrs)
    try:
        build.hold(y, oracle=with_reference)
    except UnsupportedModelError as error:
        # not_larger may leave an axis without elements.
        assert "empty tensors" in str(error)


@property_settings
@given(st.data(), seeds(), st.integers(1, 5))
def test_old_resize(data: st.DataObject, seed: int, length: int) -> None:
    build = Build(seed, 10)
    scale = data.draw(st.sampled_from([2.0, 3.0, 1.0]))
    x = data.draw(tensor(build, (1, 2, length, 4)))
    mode = data.draw(st.sampled_from(["nearest", "linear"]))
    build.hold(build.node("Resize", [x, build.constant([1, 1, scale, 2], np.float32)], mode=mode))


KINDS = "relu conv pool add concat split transpose pad mul norm softmax reshape"


@st.composite
def grown(draw: st.DrawFn, build: Build) -> list[str]:
    """A random graph over (1, c, h, w); returns some of its tensors."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, shape: tuple[int, ...]) -> None:
        shapes[name] = shape

    first = (1, draw(st.integers(1, 6)), draw(st.integers(3, 7)), draw(st.integers(3, 7)))
    add(build.input(build.values(first)), first)
    for _ in range(draw(st.integers(3, 12))):
        x = draw(st.sampled_from(sorted(shapes)))
        shape = shapes[x]
        batch, channels, height, width = shape
        kind = draw(st.sampled_from(KINDS.split()))
        if kind == "relu":
            add(build.node(draw(st.sampled_from(["Relu", "Sigmoid", "Tanh"])), [x]), shape)
        elif kind == "conv":
            outs = draw(st.integers(1, 9))
            weights = build.constant(build.values((outs, channels, 3, 3)) / np.float32(4))
            add(build.node("Conv", [x, weights], pads=[1, 1, 1, 1]), (batch, outs, height, width))
        elif kind == "pool":
            op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
            add(build.node(op, [x], kernel_shape=[2, 2], pads=[1, 1, 0, 0]), shape)
        elif kind == "add":
            other = draw(st.sampled_from(sorted(name for name in shapes if shapes[name] == shape)))
            add(build.node(draw(st.sampled_from(["Add", "Sub", "Max"])), [x, other]), shape)
        elif kind == "concat" and channels < 20:
            other = draw(
                st.sampled_from(sorted(n for n in shapes if shapes[n][2:] == shape[2:] and shapes[n][0] == batch))
            )
            add(build.node("Concat", [x, other], axis=1), (batch, channels + shapes[other][1], height, width))
        elif kind == "split" and channels > 1:
            cut = draw(st.integers(1, channels - 1))
            sizes = build.constant([cut, channels - cut], np.int64)
            for part, size in zip(build.node("Split", [x, sizes], 2, axis=1), (cut, channels - cut), strict=True):
                add(part, (batch, size, height, width))
        elif kind == "transpose":
            perm = draw(st.permutations(range(4)))
            add(build.node("Transpose", [x], perm=list(perm)), tuple(shape[axis] for axis in perm))
        elif kind == "pad" and height < 9:
            pads = build.constant([0, 0, 1, 0, 0, 0, 0, 1], np.int64)
            mode = draw(st.sampled_from(["constant", "edge"]))
            add(build.node("Pad", [x, pads], mode=mode), (batch, channels, height + 1, width + 1))
        elif kind == "mul":
            add(build.node("Mul", [x, build.constant(build.values((channels, 1, 1)))]), shape)
        elif kind == "norm":
            positive = np.abs(build.values((channels,))) + np.float32(0.5)
            rest = [build.constant(build.values((channels,))) for _ in range(3)]
            add(build.node("BatchNormalization", [x, *rest, build.constant(positive)]), shape)
        elif kind == "softmax":
            add(build.node("Softmax", [x], axis=draw(st.integers(0, 3))), shape)
        elif kind == "reshape":
            flat = build.node("Reshape", [x, build.constant([0, -1], np.int64)])
            turned = (batch, width, channels, height)
            add(build.node("Reshape", [flat, build.constant(turned, np.int64)]), turned)
    made = sorted(name for name in shapes if name not in build.inputs)
    assume(made)
    others = draw(st.lists(st.sampled_from(made), max_size=3))
    return list(dict.fromkeys([list(shapes)[-1], *others]))


@property_settings
@given(st.data(), seeds(), st.booleans())
def test_graphs(data: st.DataObject, seed: int, cut: bool) -> None:
    build = Build(seed)
    outputs = data.draw(grown(build))
    build.hold(*outputs, rtol=1e-3, atol=1e-3, max_partition=512 if cut else None)

# SPDX-License-Identifier: BSD-2-Clause
"""The networks that are measured, made here with seeded random weights: speed does not depend on what they learned.

Batch normalisation is folded into the convolutions, as exporters for inference do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from cloister.quantization import quantize_model
from cloister_bench.builder import Builder

#: Random samples from which the ranges of 8-bit tensors follow.
_SAMPLES = 8


def lenet() -> onnx.ModelProto:
    """LeNet in the form that DarkneTZ runs: 28x28 with 3 channels, 575,400 multiply-accumulates."""
    b = Builder("lenet", [1, 3, 28, 28])
    x = "x"
    for _ in range(2):
        x = b.max_pool(b.relu(b.conv(x, 6, 5)), 2, 2)
    x = b.flatten(x)
    for width in (120, 84):
        x = b.relu(b.gemm(x, width))
    return b.finish(b.softmax(b.gemm(x, 10)))


def vgg7() -> onnx.ModelProto:
    """VGG-7 for CIFAR-10: six convolutions and two dense layers, 7,553,664 multiply-accumulates."""
    b = Builder("vgg7", [1, 3, 32, 32])
    x = "x"
    for channels in (16, 32, 32):
        x = b.max_pool(b.relu(b.conv(b.relu(b.conv(x, channels, 3)), channels, 3)), 2, 2)
    x = b.relu(b.gemm(b.flatten(x), 64))
    return b.finish(b.softmax(b.gemm(x, 10)))


def resnet20(width: int = 16) -> onnx.ModelProto:
    """ResNet-20 for CIFAR-10 (He et al., 2016) with projection shortcuts, 40,813,184 multiply-accumulates; `width` is
    that of its first stage."""
    b = Builder("resnet20", [1, 3, 32, 32])
    x = b.relu(b.conv("x", width, 3))
    for channels in (width, 2 * width, 4 * width):
        for block in range(3):
            stride = 2 if block == 0 and channels > width else 1
            y = b.conv(b.relu(b.conv(x, channels, 3, stride)), channels, 3, gain=0.5)
            if stride == 2:
                x = b.conv(x, channels, 1, stride, gain=1.0)
            x = b.relu(b.add(y, x))
    return b.finish(b.softmax(b.gemm(b.flatten(b.global_pool(x)), 10)))


def squeezenet() -> onnx.ModelProto:
    """SqueezeNet 1.0 at 224x224 (Iandola et al., 2016)."""
    b = Builder("squeezenet", [1, 3, 224, 224])

    def fire(x: str, squeeze: int, expand: int) -> str:
        x = b.relu(b.conv(x, squeeze, 1))
        return b.concat(b.relu(b.conv(x, expand, 1)), b.relu(b.conv(x, expand, 3)))

    x = b.max_pool(b.relu(b.conv("x", 96, 7, 2, 0)), 3, 2, ceil=True)
    for squeeze, expand in ((16, 64), (16, 64), (32, 128)):
        x = fire(x, squeeze, expand)
    x = b.max_pool(x, 3, 2, ceil=True)
    for squeeze, expand in ((32, 128), (48, 192), (48, 192), (64, 256)):
        x = fire(x, squeeze, expand)
    x = fire(b.max_pool(x, 3, 2, ceil=True), 64, 256)
    x = b.flatten(b.global_pool(b.relu(b.conv(x, 1000, 1))))
    return b.finish(b.softmax(x))


def mobilenetv2() -> onnx.ModelProto:
    """MobileNetV2, width 1.0, at 224x224 (Sandler et al., 2018, table 2)."""
    b = Builder("mobilenetv2", [1, 3, 224, 224])
    x = b.relu6(b.conv("x", 32, 3, 2))
    for expansion, channels, count, first in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(count):
            stride = first if block == 0 else 1
            y, width = x, b.shapes[x][1]
            if expansion != 1:
                y = b.relu6(b.conv(y, width * expansion, 1))
            y = b.relu6(b.conv(y, width * expansion, 3, stride, group=width * expansion))
            y = b.conv(y, channels, 1, gain=1.0)
            x = b.add(x, y) if stride == 1 and width == channels else y
    x = b.flatten(b.global_pool(b.relu6(b.conv(x, 1280, 1))))
    return b.finish(b.softmax(b.gemm(x, 1000)))


def resnet50() -> onnx.ModelProto:
    """ResNet-50 at 224x224, stride in the 3x3 convolution."""
    b = Builder("resnet50", [1, 3, 224, 224])
    x = b.max_pool(b.relu(b.conv("x", 64, 7, 2)), 3, 2, 1)
    for stage, count in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(count):
            stride = 2 if block == 0 and stage else 1
            y = b.relu(b.conv(x, width, 1))
            y = b.conv(b.relu(b.conv(y, width, 3, stride)), 4 * width, 1, gain=0.5)
            if block == 0:
                x = b.conv(x, 4 * width, 1, stride, gain=1.0)
            x = b.relu(b.add(y, x))
    return b.finish(b.softmax(b.gemm(b.flatten(b.global_pool(x)), 1000)))


def dense(layers: int, width: int) -> onnx.ModelProto:
    """Fully connected layers of one width: nothing but weights."""
    b = Builder("dense", [1, width])
    x = "x"
    for _ in range(layers):
        x = b.relu(b.gemm(x, width))
    return b.finish(x)


def quantised(model: onnx.ModelProto, per_channel: bool = False) -> onnx.ModelProto:
    """The model in 8-bit integers, as `cloister quantize` makes it from standard normal samples."""
    (value,) = model.graph.input
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    samples = np.random.default_rng(0).standard_normal((_SAMPLES, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "quantised.onnx"
        quantize_model(model, samples, output, per_channel=per_channel)
        return onnx.load(output)


#: Networks by name; the small ones are measured unless others are asked for.
NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "lenet": lenet,
    "vgg7": vgg7,
    "resnet20": resnet20,
    "squeezenet": squeezenet,
    "mobilenetv2": mobilenetv2,
    "resnet50": resnet50,
    "lenet_int8": lambda: quantised(lenet()),
    "vgg7_int8": lambda: quantised(vgg7()),
    "resnet20_int8": lambda: quantised(resnet20()),
    "resnet20_int8pc": lambda: quantised(resnet20(), per_channel=True),
}
SMALL = ("lenet", "vgg7", "resnet20")
#: Beside them in the suite models: the same in 8-bit integers, one scale for a tensor, or (pc) for a channel.
SMALL_INT8 = ("lenet_int8", "vgg7_int8", "resnet20_int8", "resnet20_int8pc")

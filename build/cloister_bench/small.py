# SPDX-License-Identifier: BSD-2-Clause
"""The calibration's small models: what monitors and narrow backbones consist of, a few channels on a few pixels.

There a kernel is mostly its beginning and its end, which the larger models of :mod:`cloister_bench.corpus` hardly show.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from cloister_bench.builder import Builder
from cloister_bench.quantised import quantised

Model = tuple[str, onnx.ModelProto]

#: Kernel, stride, channels in and out, side.
_CONVOLUTIONS = (
    (1, 1, 1, 2, 5), (1, 1, 2, 3, 1), (1, 1, 3, 8, 7), (1, 1, 4, 16, 2), (1, 1, 5, 5, 3), (1, 1, 6, 24, 4),
    (1, 1, 8, 2, 10), (1, 1, 12, 8, 6), (1, 1, 16, 4, 16), (1, 1, 20, 16, 3), (1, 1, 24, 32, 5), (1, 1, 32, 8, 2),
    (1, 1, 40, 4, 1), (1, 1, 48, 16, 7), (1, 1, 9, 32, 9), (1, 1, 14, 6, 12), (1, 1, 2, 8, 20), (1, 1, 18, 2, 4),
    (3, 1, 1, 3, 9), (3, 1, 2, 2, 4), (3, 1, 2, 4, 17), (3, 1, 3, 6, 12), (3, 1, 4, 2, 6), (3, 1, 4, 12, 3),
    (3, 1, 5, 8, 10), (3, 1, 6, 6, 2), (3, 1, 6, 3, 26), (3, 1, 8, 16, 5), (3, 1, 8, 2, 13), (3, 1, 10, 4, 7),
    (3, 1, 12, 24, 4), (3, 1, 16, 8, 3), (3, 1, 16, 32, 6), (3, 1, 20, 20, 2), (3, 1, 24, 12, 7), (3, 1, 32, 16, 3),
    (3, 1, 28, 6, 11), (3, 1, 1, 12, 22), (3, 1, 48, 20, 4), (3, 1, 14, 14, 15), (3, 1, 18, 40, 8), (3, 1, 36, 36, 5),
    (3, 2, 2, 4, 14), (3, 2, 3, 8, 9), (3, 2, 4, 6, 20), (3, 2, 6, 12, 6), (3, 2, 8, 20, 11), (3, 2, 12, 24, 10),
    (3, 2, 16, 10, 7), (3, 4, 3, 6, 24), (3, 2, 1, 16, 13), (3, 2, 20, 40, 5), (3, 1, 12, 3, 30),
    (5, 1, 1, 4, 12), (5, 1, 1, 2, 20), (5, 1, 2, 3, 9), (5, 1, 3, 2, 16), (5, 1, 4, 5, 7), (5, 1, 5, 3, 13),
    (5, 4, 3, 8, 20), (5, 4, 1, 16, 12), (5, 8, 3, 12, 40), (5, 4, 3, 4, 36), (5, 4, 1, 8, 24), (5, 2, 4, 8, 10),
    (1, 2, 4, 8, 10), (1, 2, 6, 12, 9), (1, 2, 8, 20, 12), (1, 2, 12, 24, 7), (1, 2, 20, 40, 6),
)  # fmt: skip
#: Channels, side; depthwise 3x3.
_DEPTHWISE = (
    (2, 5), (3, 12), (4, 3), (4, 7), (6, 8), (8, 2), (8, 4), (8, 18), (12, 6), (12, 1), (16, 3), (16, 12), (20, 8),
    (24, 4), (24, 15), (32, 2), (32, 9), (40, 6), (2, 20), (5, 14), (10, 3), (28, 1), (36, 13),
)  # fmt: skip
#: Depth, columns.
_DENSE = (
    (2, 10), (3, 6), (4, 16), (5, 10), (7, 24), (8, 8), (10, 12), (11, 40), (12, 3), (14, 10), (16, 32), (18, 48),
    (20, 10), (24, 7), (28, 20), (30, 64), (32, 10), (36, 12), (44, 5), (50, 50), (56, 10), (60, 24), (72, 14),
    (96, 10), (100, 8), (112, 30), (144, 10), (160, 36), (196, 5), (200, 100), (240, 10), (300, 60), (360, 44),
    (420, 10), (600, 20), (800, 10),
)  # fmt: skip
#: Kernel, channels, side; stride is the kernel's.
_POOLS = (
    (2, 1, 6), (2, 4, 8), (2, 8, 12), (2, 7, 4), (2, 24, 6), (2, 20, 14), (3, 5, 9), (3, 8, 12), (4, 1, 12), (4, 2, 24),
    (4, 4, 8), (4, 6, 16), (4, 12, 20), (4, 20, 8), (4, 24, 12), (5, 3, 10), (6, 4, 12), (7, 6, 7), (7, 3, 28),
    (8, 1, 24), (8, 2, 8), (8, 5, 16), (8, 10, 24), (8, 24, 8), (10, 4, 20), (12, 2, 24), (14, 6, 14), (16, 1, 16),
    (16, 3, 32), (16, 12, 16), (6, 40, 6), (3, 48, 3), (5, 30, 5),
)  # fmt: skip
#: Channels and side of images whose first channels, or all, are taken, added and joined.
_IMAGES = ((2, 3), (3, 10), (4, 6), (6, 13), (8, 4), (10, 20), (12, 8), (16, 2), (20, 5), (24, 12), (32, 3), (48, 7))


def images() -> Iterator[Model]:
    """Convolutions and pools."""
    for index, (kernel, stride, inputs, outputs, side) in enumerate(_CONVOLUTIONS):
        b = Builder("conv", [1, inputs, side, side])
        x = b.conv("x", outputs, kernel, stride)
        yield (
            f"small conv {kernel}x{kernel} s{stride} {inputs}->{outputs} {side}",
            b.finish(b.relu(x) if index % 3 else x),
        )
    for index, (channels, side) in enumerate(_DEPTHWISE):
        b = Builder("depthwise", [1, channels, side, side])
        x = b.conv("x", channels, 3, group=channels)
        yield f"small depthwise {channels} {side}", b.finish(b.relu(x) if index % 2 else x)
    for kernel, channels, side in _POOLS:
        for kind in ("MaxPool", "AveragePool"):
            b = Builder("pool", [1, channels, side, side])
            # Behind a convolution the channels lie last.
            x = b.conv("x", channels, 1)
            shape = [1, channels, side // kernel, side // kernel]
            x = b.node(kind, [x], shape, kernel_shape=[kernel] * 2, strides=[kernel] * 2)
            yield f"small {kind} {kernel} {channels} {side}", b.finish(x)


def vectors() -> Iterator[Model]:
    """Dense layers, with and without activation, and the layout before them."""
    for index, (depth, columns) in enumerate(_DENSE):
        b = Builder("dense", [1, depth])
        x = b.gemm("x", columns)
        yield f"small dense {depth}x{columns}", b.finish(b.relu(x) if index % 2 else x)
    for channels, side in _IMAGES:
        b = Builder("flat", [1, channels, side, side])
        x = b.flatten(b.relu(b.conv("x", channels, 1)))
        yield f"small flat {channels} {side}", b.finish(b.gemm(x, 10))


def joints() -> Iterator[Model]:
    """What joins taps: sums, concatenation, some channels of an image."""
    for index, (channels, side) in enumerate(_IMAGES):
        b = Builder("joints", [1, channels, side, side])
        x, y = (b.conv("x", channels, 1) for _ in range(2))
        x = b.relu(b.add(x, y))
        some = max(1, channels // (2, 4, 8)[index % 3])
        bounds = [b.constant(np.array([value], np.int64)) for value in (0, some, 1)]
        part = b.node("Slice", [y, *bounds], [1, some, side, side])
        yield f"small joints {channels} {side}", b.finish(b.relu(b.conv(b.concat(part, x), 4, 1)))
    for count in (6, 10, 16, 28, 48, 84):
        b = Builder("sum", [1, count])
        x, y = b.gemm("x", count), b.gemm("x", count)
        yield f"small sum {count}", b.finish(b.relu(b.add(x, y)))


def eights() -> Iterator[Model]:
    """The same in 8 bits."""
    for index, (name, model) in enumerate((*images(), *vectors(), *joints())):
        yield f"{name} int8", quantised(model, ("normal", "normal", "uniform", "full")[index % 4])

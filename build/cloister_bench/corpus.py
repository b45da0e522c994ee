# SPDX-License-Identifier: BSD-2-Clause
"""The calibration's models: a few layers each, so chosen that what a kernel's parts cost can be told apart.

Sizes vary one by one and together: channels below, at and between multiples of the vectors, one row and many, images
whose sides are no multiple of a tile. None of them is a network that the estimate is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx

from cloister_bench import small
from cloister_bench.builder import Builder
from cloister_bench.quantised import quantised

Model = tuple[str, onnx.ModelProto]

#: Kernel, stride, channels in and out, side, groups.
_CONVOLUTIONS = (
    (3, 1, 64, 64, 16, 1), (3, 1, 64, 64, 8, 1), (3, 1, 32, 32, 16, 1), (3, 1, 128, 128, 14, 1),
    (3, 1, 24, 40, 13, 1),
    (3, 1, 512, 64, 7, 1), (3, 1, 18, 12, 10, 1), (3, 1, 256, 24, 6, 1), (3, 1, 48, 192, 13, 1), (3, 1, 33, 17, 9, 1),
    (3, 1, 20, 100, 28, 1), (3, 1, 64, 8, 33, 1), (3, 1, 192, 512, 4, 1), (3, 1, 96, 208, 15, 1),
    (3, 2, 16, 32, 32, 1), (3, 2, 64, 128, 16, 1), (3, 2, 128, 32, 15, 1), (3, 2, 24, 48, 56, 1),
    (3, 2, 3, 32, 64, 1),
    (3, 1, 16, 16, 32, 1), (3, 1, 3, 16, 32, 1), (3, 1, 8, 8, 20, 1), (3, 1, 1, 8, 28, 1), (3, 1, 4, 16, 48, 1),
    (3, 1, 16, 64, 12, 1), (3, 1, 12, 20, 9, 1), (3, 1, 3, 64, 60, 1), (3, 1, 10, 9, 5, 1),
    (3, 1, 4, 4, 40, 1), (3, 1, 8, 4, 30, 1), (3, 1, 3, 8, 24, 1), (3, 1, 8, 12, 11, 1),
    (5, 1, 6, 6, 14, 1), (5, 1, 3, 6, 28, 1), (5, 1, 16, 32, 14, 1), (5, 1, 48, 96, 13, 1), (5, 1, 32, 64, 9, 1),
    (5, 2, 12, 24, 30, 1), (5, 1, 1, 20, 24, 1), (5, 1, 24, 24, 27, 1), (7, 2, 3, 64, 56, 1), (7, 2, 3, 24, 96, 1),
    (7, 2, 16, 16, 28, 1), (7, 1, 32, 16, 14, 1), (11, 4, 3, 48, 67, 1), (3, 2, 64, 64, 9, 1), (5, 2, 32, 16, 20, 1),
    (1, 1, 64, 64, 16, 1), (1, 1, 64, 256, 14, 1), (1, 1, 256, 64, 14, 1), (1, 1, 16, 96, 30, 1),
    (1, 1, 96, 24, 28, 1),
    (1, 1, 1024, 128, 7, 1), (1, 1, 2048, 64, 7, 1), (1, 1, 13, 30, 9, 1), (1, 1, 3, 8, 20, 1),
    (1, 1, 160, 960, 7, 1),
    (1, 1, 512, 1000, 3, 1), (1, 1, 34, 70, 5, 1), (1, 1, 480, 16, 14, 1), (1, 1, 128, 20, 1, 1),
    (1, 1, 32, 1, 12, 1), (1, 1, 512, 64, 1, 1), (1, 1, 40, 240, 1, 1), (1, 1, 24, 96, 2, 1),
    (1, 1, 960, 40, 2, 1), (1, 1, 192, 192, 8, 1), (1, 1, 20, 60, 33, 1), (1, 1, 72, 12, 17, 1),
    (1, 1, 128, 512, 6, 1),
    (1, 1, 7, 16, 40, 1), (1, 1, 336, 112, 5, 1),
    (1, 2, 64, 128, 16, 1), (1, 2, 256, 512, 14, 1), (1, 2, 16, 32, 32, 1), (1, 2, 32, 40, 15, 1),
    (1, 2, 24, 8, 9, 1),
    (3, 2, 3, 16, 224, 1), (1, 1, 16, 8, 112, 1), (3, 1, 16, 8, 112, 1), (3, 1, 64, 32, 56, 1),
    (1, 1, 64, 2048, 3, 1),
    (7, 2, 3, 96, 111, 1), (5, 1, 64, 8, 56, 1), (3, 2, 256, 16, 57, 1),
    (3, 1, 32, 32, 14, 4), (1, 1, 64, 64, 14, 4), (3, 1, 24, 24, 9, 3), (5, 1, 64, 32, 13, 2), (1, 1, 240, 60, 7, 3),
)  # fmt: skip
#: Kernel, stride, channels, side.
_DEPTHWISE = (
    (3, 1, 64, 16), (3, 1, 32, 56), (3, 1, 8, 10), (3, 1, 512, 7), (3, 1, 144, 14), (3, 1, 24, 27), (3, 1, 96, 9),
    (3, 1, 16, 40), (3, 1, 960, 7), (3, 1, 36, 112), (3, 1, 40, 5),
    (3, 2, 64, 16), (3, 2, 96, 56), (3, 2, 24, 28), (3, 2, 240, 15), (3, 2, 8, 33), (3, 2, 16, 112), (3, 2, 576, 14),
    (3, 2, 40, 10),
    (5, 1, 64, 16), (5, 1, 24, 28), (5, 1, 120, 9), (5, 1, 8, 40), (5, 1, 240, 7), (5, 1, 16, 13), (5, 1, 48, 20),
    (5, 1, 32, 4),
    (5, 1, 20, 33), (5, 1, 88, 14), (5, 1, 4, 11), (5, 1, 64, 6), (5, 2, 20, 33), (5, 2, 88, 14), (5, 2, 4, 30),
    (5, 2, 28, 18), (5, 1, 28, 18), (3, 2, 20, 41), (3, 2, 88, 12), (3, 2, 4, 22), (3, 2, 320, 7), (3, 2, 48, 70),
    (3, 1, 20, 33), (3, 1, 88, 14), (3, 1, 4, 30), (3, 1, 320, 8),
    (5, 1, 200, 5), (5, 1, 12, 60), (5, 2, 32, 8), (5, 2, 200, 10), (5, 2, 12, 61), (5, 2, 160, 7),
    (3, 2, 12, 112), (3, 2, 192, 8),
    (5, 2, 64, 16), (5, 2, 24, 28), (5, 2, 120, 15), (5, 2, 8, 40), (5, 2, 240, 14), (5, 2, 16, 21), (5, 2, 48, 32),
    (3, 1, 6, 12), (3, 1, 3, 40), (7, 1, 16, 14), (7, 1, 64, 9), (3, 1, 13, 9), (7, 2, 24, 20), (3, 1, 4, 2),
    (4, 1, 32, 16), (3, 3, 16, 20), (1, 1, 64, 14), (1, 1, 6, 30), (9, 1, 8, 20), (2, 2, 48, 24), (5, 1, 9, 11),
)  # fmt: skip
#: Rows, depth, columns.
_MATRICES = (
    (1, 512, 512), (1, 294, 120), (1, 120, 84), (1, 84, 10), (1, 64, 10), (1, 2048, 100), (1, 33, 17), (1, 7, 300),
    (1, 1024, 8), (64, 256, 256), (16, 64, 64), (5, 100, 50), (50, 30, 12), (8, 512, 32), (3, 9, 9), (12, 128, 1000),
    (100, 4, 16), (7, 61, 24), (9, 1000, 20), (1, 9216, 16), (1, 25088, 8), (1, 2000, 4), (1, 700, 16),
    (1, 1500, 30), (1, 40, 1000),
    (1, 3000, 64), (2, 300, 40), (6, 900, 9), (20, 11, 33), (33, 200, 5), (1, 1280, 160), (1, 16, 16), (4, 512, 128),
)  # fmt: skip
#: Kind, kernel, stride, pad, channels, side.
_POOLS = (
    ("MaxPool", 2, 2, 0, 16, 32), ("MaxPool", 2, 2, 0, 6, 28), ("MaxPool", 3, 2, 1, 64, 28),
    ("MaxPool", 3, 2, 0, 96, 27),
    ("MaxPool", 3, 1, 1, 24, 14), ("MaxPool", 2, 2, 0, 3, 20), ("MaxPool", 5, 1, 2, 40, 10),
    ("MaxPool", 3, 3, 0, 8, 30),
    ("MaxPool", 2, 1, 0, 12, 9), ("MaxPool", 3, 2, 0, 13, 15), ("MaxPool", 2, 2, 0, 256, 8),
    ("MaxPool", 7, 7, 0, 32, 14),
    ("MaxPool", 3, 2, 1, 2, 30), ("MaxPool", 2, 2, 0, 1, 24), ("MaxPool", 5, 5, 0, 1, 20),
    ("MaxPool", 2, 2, 0, 18, 40),
    ("MaxPool", 2, 2, 0, 12, 14), ("MaxPool", 2, 2, 0, 40, 22), ("MaxPool", 2, 2, 0, 2, 12),
    ("MaxPool", 2, 2, 0, 5, 50),
    ("MaxPool", 2, 2, 0, 9, 26), ("MaxPool", 2, 1, 0, 64, 10), ("MaxPool", 3, 2, 0, 64, 55),
    ("MaxPool", 3, 2, 1, 5, 41),
    ("MaxPool", 3, 1, 1, 100, 9), ("MaxPool", 4, 4, 0, 20, 24), ("MaxPool", 3, 2, 0, 160, 13),
    ("MaxPool", 3, 2, 1, 12, 20),
    ("AveragePool", 3, 2, 1, 5, 21), ("AveragePool", 2, 2, 0, 9, 26), ("AveragePool", 5, 5, 0, 6, 25),
    ("AveragePool", 3, 1, 1, 100, 9), ("AveragePool", 2, 2, 0, 40, 22), ("AveragePool", 14, 14, 0, 16, 14),
    ("AveragePool", 2, 2, 0, 16, 32), ("AveragePool", 3, 2, 1, 64, 28), ("AveragePool", 3, 1, 1, 24, 14),
    ("AveragePool", 7, 7, 0, 512, 7), ("AveragePool", 2, 2, 0, 3, 20), ("AveragePool", 5, 1, 2, 40, 10),
    ("AveragePool", 2, 2, 0, 13, 16), ("AveragePool", 8, 8, 0, 100, 8), ("AveragePool", 4, 4, 0, 2, 16),
    ("AveragePool", 3, 3, 0, 28, 15), ("AveragePool", 2, 2, 0, 132, 14), ("AveragePool", 6, 6, 0, 1, 18),
)  # fmt: skip
_UNARY = (
    "Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal",
    "Erf", "Softplus", "LeakyRelu",
)  # fmt: skip
_COUNTS = (1, 6, 100, 801, 4000)
#: Shapes of the operands of an elementwise operator.
_OPERANDS = (
    ((4096,), (4096,)), ((100,), (100,)), ((7,), (7,)), ((64, 50), (1, 50)), ((50, 64), (50, 1)), ((30, 3), (1, 3)),
    ((200, 8), (1, 8)), ((10, 12, 5), (10, 1, 5)), ((500, 18), (1, 18)), ((40, 33), (40, 1)), ((3000,), (1,)),
    ((12, 1), (1, 20)), ((2, 100, 40), (2, 1, 40)), ((16384,), (16384,)), ((50000,), (50000,)),
    ((802816,), (802816,)),
)  # fmt: skip
#: Shape, permutation.
_TRANSPOSES = (
    ((3, 50176), (1, 0)), ((4, 900), (1, 0)), ((3, 50), (1, 0)), ((3, 12288), (1, 0)), ((4, 77), (1, 0)),
    ((2, 500), (1, 0)),
    ((3, 1024), (1, 0)), ((16, 784), (1, 0)), ((784, 16), (1, 0)), ((64, 64), (1, 0)), ((7, 33), (1, 0)),
    ((1, 900), (1, 0)),
    ((2, 30, 40), (0, 2, 1)), ((100, 6), (1, 0)), ((5, 300), (1, 0)), ((256, 49), (1, 0)),
    ((2, 3, 4, 5), (3, 1, 2, 0)),
    ((10, 20, 30), (2, 1, 0)), ((6, 8, 50), (1, 0, 2)), ((12, 40, 5), (1, 0, 2)), ((1000, 9), (1, 0)),
    ((3, 3136), (1, 0)),
    ((8, 12, 200), (1, 0, 2)), ((30, 6, 9), (2, 0, 1)), ((40, 3, 7, 2), (0, 2, 1, 3)), ((23, 31), (1, 0)),
    ((4, 100, 3), (0, 2, 1)),
)  # fmt: skip
#: Shapes that are joined along the last axis.
_CONCATS = (
    ((100, 64), (100, 64)), ((784, 16), (784, 48)), ((50, 3), (50, 5)), ((1, 4000), (1, 100)), ((400, 12), (400, 6)),
    ((200, 256), (200, 31)), ((300, 1), (300, 2)), ((900, 24), (900, 8)),
)  # fmt: skip
#: Shape, axes.
_REDUCTIONS = (
    ((8, 8, 64), (0, 1)), ((64, 64), (1,)), ((7, 7, 512), (0, 1)), ((10, 100), (1,)), ((200, 12), (0,)),
    ((500, 3), (1,)),
    ((9, 9, 30), (0, 1)), ((4, 50, 20), (1,)), ((3, 1000), (1,)), ((13, 13, 100), (0, 1)), ((40, 37), (1,)),
    ((6, 6, 5), (0, 1)),
    ((1, 10), (1,)), ((900, 8), (1,)), ((20, 20), (1,)), ((8, 513), (1,)), ((100, 5), (1,)), ((16, 16, 32), (0, 1)),
    ((300, 6), (1,)), ((25, 64), (0,)),
)  # fmt: skip


def convolutions() -> Iterator[Model]:
    """Convolutions, with and without activation."""
    for index, (kernel, stride, inputs, outputs, side, group) in enumerate(_CONVOLUTIONS):
        b = Builder("conv", [1, inputs, side, side])
        x = b.conv("x", outputs, kernel, stride, group=group)
        x = (lambda x: x, b.relu, b.relu6)[index % 3](x)
        yield f"conv {kernel}x{kernel} s{stride} {inputs}->{outputs} {side} g{group}", b.finish(x)


def depthwise() -> Iterator[Model]:
    """Depthwise convolutions."""
    for index, (kernel, stride, channels, side) in enumerate(_DEPTHWISE):
        b = Builder("depthwise", [1, channels, side, side])
        x = b.conv("x", channels, kernel, stride, group=channels)
        yield f"depthwise {kernel}x{kernel} s{stride} {channels} {side}", b.finish((lambda x: x, b.relu6)[index % 2](x))


def matrices() -> Iterator[Model]:
    """Products of a matrix with constant weights, and of two matrices."""
    for index, (rows, depth, columns) in enumerate(_MATRICES):
        b = Builder("gemm", [rows, depth])
        x = b.gemm("x", columns)
        yield f"gemm {rows}x{depth}x{columns}", b.finish(b.relu(x) if index % 2 else x)
    for rows, depth, _ in _MATRICES[9:]:
        b = Builder("matmul", [rows, depth])
        y = b.node("Neg", [b.node("Transpose", ["x"], [depth, rows])], [depth, rows])
        yield f"matmul {rows}x{depth}x{rows}", b.finish(b.node("MatMul", ["x", y], [rows, rows]))
    for batch, rows, depth, columns in ((4, 20, 16, 20), (8, 9, 32, 9), (2, 50, 8, 50)):
        b = Builder("matmul", [batch, rows, depth])
        y = b.node("Transpose", ["x"], [batch, depth, rows], perm=[0, 2, 1])
        yield f"matmul {batch}x{rows}x{depth}x{columns}", b.finish(b.node("MatMul", ["x", y], [batch, rows, rows]))


def pools() -> Iterator[Model]:
    """Windows of all kinds."""
    for kind, kernel, stride, pad, channels, side in _POOLS:
        b = Builder("pool", [1, channels, side, side])
        yield f"{kind} {kernel} s{stride} {channels} {side}", b.finish(_pool(b, kind, kernel, stride, pad))
    for channels, side in ((64, 8), (512, 7), (1280, 7), (10, 15), (3, 20), (1000, 13)):
        b = Builder("global", [1, channels, side, side])
        yield f"global {channels} {side}", b.finish(b.global_pool("x"))


def _pool(b: Builder, kind: str, kernel: int, stride: int, pad: int) -> str:
    n, channels, height, width = b.shapes["x"]
    size = [(side + 2 * pad - kernel) // stride + 1 for side in (height, width)]
    sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    return b.node(kind, ["x"], [n, channels, *size], **sizes)


def elementwise() -> Iterator[Model]:
    """Functions of one and of two operands."""
    for function in _UNARY:
        for count in _COUNTS:
            b = Builder("unary", [count])
            yield f"{function} {count}", b.finish(b.node(function, ["x"], [count]))
    for count in _COUNTS:
        b = Builder("clip", [count])
        yield f"Clip {count}", b.finish(b.relu6("x"))
    for function in ("Add", "Mul", "Div", "PRelu", "Pow"):
        for left, right in _OPERANDS:
            if function == "PRelu" and np.broadcast_shapes(left, right) != left:
                continue
            b = Builder("binary", left)
            other = b.constant(np.full(right, 1.5, np.float32))
            yield (
                f"{function} {left} {right}",
                b.finish(b.node(function, ["x", other], np.broadcast_shapes(left, right))),
            )
    for left, right in _OPERANDS:
        b = Builder("added", left)
        other = b.constant(np.full(right, 1.5, np.float32))
        yield (
            f"Add Relu {left} {right}",
            b.finish(b.relu(b.node("Add", ["x", other], np.broadcast_shapes(left, right)))),
        )


def moves() -> Iterator[Model]:
    """What only moves elements."""
    for shape, order in _TRANSPOSES:
        b = Builder("transpose", shape)
        result = [shape[axis] for axis in order]
        yield f"Transpose {shape} {order}", b.finish(b.node("Transpose", ["x"], result, perm=order))
    for left, right in _CONCATS:
        b = Builder("concat", left)
        other = b.constant(np.ones(right, np.float32))
        total = [left[0], left[1] + right[1]]
        yield f"Concat {left} {right}", b.finish(b.node("Concat", [b.node("Neg", ["x"], left), other], total, axis=1))
    for side, channels in ((14, 20), (6, 64), (30, 3), (9, 17), (12, 32), (20, 8)):
        for mode in ("nearest", "linear"):
            wide = [1, channels, 2 * side, 2 * side]
            b = Builder("resize", [1, channels, side, side])
            scales = b.constant(np.array([1, 1, 2, 2], np.float32))
            yield (
                f"Resize {mode} {channels} {side}",
                b.finish(b.node("Resize", ["x", "", scales], wide, mode=mode)),
            )
    for side, channels, pad in ((14, 20, 1), (6, 64, 2), (30, 3, 3)):
        b = Builder("pad", [1, channels, side, side])
        pads = b.constant(np.array([0, 0, pad, pad] * 2, np.int64))
        big = [1, channels, side + 2 * pad, side + 2 * pad]
        yield f"Pad {channels} {side}", b.finish(b.node("Pad", ["x", pads], big))


def reductions() -> Iterator[Model]:
    """Sums, extremes, normalisations."""
    for shape, axes in _REDUCTIONS:
        kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
        for function in ("ReduceMean", "ReduceMax"):
            b = Builder("reduce", shape)
            yield f"{function} {shape} {axes}", b.finish(b.node(function, ["x"], kept, axes=list(axes)))
        b = Builder("argmax", shape)
        kept = [1 if axis == axes[-1] else size for axis, size in enumerate(shape)]
        result = b.node("ArgMax", ["x"], kept, axis=axes[-1], keepdims=1)
        yield f"ArgMax {shape} {axes[-1]}", _integers(b, result)
    for rows, columns in (
        (1, 10),
        (1, 1000),
        (20, 64),
        (5, 7),
        (100, 12),
        (1, 3),
        (1, 101),
        (40, 10),
        (64, 49),
        (300, 5),
        (1, 4096),
    ):
        for function in ("Softmax", "LogSoftmax"):
            for axis in (0, 1):
                b = Builder("softmax", [rows, columns])
                yield (
                    f"{function} {rows}x{columns} {axis}",
                    b.finish(b.node(function, ["x"], [rows, columns], axis=axis)),
                )
    for channels, side, window in ((64, 14, 5), (20, 27, 5), (96, 9, 3), (12, 20, 7), (192, 28, 5)):
        for beta in (0.75, 0.5):
            b = Builder("lrn", [1, channels, side, side])
            # Behind a convolution it is computed with the channels last, as in the networks that have it.
            x = b.conv("x", channels, 1)
            yield (
                f"LRN {channels} {side} {window} {beta}",
                b.finish(b.node("LRN", [x], b.shapes[x], size=window, beta=beta)),
            )
            b = Builder("lrn", [1, channels, side, side])
            yield (
                f"LRN planes {channels} {side} {window} {beta}",
                b.finish(b.node("LRN", ["x"], b.shapes["x"], size=window, beta=beta)),
            )


def _integers(b: Builder, result: str) -> onnx.ModelProto:
    """A model whose result is int64."""
    shape = b.shapes[result]
    cast = b.node("Cast", [result], shape, to=onnx.TensorProto.FLOAT)
    model = b.finish(cast)
    model.graph.node.pop()
    value = model.graph.output[0]
    value.name, value.type.tensor_type.elem_type = result, onnx.TensorProto.INT64
    return model


def eights() -> Iterator[Model]:
    """The 8-bit forms: of convolutions and matrices with each kind of weights, of pools, sums and tables."""
    for group in (convolutions, depthwise):
        for index, (name, model) in enumerate(group()):
            for kind in ("normal", "uniform") if index % 4 else ("normal", "full"):
                yield f"{name} {kind}", quantised(model, kind)
    for rows, depth, columns in _MATRICES:
        b = Builder("gemm", [rows, depth])
        model = b.finish(b.gemm("x", columns))
        for kind in ("normal", "uniform", "full"):
            yield f"gemm {rows}x{depth}x{columns} {kind}", quantised(model, kind)
    for name, model in pools():
        yield f"{name} int8", quantised(model)
    for left, right in _OPERANDS:
        for function in ("Add", "Mul"):
            b = Builder("binary", left)
            other = b.weights(*right, fan_in=1)
            model = b.finish(b.node(function, ["x", other], np.broadcast_shapes(left, right)))
            yield f"{function} {left} {right} int8", quantised(model)
    for count in _COUNTS:
        b = Builder("table", [count])
        yield f"Sigmoid {count} int8", quantised(b.finish(b.node("Sigmoid", ["x"], [count])))


GROUPS: dict[str, Callable[[], Iterator[Model]]] = {
    "small images": small.images,
    "small vectors": small.vectors,
    "small joints": small.joints,
    "small eights": small.eights,
    "convolutions": convolutions,
    "depthwise": depthwise,
    "matrices": matrices,
    "pools": pools,
    "elementwise": elementwise,
    "moves": moves,
    "reductions": reductions,
    "eights": eights,
}

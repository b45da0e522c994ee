# SPDX-License-Identifier: BSD-2-Clause
"""Models of one kernel, in any number of copies side by side.

The difference of two such models is that of the copies alone: inputs, outputs, their layout, and the boundary cancel
out. Of each copy's result one element a channel is used, so that nothing is left out as dead and little else is run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from cloister_bench.builder import Builder
from cloister_bench.networks import quantised


@dataclass(frozen=True)
class Kernel:
    """A kernel and its shape.

    Attributes:
        kind: `conv`, `depthwise`, `gemm` or `matmul`.
        size: kernel's side.
        inputs, outputs: channels, or columns.
        side: of the input's image, or its rows.
    """

    kind: str
    size: int
    stride: int
    inputs: int
    outputs: int
    side: int

    @property
    def name(self) -> str:
        """Kernel and shape, as the tables show them."""
        if self.kind in ("gemm", "matmul"):
            return f"{self.kind} {self.side}x{self.inputs}x{self.outputs}"
        channels = f"{self.inputs}->{self.outputs}" if self.kind == "conv" else f"{self.inputs}"
        return f"{self.kind} {self.size}x{self.size} s{self.stride} {channels} {self.side}x{self.side}"

    def model(self, copies: int, int8: bool = False) -> onnx.ModelProto:
        """The kernel `copies` times side by side on one input."""
        if int8:
            return quantised(self.model(copies))
        if self.kind in ("gemm", "matmul"):
            return self._matrix(copies)
        b = Builder("kernel", [1, self.inputs, self.side, self.side])
        group = self.inputs if self.kind == "depthwise" else 1
        # Without this the input's layout would be changed for each copy.
        x = b.relu(b.conv("x", self.inputs, 1, group=self.inputs))
        parts = [b.conv(x, self.outputs, self.size, self.stride, group=group) for _ in range(copies)]
        return b.finish(_sum_of_corners(b, parts, (2, 3)))

    def _matrix(self, copies: int) -> onnx.ModelProto:
        b = Builder("kernel", [self.side, self.inputs])
        x = b.relu("x")
        if self.kind == "gemm":
            return b.finish(_sum_of_corners(b, [b.gemm(x, self.outputs) for _ in range(copies)], (0,)))
        # The other operand is computed, so that it is no constant; one a copy, which costs little beside the product.
        parts = []
        for _ in range(copies):
            row = b.weights(self.inputs, self.outputs, fan_in=self.inputs)
            one = corner(b, x, (0, 1))
            other = b.node("Add", [row, one], [self.inputs, self.outputs])
            parts.append(b.node("MatMul", [x, other], [self.side, self.outputs]))
        return b.finish(_sum_of_corners(b, parts, (0,)))


def corner(b: Builder, x: str, axes: tuple[int, ...]) -> str:
    """The first element along some axes."""
    shape = [1 if axis in axes else size for axis, size in enumerate(b.shapes[x])]
    bounds = [b.constant(np.full(len(axes), value, np.int64)) for value in (0, 1)]
    return b.node("Slice", [x, *bounds, b.constant(np.array(axes, np.int64))], shape)


def _sum_of_corners(b: Builder, parts: list[str], axes: tuple[int, ...]) -> str:
    result, *others = [corner(b, part, axes) for part in parts]
    for other in others:
        result = b.add(result, other)
    return b.relu(result)


KERNELS = (
    Kernel("conv", 3, 1, 64, 64, 16),
    Kernel("conv", 3, 1, 16, 16, 32),
    Kernel("conv", 3, 1, 32, 32, 16),
    Kernel("conv", 3, 1, 64, 64, 8),
    Kernel("conv", 3, 1, 128, 128, 14),
    Kernel("conv", 3, 1, 3, 16, 32),
    Kernel("conv", 3, 2, 16, 32, 32),
    Kernel("conv", 3, 2, 64, 128, 16),
    Kernel("conv", 5, 1, 6, 6, 14),
    Kernel("conv", 7, 2, 3, 64, 56),
    Kernel("conv", 1, 1, 64, 64, 16),
    Kernel("conv", 1, 1, 64, 256, 14),
    Kernel("conv", 1, 1, 256, 64, 14),
    Kernel("conv", 1, 2, 64, 128, 16),
    Kernel("depthwise", 3, 1, 64, 64, 16),
    Kernel("depthwise", 3, 1, 32, 32, 56),
    Kernel("depthwise", 3, 2, 64, 64, 16),
    Kernel("gemm", 0, 0, 512, 512, 1),
    Kernel("gemm", 0, 0, 256, 256, 64),
    Kernel("matmul", 0, 0, 64, 64, 64),
)
QUICK = KERNELS[:1]

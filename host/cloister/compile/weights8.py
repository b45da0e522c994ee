# SPDX-License-Identifier: BSD-2-Clause
"""Weights of float models kept as 8-bit integers: a quarter of the bytes to ship, decrypt and hold.

Every output channel has its own scale, its largest weight over 127. Before the product, DEQUANTIZE and a BINARY
multiplication expand the weights of one kernel into the arena; all arithmetic stays float32.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from math import prod

import numpy as np

from cloister.compile.lowering import EAGER, Buffer, Constant, Lowering
from cloister.compile.sites import PANELS, Site, Slice
from cloister.ir.graph import Array, Shape
from cloister.wire import C

#: Smaller weights stay float32: the kernels that expand them would cost more than their bytes.
SMALLEST = 1024
LARGEST = 127.0


def split(weights: Array) -> tuple[Array, Array]:
    """Float panels (panels, depth, 8) as int8 of the same shape and float32 scales (panels, 8)."""
    scales = np.abs(weights).max(axis=1) / np.float32(LARGEST)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.rint(weights / scales[:, None]).clip(-LARGEST, LARGEST).astype(np.int8), scales


def expanded(
    ctx: Lowering, shape: Shape, make: Callable[[], Array], key: Hashable = None, part: Slice | None = None
) -> Buffer:
    """Packed float weights in the arena, from 8-bit ones in the partition.

    ``shape`` ends in (kernel_h, kernel_w, in_c, 8) or (k, 8), the depth and the columns of a panel. A password for the
    layer's slice ``part`` changes the scales, which lie as weights of depth 1 would.
    """
    columns = shape[-1]
    panels = shape[0] if len(shape) == 3 else prod(shape[:2])
    depth = prod(shape) // (panels * columns)

    def parts() -> tuple[Array, Array]:
        return split(make().reshape(panels, depth, columns))

    if prod(shape) <= EAGER:
        values, factors = parts()
        small, scales = ctx.constant(values), ctx.constant(factors, part)
    else:
        small = ctx.packed((panels, depth, columns), lambda: parts()[0], ("int8", key) if key else None, np.int8)
        lazy = Constant(panels * columns * 4, lambda: np.ascontiguousarray(parts()[1], "<f4").tobytes())
        scales = Buffer(lazy, (panels, columns), np.dtype(np.float32), (0, 1))
    whole = ctx.temporary((panels, depth, columns))
    ctx.emit("DEQUANTIZE", {"in": small, "out": whole, "count": whole.count, "zero": 0, "scale": 1.0})
    fields = {
        "a": whole,
        "b": scales,
        "out": whole,
        "function": C.CL_BINARY_MUL,
        "rank": 3,
        "dims": [panels, depth, columns],
        "a_strides": [depth * columns, columns, 1],
        "b_strides": [columns, 0, 1],
    }
    site = None if part is None else Site(replace(part, depth=1), PANELS, scales, None)
    ctx.emit("BINARY", fields, site=site)
    return Buffer(whole.memory, shape, whole.dtype, tuple(range(len(shape))), whole.start)

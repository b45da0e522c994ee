# SPDX-License-Identifier: BSD-2-Clause
"""Weights in the order in which the kernels read them (cloister_format.h)."""

from __future__ import annotations

import numpy as np

from cloister.ir.graph import Array

PANEL = 8


def pack_panels(matrix: Array) -> Array:
    """(k, n) as ceil(n / 8) panels of (k, 8), missing columns zero; returns (panels, k, 8)."""
    k, n = matrix.shape
    panels = -(-n // PANEL)
    padded = np.zeros((k, panels * PANEL), dtype=matrix.dtype)
    padded[:, :n] = matrix
    return np.ascontiguousarray(padded.reshape(k, panels, PANEL).transpose(1, 0, 2))


def panel_count(columns: int) -> int:
    """Panels that hold ``columns`` columns."""
    return -(-columns // PANEL)


def pack_conv2d(weights: Array, group: int) -> Array:
    """(out_c, in_c / group, kh, kw) as panels (group, panels, kh, kw, in_c / group, 8)."""
    out_c, in_c, kernel_h, kernel_w = weights.shape
    each = out_c // group
    matrices = weights.reshape(group, each, in_c, kernel_h, kernel_w).transpose(0, 3, 4, 2, 1)
    panels = [pack_panels(matrix.reshape(-1, each)) for matrix in matrices]
    return np.stack(panels).reshape(group, -1, kernel_h, kernel_w, in_c, PANEL)


def pack_depthwise(weights: Array) -> Array:
    """(c, 1, kh, kw) as (kh, kw, c)."""
    return np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0))

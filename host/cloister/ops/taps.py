# SPDX-License-Identifier: BSD-2-Clause
"""Tables of the RESAMPLE kernel: which input positions make up each output position along one axis.

Resize is separable, so that a tensor is resampled one axis after the other; ``Pad`` in its modes ``edge``, ``reflect``
and ``wrap`` is a gather with one position each. Source: the operators Resize and Pad of the ONNX specification
(opset 26) and, for what the text leaves open, the project's reference evaluator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COORDINATE_MODES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
RESIZE_MODES = ("nearest", "linear", "cubic")
PAD_MODES = ("edge", "reflect", "wrap")

#: Index that stands for the outside value.
OUTSIDE = -1


@dataclass(frozen=True)
class Taps:
    """One axis of a resampling.

    Attributes:
        index: int32, (out_n, taps); positions of the input, :data:`OUTSIDE` for the outside value.
        factor: float32, (out_n, taps); ``None`` when each output position is one input position, unchanged.
    """

    index: NDArray[np.int32]
    factor: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ResizeAxis:
    """What Resize does along one axis.

    Attributes:
        length: of the input.
        output: length of the output.
        scale: as the model gives it, or output / input; ``length * scale`` need not be whole.
        roi: start and end of the region of interest, normalised; only for ``tf_crop_and_resize``.
    """

    length: int
    output: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def resized(self) -> float:
        """Length of the output before it is rounded down to a whole number."""
        return self.length * self.scale


def source_positions(axis: ResizeAxis, coordinate_mode: str) -> NDArray[np.float64]:
    """The position in the input of each output position, (out_n,).

    Raises:
        ValueError: an unknown ``coordinate_mode``.
    """
    out = np.arange(axis.output, dtype=np.float64)
    if coordinate_mode in ("half_pixel", "tf_half_pixel_for_nn", "pytorch_half_pixel", "half_pixel_symmetric"):
        if coordinate_mode == "tf_half_pixel_for_nn":
            return (out + 0.5) / axis.scale
        if coordinate_mode == "pytorch_half_pixel" and axis.resized == 1:
            # The specification says 0 here for an output of length 1, its reference -0.5; both read the first element.
            return np.full(axis.output, -0.5)
        offset = 0.0
        if coordinate_mode == "half_pixel_symmetric":
            offset = axis.length / 2 * (1 - axis.output / axis.resized)
        return np.asarray(offset + (out + 0.5) / axis.scale - 0.5)
    if coordinate_mode == "align_corners":
        return np.zeros(axis.output) if axis.resized == 1 else out * (axis.length - 1) / (axis.resized - 1)
    if coordinate_mode == "asymmetric":
        return np.asarray(out / axis.scale)
    if coordinate_mode == "tf_crop_and_resize":
        start, end = axis.roi
        span = (end - start) * (axis.length - 1)
        if axis.resized == 1:
            return np.full(axis.output, span / 2 + start * (axis.length - 1))
        return np.asarray(out * span / (axis.resized - 1) + start * (axis.length - 1))
    raise ValueError(f"unknown coordinate_transformation_mode {coordinate_mode!r}")


def _nearest(position: NDArray[np.float64], nearest_mode: str) -> NDArray[np.int64]:
    if nearest_mode == "floor":
        chosen = np.floor(position)
    elif nearest_mode == "ceil":
        chosen = np.ceil(position)
    elif nearest_mode == "round_prefer_ceil":
        chosen = np.floor(position + 0.5)
    elif nearest_mode == "round_prefer_floor":
        chosen = np.ceil(position - 0.5)
    else:
        raise ValueError(f"unknown nearest_mode {nearest_mode!r}")
    return chosen.astype(np.int64)


def _kernel(mode: str, distance: NDArray[np.float64], cubic_a: float) -> NDArray[np.float64]:
    d = np.abs(distance)
    if mode == "linear":
        return np.asarray(np.maximum(1 - d, 0))
    near = ((cubic_a + 2) * d - (cubic_a + 3)) * d * d + 1
    far = ((cubic_a * d - 5 * cubic_a) * d + 8 * cubic_a) * d - 4 * cubic_a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def resize_taps(
    axis: ResizeAxis,
    *,
    mode: str,
    coordinate_mode: str,
    nearest_mode: str = "round_prefer_floor",
    cubic_a: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
) -> Taps:
    """The table of one axis of Resize.

    Raises:
        ValueError: an unknown mode of any of the three kinds.
    """
    position = source_positions(axis, coordinate_mode)
    last = axis.length - 1
    outside = np.zeros(axis.output, dtype=bool)
    if coordinate_mode == "tf_crop_and_resize":
        outside = (position < 0) | (position > last)

    if mode == "nearest":
        chosen = np.clip(_nearest(position, nearest_mode), 0, last)
        return Taps(np.where(outside, OUTSIDE, chosen).astype(np.int32)[:, None])
    if mode not in RESIZE_MODES:
        raise ValueError(f"unknown mode {mode!r}")

    # A whole position counts as the right end of the interval before it, as in the reference: with antialias the
    # window is not symmetric about it otherwise.
    left = np.ceil(position).astype(np.int64) - 1
    ratio = position - left
    stretch = min(axis.scale, 1.0) if antialias else 1.0
    half = int(np.ceil((1 if mode == "linear" else 2) / stretch))
    steps = np.arange(1 - half, half + 1)
    factor = _kernel(mode, (steps[None, :] - ratio[:, None]) * stretch, cubic_a)
    if antialias:
        factor /= factor.sum(axis=1, keepdims=True)
    index = left[:, None] + steps[None, :]
    if exclude_outside:
        factor = np.where((index < 0) | (index > last), 0.0, factor)
        total = factor.sum(axis=1, keepdims=True)
        factor /= np.where(total == 0, 1.0, total)
    index = np.clip(index, 0, last)
    index[outside] = OUTSIDE
    factor[outside] = 0.0
    factor[outside, 0] = 1.0
    used = np.flatnonzero(np.any(factor != 0, axis=0))
    keep = slice(used[0], used[-1] + 1) if used.size else slice(0, 1)
    return Taps(
        np.ascontiguousarray(index[:, keep], dtype=np.int32), np.ascontiguousarray(factor[:, keep], dtype=np.float32)
    )


def pad_index(length: int, begin: int, end: int, mode: str) -> NDArray[np.int64]:
    """The input position of each output position of Pad along one axis, (begin + length + end,).

    Negative pads cut the input first; what is left is then extended.

    Raises:
        ValueError: an unknown ``mode``, or nothing is left to extend.
    """
    first = max(0, -begin)
    rest = length - first - max(0, -end)
    if rest < 0 or (rest == 0 and (begin > 0 or end > 0)):
        raise ValueError(f"pads ({begin}, {end}) leave nothing of an axis of length {length} to extend")
    position = np.arange(-max(0, begin), rest + max(0, end))
    if mode == "edge":
        position = np.clip(position, 0, max(rest - 1, 0))
    elif mode == "wrap":
        position = position % max(rest, 1)
    elif mode == "reflect":
        period = max(2 * (rest - 1), 1)
        position = position % period
        position = np.minimum(position, period - position) if rest > 1 else np.zeros_like(position)
    else:
        raise ValueError(f"unknown mode {mode!r}")
    return np.asarray(position + first)


def runs(index: NDArray[np.int64]) -> list[tuple[int, int, int, int]]:
    """Cuts a table of positions into runs of constant step, each of which one strided copy does.

    Returns (first output position, length, first input position, step) for each.
    """
    found: list[tuple[int, int, int, int]] = []
    at = 0
    while at < len(index):
        step = int(index[at + 1] - index[at]) if at + 1 < len(index) else 1
        end = at + 1
        while end < len(index) and index[end] - index[end - 1] == step:
            end += 1
        found.append((at, end - at, int(index[at]), step))
        at = end
    return found

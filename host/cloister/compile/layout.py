# SPDX-License-Identifier: BSD-2-Clause
"""How tensors lie in memory: a layout is a permutation, physical axis i holds logical (ONNX) axis layout[i].

All buffers are dense in their physical order.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

Layout = tuple[int, ...]
Shape = tuple[int, ...]


def plain(rank: int) -> Layout:
    """ONNX's own order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Layout:
    """(N, C, spatial...) as (N, spatial..., C); needs a rank of at least 2."""
    if rank < 2:
        raise ValueError(f"rank {rank} has no channels")
    return (0, *range(2, rank), 1)


def physical_shape(shape: Shape, layout: Layout) -> Shape:
    """The logical ``shape`` in the order of memory."""
    return tuple(shape[axis] for axis in layout)


def logical_strides(shape: Shape, layout: Layout) -> tuple[int, ...]:
    """Stride in elements of each logical axis of a dense array."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(layout):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def same_order(shape: Shape, one: Layout, other: Layout) -> bool:
    """The two layouts put the elements of ``shape`` in the same order (axes of size 1 may stand anywhere)."""
    return [axis for axis in one if shape[axis] != 1] == [axis for axis in other if shape[axis] != 1]


def around_axis(shape: Shape, layout: Layout, axis: int) -> tuple[int, int, int]:
    """(outer, n, inner) of a dense array around a logical axis: what the axis-wise kernels take."""
    place = layout.index(axis)
    physical = physical_shape(shape, layout)
    return prod(physical[:place]), physical[place], prod(physical[place + 1 :])


def broadcast_strides(shape: Shape, layout: Layout, to: Shape) -> tuple[int, ...]:
    """Strides that read an array of ``shape`` in ``layout`` as the logical shape ``to`` (numpy's broadcast)."""
    missing = len(to) - len(shape)
    strides = logical_strides(shape, layout)
    return tuple(
        0 if axis < missing or shape[axis - missing] == 1 else strides[axis - missing] for axis in range(len(to))
    )


def merge_axes(dims: Sequence[int], *strides: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """Joins neighbouring axes which all strides allow to be walked as one, and drops those of size 1.

    Returns the new dims (at least one) and the new strides, one list for each given.
    """
    merged: list[int] = []
    walks: list[list[int]] = [[] for _ in strides]
    for position, dim in enumerate(dims):
        steps = [walk[position] for walk in strides]
        if dim == 1:
            continue
        if merged and all(walk[-1] == step * dim for walk, step in zip(walks, steps, strict=True)):
            merged[-1] *= dim
            for walk, step in zip(walks, steps, strict=True):
                walk[-1] = step
        else:
            merged.append(dim)
            for walk, step in zip(walks, steps, strict=True):
                walk.append(step)
    if not merged:
        return [1], [[1] for _ in strides]
    return merged, walks

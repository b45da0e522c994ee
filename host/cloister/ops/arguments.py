# SPDX-License-Identifier: BSD-2-Clause
"""Arguments that ONNX has moved between attributes and inputs over its opsets, and layouts of reductions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from cloister.compile.layout import Layout
from cloister.ir.graph import Graph, Node


def ints(node: Node, graph: Graph, attribute: str, position: int) -> list[int] | None:
    """Integers given by a constant input at ``position``, else by an attribute; None where both are absent."""
    data = graph.constant(node.input(position))
    if data is not None:
        return [int(value) for value in np.asarray(data).reshape(-1)]
    value = node.attrs.get(attribute)
    if value is None:
        return None
    return [int(item) for item in value] if isinstance(value, Sequence | np.ndarray) else [int(value)]


def floats(node: Node, graph: Graph, attribute: str, position: int) -> list[float] | None:
    """As :func:`ints`, for real numbers; an empty input counts as absent, as in Resize."""
    data = graph.constant(node.input(position))
    if data is not None:
        return [float(value) for value in np.asarray(data).reshape(-1)] or None
    value = node.attrs.get(attribute)
    return None if value is None else [float(item) for item in value]


def axis_in(axis: int, rank: int) -> bool:
    """The axis, perhaps negative, lies inside the rank."""
    return -rank <= axis < rank


def layout_without(layout: Layout, axes: Collection[int], keepdims: bool) -> Layout:
    """The layout of a dense result whose ``axes`` (not negative) were reduced to size 1, or dropped."""
    if keepdims:
        return layout
    kept = [axis for axis in layout if axis not in axes]
    number = {axis: place for place, axis in enumerate(sorted(kept))}
    return tuple(number[axis] for axis in kept)

# SPDX-License-Identifier: BSD-2-Clause
"""Where a layer's channels lie in the tensors behind it, so that it is known what a product adds up."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from cloister.ir.graph import Graph, Node, Shape
from cloister.ir.passes.reshape import RESHAPES

CONVOLUTIONS = frozenset({"Conv", "int8::Conv"})
PRODUCTS = frozenset({"Gemm", "int8::Gemm", "MatMul"})
#: They put channels where positions were, or the other way around.
SHUFFLES = frozenset({"DepthToSpace", "SpaceToDepth"})
#: They may leave more or fewer channels along their axis; one alone is not among others.
PARTED = frozenset({"Concat", "Pad", "Slice", "Split"})


def channel_axes(graph: Graph) -> dict[str, int]:
    """The axis of each tensor that channels of the layer before lie along, alone or with other axes merged into it.

    Tensors of which it is not known are left out: inputs, and what an operator made that is not known here.
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        for name in filter(None, node.outputs):
            axis = _axis(graph, node, name, found)
            if axis is not None:
                found[name] = axis
    return found


def _axis(graph: Graph, node: Node, output: str, found: Mapping[str, int]) -> int | None:
    shape = graph.shape(output)
    if node.op in CONVOLUTIONS:
        return 1
    if node.op in PRODUCTS:
        return len(shape) - 1
    source = next((name for name in node.inputs if name in found), None)
    if source is None or node.op in SHUFFLES:
        return None
    before, axis = graph.shape(source), found[source]
    if node.op == "Gather" and int(node.attrs.get("axis", 0)) % len(before) == axis:
        return None  # of many channels, or of one
    if node.op == "Transpose":
        order = list(node.attrs.get("perm", range(len(before))[::-1]))
        return order.index(axis)
    if node.op in RESHAPES or len(shape) != len(before):
        return moved(before, axis, shape)
    others = {found[name] for name in node.inputs if name in found and len(graph.shape(name)) == len(shape)}
    whole = shape[axis] == before[axis] or (node.op in PARTED and shape[axis] > 1)
    return axis if others == {axis} and whole else None


def moved(before: Shape, axis: int, after: Shape) -> int | None:
    """Where an axis lies after a reshape, with others merged into it or not; None: it was cut, or is no axis' part.

    Reductions and the like that drop an axis of other sizes than 1 change the number of elements: then the axis is
    found if what lies before it is as it was, or what lies behind it is.
    """
    size = before[axis]
    if prod(before) == prod(after):
        first, last = prod(before[:axis]), prod(before[: axis + 1])
        for place in range(len(after)):
            start, stop = prod(after[:place]), prod(after[: place + 1])
            if start and stop and first % start == 0 and stop % last == 0 and start <= first and last <= stop:
                return place
        return None
    if before[:axis] == after[:axis] and len(after) > axis and after[axis] == size:
        return axis
    behind = before[axis + 1 :]
    place = len(after) - len(behind) - 1
    return place if place >= 0 and after[place:] == (size, *behind) else None

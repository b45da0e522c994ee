# SPDX-License-Identifier: BSD-2-Clause
"""Pad: constant, edge, reflect and wrap; negative pads cut."""

from __future__ import annotations

import numpy as np

from cloister.compile.lowering import Lowering
from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.arguments import axis_in, ints
from cloister.ops.base import Operator, register
from cloister.ops.moving import copy_box, gather, take_box
from cloister.ops.taps import PAD_MODES, pad_index


@register("Pad")
class Pad(Operator):
    """Any dtype. Pads, value and axes are constants; before opset 11 they are attributes."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Constant arguments, a known mode, and something left to extend."""
        problems = self.require_attr(node, "mode", "constant", ["constant", *PAD_MODES])
        for position, what in enumerate(("pads", "constant_value", "axes"), start=1):
            problems += self.require_constant(node, graph, position, what)
        if problems:
            return problems
        shape = graph.shape(node.inputs[0])
        pads = ints(node, graph, "pads", 1)
        axes = ints(node, graph, "axes", 3) or list(range(len(shape)))
        if pads is None or len(pads) != 2 * len(axes):
            return [self.problem(node, f"needs {2 * len(axes)} numbers", "pads", pads)]
        if not all(axis_in(axis, len(shape)) for axis in axes):
            return [self.problem(node, f"outside rank {len(shape)}", "axes", axes)]
        mode = node.attrs.get("mode", "constant")
        for axis, (begin, end) in enumerate(self._pads(node, graph)):
            try:
                if mode != "constant":
                    pad_index(shape[axis], begin, end, mode)
            except ValueError as error:
                problems.append(self.problem(node, str(error), "pads", pads))
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """Constant: FILL and COPY. The other modes: a gather along each axis that changes."""
        graph = ctx.graph
        x = ctx.get(node.inputs[0])
        pads = self._pads(node, graph)
        mode = node.attrs.get("mode", "constant")
        changed = [axis for axis, pad in enumerate(pads) if pad != (0, 0)]
        if not changed:
            ctx.alias(node.outputs[0], x, x.layout)
            return
        source_at = [max(0, -begin) for begin, _ in pads]
        if all(begin <= 0 and end <= 0 for begin, end in pads):
            take_box(ctx, node.outputs[0], x, source_at, [1] * len(pads))
            return
        if mode == "constant":
            y = ctx.new(node.outputs[0], x.layout)
            ctx.emit("FILL", {"out": y, "value": self._value(node, graph, x.dtype), "elem_size": x.itemsize})
            kept = [size + min(0, begin) + min(0, end) for size, (begin, end) in zip(x.shape, pads, strict=True)]
            if min(kept, default=1) > 0:
                copy_box(ctx, x, y, kept, source_at, [max(0, begin) for begin, _ in pads])
            return
        # Cutting first and growing along outer axes last moves the fewest bytes.
        changed.sort(key=lambda axis: (sum(pads[axis]) > 0, -x.layout.index(axis)))
        for axis in changed:
            index = pad_index(x.shape[axis], *pads[axis], mode)
            shape = tuple(len(index) if place == axis else size for place, size in enumerate(x.shape))
            final = axis == changed[-1]
            y = ctx.new(node.outputs[0], x.layout) if final else ctx.temporary(shape, x.dtype, x.layout)
            gather(ctx, x, y, axis, index)
            x = y

    def _pads(self, node: Node, graph: Graph) -> list[tuple[int, int]]:
        """(begin, end) of each axis."""
        rank = graph.rank(node.inputs[0])
        pads = ints(node, graph, "pads", 1) or []
        axes = ints(node, graph, "axes", 3) or list(range(rank))
        found = [(0, 0)] * rank
        for place, axis in enumerate(axes):
            found[axis] = (pads[place], pads[place + len(axes)])
        return found

    def _value(self, node: Node, graph: Graph, dtype: np.dtype[np.generic]) -> int:
        """The bits of the constant value as an unsigned number."""
        data = graph.constant(node.input(2))
        value = node.attrs.get("value", 0) if data is None or data.size == 0 else np.asarray(data).reshape(-1)[0]
        return int.from_bytes(np.asarray(value).astype(dtype.newbyteorder("<")).tobytes(), "little")

# SPDX-License-Identifier: BSD-2-Clause
"""Operators that change a tensor's shape or name but not its elements, and those that make constants."""

from __future__ import annotations

import numpy as np

from cloister.compile.lowering import Lowering
from cloister.ir.graph import Graph, Node, Problem
from cloister.ops.arguments import ints
from cloister.ops.base import Cost, Operator, register


class Free(Operator):
    """Base of the operators that cost nothing by themselves."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Any shape, any dtype."""
        return []

    def cost(self, node: Node, graph: Graph) -> Cost:
        """Nothing."""
        return Cost()


@register("Reshape", "Flatten")
class Reshape(Free):
    """The same elements in ONNX's order under another shape; 0, -1 and allowzero are settled by shape inference."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """A target shape known at compile time."""
        return self.require_constant(node, graph, 1, "shape")

    def lower(self, node: Node, ctx: Lowering) -> None:
        """No kernel, unless the elements lie in another order and somebody needs them in ONNX's."""
        ctx.flatten(node.outputs[0], node.inputs[0])


@register("Squeeze", "Unsqueeze")
class Squeeze(Free):
    """Drops or adds axes of size 1, in any layout."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Axes known at compile time."""
        return self.require_constant(node, graph, 1, "axes")

    def lower(self, node: Node, ctx: Lowering) -> None:
        """No kernel."""
        x = ctx.get(node.inputs[0])
        axes = ints(node, ctx.graph, "axes", 1)
        rank = max(len(x.shape), ctx.graph.rank(node.outputs[0]))
        if axes is None:
            axes = [axis for axis, size in enumerate(x.shape) if size == 1]
        ones = {axis % rank for axis in axes} if rank else set()
        kept = [axis for axis in range(rank) if axis not in ones]
        if node.op == "Squeeze":
            layout = tuple(kept.index(axis) for axis in x.layout if axis in kept)
        else:
            layout = (*(kept[axis] for axis in x.layout), *sorted(ones))
        ctx.alias(node.outputs[0], x, layout)


@register("Identity")
class Identity(Free):
    """Another name for a tensor."""

    def lower(self, node: Node, ctx: Lowering) -> None:
        """No kernel."""
        x = ctx.get(node.inputs[0])
        ctx.alias(node.outputs[0], x, x.layout)


@register("Dropout")
class Dropout(Free):
    """Inference: the input itself, and a mask that keeps everything."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Not in training mode, unless the ratio is zero."""
        problems = self.require_constant(node, graph, 1, "ratio")
        problems += self.require_constant(node, graph, 2, "training_mode")
        if problems:
            return problems
        training = graph.constant(node.input(2))
        ratio = graph.constant(node.input(1))
        drops = 0.5 if ratio is None else float(np.asarray(ratio).reshape(-1)[0])
        if training is not None and bool(np.asarray(training).reshape(-1)[0]) and drops != 0:
            reason = "inference only: nothing may be dropped at random"
            problems.append(self.problem(node, reason, "training_mode", True))
        if node.has_output(1) and graph.dtype(node.outputs[1]) != np.bool_:
            problems += self.require_no_output(node, graph, 1, "mask before opset 10")
        return problems

    def lower(self, node: Node, ctx: Lowering) -> None:
        """No kernel for the value; FILL for the mask if it is there."""
        x = ctx.get(node.inputs[0])
        ctx.alias(node.outputs[0], x, x.layout)
        if node.has_output(1) and ctx.graph.dtype(node.outputs[1]) == np.bool_:
            ctx.emit("FILL", {"out": ctx.new(node.outputs[1], x.layout), "value": 1, "elem_size": 1})


@register("Transpose")
class Transpose(Free):
    """A permutation of axes: the same bytes under another layout."""

    def lower(self, node: Node, ctx: Lowering) -> None:
        """No kernel; who needs another order than the bytes have asks for it."""
        x = ctx.get(node.inputs[0])
        rank = len(x.shape)
        perm = [int(axis) for axis in node.attrs.get("perm", range(rank - 1, -1, -1))]
        ctx.alias(node.outputs[0], x, tuple(perm.index(axis) for axis in x.layout))


@register("Constant", "ConstantOfShape")
class Constant(Free):
    """Known at compile time: constant folding has replaced it, or could not."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Only called for a node that could not be folded."""
        problems = self.require_constant(node, graph, 0, "input")
        return problems or [self.problem(node, "the value could not be computed at compile time")]

    def lower(self, node: Node, ctx: Lowering) -> None:
        """Never called, as the check refuses every node."""
        raise NotImplementedError(f"{node.name}: {node.op} was not folded")

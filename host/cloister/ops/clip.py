# SPDX-License-Identifier: BSD-2-Clause
"""Functions of one value with parameters: Clip, LeakyRelu, HardSigmoid, Elu."""

from __future__ import annotations

import numpy as np

from cloister.compile.lowering import Lowering, activation_fields
from cloister.ir.graph import Activation, Graph, Node, Problem
from cloister.ops.arithmetic import emit_binary
from cloister.ops.base import Operator, register
from cloister.ops.unary import Unary

FLOAT_MAX = float(np.finfo(np.float32).max)

#: Kernel function and, for a and b, the attribute and its default.
PARAMETRIC = {
    "LeakyRelu": ("LEAKY_RELU", ("alpha", 0.01), None),
    "HardSigmoid": ("HARD_SIGMOID", ("alpha", 0.2), ("beta", 0.5)),
    "Elu": ("ELU", ("alpha", 1.0), None),
}


@register(*PARAMETRIC)
class Parametric(Unary):
    """An element-wise function whose parameters are attributes."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32 only; finite parameters."""
        problems = super().check(node, graph)
        for parameter in PARAMETRIC[node.op][1:]:
            if parameter and not np.isfinite(np.float32(node.attrs.get(*parameter))):
                problems.append(self.problem(node, "must be finite", parameter[0], node.attrs[parameter[0]]))
        return problems

    def activation(self, node: Node, graph: Graph) -> Activation | None:
        """The function with this node's parameters."""
        function, a, b = PARAMETRIC[node.op]
        return Activation(function, float(node.attrs.get(*a)) if a else 0.0, float(node.attrs.get(*b)) if b else 0.0)


@register("Clip")
class Clip(Operator):
    """min(max(x, low), high); the bounds are attributes before opset 11, then optional scalar inputs.

    Bounds that are only known at run time become BINARY kernels. An absent bound is the largest finite number, as ONNX
    has it, so that infinities are clipped to it.
    """

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """float32 only; no bound is NaN."""
        problems = self.require_float(node, graph)
        for name, default in (("min", -FLOAT_MAX), ("max", FLOAT_MAX)):
            bound = self._bound(node, graph, name, default)
            if bound is not None and np.isnan(bound):
                problems.append(self.problem(node, "must be a number", name, bound))
        return problems

    def activation(self, node: Node, graph: Graph) -> Activation | None:
        """CLIP where both bounds are constants."""
        low = self._bound(node, graph, "min", -FLOAT_MAX)
        high = self._bound(node, graph, "max", FLOAT_MAX)
        if low is None or high is None:
            return None
        # The upper bound wins where the two cross.
        return Activation("CLIP", min(low, high), high)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """UNARY, or BINARY max and min with bounds of run time."""
        x = ctx.get(node.inputs[0])
        y = ctx.new(node.outputs[0], x.layout)
        constant = self.activation(node, ctx.graph)
        if constant is not None:
            fields = {"in": x, "out": y, "count": x.count, "function": activation_fields(constant)}
            ctx.emit("UNARY", fields, in_place=("in",))
            return
        value = x
        for position, function in ((1, "MAX"), (2, "MIN")):
            if node.input(position):
                bound = ctx.get_plain(node.input(position)).reshaped(())
                emit_binary(ctx, function, value, bound, y)
                value = y

    def _bound(self, node: Node, graph: Graph, name: str, default: float) -> float | None:
        """The bound as a finite number; None where it is only known at run time."""
        source = node.input(1 if name == "min" else 2)
        if source and not graph.is_constant(source):
            return None
        data = graph.constant(source)
        value = float(node.attrs.get(name, default)) if data is None else float(np.asarray(data).reshape(-1)[0])
        return value if np.isnan(value) else min(max(value, -FLOAT_MAX), FLOAT_MAX)

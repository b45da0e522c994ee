# SPDX-License-Identifier: BSD-2-Clause
"""Functions of one value without parameters in the node: Relu, Sigmoid, Tanh, HardSwish, Abs, Exp and their like."""

from __future__ import annotations

from cloister.ir.graph import Activation, Graph, Node
from cloister.ops.base import register
from cloister.ops.unary import Unary

FUNCTIONS = {
    "Relu": "RELU",
    "Sigmoid": "SIGMOID",
    "Tanh": "TANH",
    "HardSwish": "HARD_SWISH",
    "Exp": "EXP",
    "Log": "LOG",
    "Sqrt": "SQRT",
    "Abs": "ABS",
    "Neg": "NEG",
    "Reciprocal": "RECIPROCAL",
    "Erf": "ERF",
    "Softplus": "SOFTPLUS",
}


@register(*FUNCTIONS)
class PlainFunction(Unary):
    """An element-wise function without attributes; HardSwish's constants are fixed (1/6, 0.5) by ONNX."""

    def activation(self, node: Node, graph: Graph) -> Activation | None:
        """The function itself."""
        return Activation(FUNCTIONS[node.op])

# SPDX-License-Identifier: BSD-2-Clause
"""What an operator is to the compiler, and the registry of all of them.

A module in this package defines one operator or one family of them and registers each with :func:`register`:

>>> from cloister.ops.base import Operator, register
>>> @register("Example")
... class Example(Operator):
...     def check(self, node, graph):
...         return []
...     def lower(self, node, ctx):
...         raise NotImplementedError

All modules of the package are found and imported by :func:`operators`; there is no list to keep.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from cloister.ir.graph import Activation, Graph, Node, Problem

if TYPE_CHECKING:
    from cloister.compile.lowering import Lowering

LOWEST_OPSET = 7

#: Element types that a tensor may have at run time (enum cl_dtype). Kernels that compute take float32 only; those
#: that move (COPY, FILL) take all.
RUNTIME_DTYPES = ("float32", "int32", "int64", "uint8", "int8", "bool")


@dataclass(frozen=True)
class Cost:
    """What a node costs: multiply-accumulates, other arithmetic (one per element and step), bytes moved."""

    macs: int = 0
    flops: int = 0
    moved: int = 0


class Operator:
    """One ONNX operator: what of it is supported, and how it becomes engine kernels.

    Stateless: one instance serves all nodes. ``name`` is ONNX's, set by :func:`register`; ``since`` is the lowest
    opset whose meaning the module implements.
    """

    name: ClassVar[str] = ""
    since: ClassVar[int] = LOWEST_OPSET
    #: The kernel that writes output 0 applies ``node.activation`` (see :meth:`Lowering.activation`).
    fuses_activation: ClassVar[bool] = False

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """All reasons why this node cannot be lowered; empty where it can.

        Called after constant folding, with every input and output of static, non-empty shape and known dtype of
        RUNTIME_DTYPES (that is checked for all nodes before). Use :meth:`problem` and the ``require_*`` helpers.
        """
        raise NotImplementedError

    def lower(self, node: Node, ctx: Lowering) -> None:
        """Emits kernels that define every present output of ``node``. Only called where check found nothing."""
        raise NotImplementedError

    def cost(self, node: Node, graph: Graph) -> Cost:
        """Cost of one inference of this node; the default counts one flop per output element."""
        size = sum(prod(graph.shape(name)) for name in node.outputs if name)
        return Cost(flops=size, moved=4 * size)

    def activation(self, node: Node, graph: Graph) -> Activation | None:
        """The node as a function of one value that a preceding kernel may apply; None where it is not one."""
        return None

    def problem(self, node: Node, reason: str, attribute: str = "", value: object = None) -> Problem:
        """A problem of this node."""
        return Problem(node.name, node.op, reason, attribute, value)

    def require_float(self, node: Node, graph: Graph, names: Iterable[str] | None = None) -> list[Problem]:
        """Problems of inputs (default: all present ones) whose dtype is not float32."""
        return [
            self.problem(node, "only float32 is supported here", f"dtype of input {name!r}", str(graph.dtype(name)))
            for name in (node.inputs if names is None else names)
            if name and graph.dtype(name) != np.float32
        ]

    def require_channels(self, node: Node, graph: Graph, rank: int = 2) -> list[Problem]:
        """A problem where the first input is not (N, C, ...) of at least ``rank`` dimensions."""
        if graph.rank(node.inputs[0]) >= rank:
            return []
        return [self.problem(node, "needs (N, C, ...)", "shape of X", graph.shape(node.inputs[0]))]

    def require_constant(self, node: Node, graph: Graph, position: int, what: str) -> list[Problem]:
        """A problem where the input at ``position`` is present and not constant."""
        name = node.input(position)
        if name and not graph.is_constant(name):
            return [self.problem(node, "must be constant (known at compile time)", what, name)]
        return []

    def require_no_output(self, node: Node, graph: Graph, position: int, what: str) -> list[Problem]:
        """A problem where the optional output at ``position`` is used by a node or leaves the graph."""
        if node.has_output(position):
            name = node.outputs[position]
            if name in graph.outputs or graph.consumers(name):
                return [self.problem(node, "this optional output is not supported", what, name)]
        return []

    def require_attr(self, node: Node, name: str, default: object, allowed: Iterable[object]) -> list[Problem]:
        """A problem where the attribute (``default`` where the model does not set it) is none of ``allowed``."""
        value = node.attrs.get(name, default)
        choices = list(allowed)
        if value not in choices:
            return [self.problem(node, f"supported: {', '.join(map(repr, choices))}", name, value)]
        return []


_REGISTRY: dict[str, Operator] = {}
_loaded = False

Class = TypeVar("Class", bound=type[Operator])


def register(*names: str) -> Callable[[Class], Class]:
    """Class decorator: registers an instance for each ONNX operator name.

    Several names make one subclass each, so that ``self.name`` tells them apart.
    """

    def decorate(cls: Class) -> Class:
        for name in names:
            if name in _REGISTRY:
                raise ValueError(f"operator {name} is registered twice")
            _REGISTRY[name] = type(name, (cls,), {"name": name, "__doc__": cls.__doc__})()
        return cls

    return decorate


#: Domain of the operators that only passes make: 8-bit forms of ONNX's (see cloister.ir.passes.quant).
INTERNAL = "int8::"


def operators() -> dict[str, Operator]:
    """All supported operators by ONNX name."""
    global _loaded
    if not _loaded:
        package = importlib.import_module("cloister.ops")
        for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"cloister.ops.{module}")
        _loaded = True
    return {name: _REGISTRY[name] for name in sorted(_REGISTRY) if not name.startswith(INTERNAL)}


def find(name: str) -> Operator | None:
    """The operator of an ONNX name; None where it is not supported."""
    operators()
    return _REGISTRY.get(name)


def normalize_axis(axis: int, rank: int) -> int:
    """A negative axis counted from the end; ValueError where it is outside."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside rank {rank}")
    return axis % rank if rank else 0

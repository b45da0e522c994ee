# SPDX-License-Identifier: BSD-2-Clause
"""The one graph form between ONNX and the lowering: nodes, tensors, static shapes.

Shapes and axes are always ONNX's (NCHW for images); how a tensor lies in memory is the lowering's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cloister.ir.quantised import Quantised

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """One reason why a model cannot be compiled.

    ``attribute`` names the attribute, input or dimension at fault ("" where the operator itself is) and ``value`` is
    what it was.
    """

    node: str
    operator: str
    reason: str
    attribute: str = ""
    value: object = None

    def __str__(self) -> str:
        where = f"node {self.node!r} ({self.operator})" if self.operator else f"{self.node}"
        what = f", {self.attribute} = {self.value!r}" if self.attribute else ""
        return f"{where}{what}: {self.reason}"


@dataclass(frozen=True)
class Activation:
    """A function of one value that a kernel applies to each result; ``function`` is a name of ``enum cl_unary``.

    ``function`` lacks the prefix: "RELU", "CLIP", ...; ``a`` and ``b`` are the parameters that the header describes.
    """

    function: str = "IDENTITY"
    a: float = 0.0
    b: float = 0.0


@dataclass
class Tensor:
    """A value of the graph.

    ``shape`` is static once a graph passed its check; before, an unknown dimension is -1 and an unknown rank is None.
    ``dtype`` is None where inference could not tell it. ``data`` holds a constant's value, else None; ``quantised``
    the integers that a constant was computed from by DequantizeLinear.
    """

    name: str
    shape: Shape | None
    dtype: np.dtype[Any] | None
    data: Array | None = None
    quantised: Quantised | None = None

    @property
    def is_constant(self) -> bool:
        """The value is known at compile time."""
        return self.data is not None


@dataclass
class Node:
    """One operator of ai.onnx.

    ``inputs`` and ``outputs`` name tensors; "" is an absent optional one. ``attrs`` holds those that the model sets, as
    int, float, str, list of these, or numpy array (tensor attributes); defaults are the operator's business.
    ``index`` is the position of the ONNX node it came from. ``activation`` is what passes have fused into it; only
    operators with ``fuses_activation`` ever get one. ``point`` is the ONNX tensor that it computes before that
    activation, where its output is another one.
    """

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    index: int = 0
    activation: Activation | None = None
    point: str = ""

    def input(self, position: int) -> str:
        """Name of the input at ``position``, "" where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def has_output(self, position: int) -> bool:
        """The output at ``position`` is present."""
        return position < len(self.outputs) and bool(self.outputs[position])


@dataclass
class Graph:
    """Nodes in execution order, all tensors by name, and the names of run-time inputs and outputs."""

    nodes: list[Node]
    tensors: dict[str, Tensor]
    inputs: list[str]
    outputs: list[str]
    opset: int
    name: str = "model"
    notes: list[str] = field(default_factory=list)
    #: How weights of float operators are stored: "float32", or "int8" with a scale for each output channel.
    weights: str = "float32"
    #: Inputs that do not come in ONNX's order: the order of their axes in memory (:mod:`cloister.compile.layout`).
    layouts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    #: Outputs are left as they lie when they are made, and at once; else they are in ONNX's order, at the end.
    outputs_as_made: bool = False
    #: Tensors that a password must not name: the normal world sees what they hold (:mod:`cloister.compile.locks`).
    shown: frozenset[str] = frozenset()

    def tensor(self, name: str) -> Tensor:
        """The tensor called ``name``; KeyError where there is none."""
        return self.tensors[name]

    def shape(self, name: str) -> Shape:
        """Static shape of a tensor; ValueError where it is not known."""
        shape = self.tensors[name].shape
        if shape is None or any(dim < 0 for dim in shape):
            raise ValueError(f"tensor {name!r} has no static shape: {shape}")
        return shape

    def rank(self, name: str) -> int:
        """Number of dimensions of a tensor."""
        return len(self.shape(name))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Element type of a tensor; ValueError where it is not known."""
        dtype = self.tensors[name].dtype
        if dtype is None:
            raise ValueError(f"tensor {name!r} has no known element type")
        return dtype

    def constant(self, name: str) -> Array | None:
        """Value of a constant tensor; None for a run-time tensor and for the absent input ""."""
        return self.tensors[name].data if name else None

    def is_constant(self, name: str) -> bool:
        """The tensor's value is known at compile time (False for the absent input "")."""
        return bool(name) and self.tensors[name].data is not None

    def add_constant(self, name: str, data: Array) -> str:
        """Adds a constant under ``name`` or, where that is taken, a name derived from it; returns the name."""
        unique = name
        count = 0
        while unique in self.tensors:
            count += 1
            unique = f"{name}_{count}"
        self.tensors[unique] = Tensor(unique, tuple(data.shape), data.dtype, data)
        return unique

    def producer(self, name: str) -> Node | None:
        """The node that computes a tensor; None for inputs and constants."""
        for node in self.nodes:
            if name and name in node.outputs:
                return node
        return None

    def consumers(self, name: str) -> list[Node]:
        """The nodes that read a tensor, each once."""
        return [node for node in self.nodes if name and name in node.inputs]

    def runtime_inputs(self, node: Node) -> Iterator[str]:
        """Inputs of ``node`` that are present and not constant."""
        return (name for name in node.inputs if name and not self.is_constant(name))

# SPDX-License-Identifier: BSD-2-Clause
"""What a password demands of a compile: its tensors can be locked, and nothing computed from them is seen.

The normal world may see what enters the model before the first lock, and the answer. A locked tensor, or one that is
computed from it on the way to the answer, would tell what the password says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx

from cloister.compile.arrangement import Arrangement, lower
from cloister.ir.graph import Array, Graph, Node
from cloister.password import Password, PasswordError

#: Operators that tell nothing of a tensor's channels but which element is the largest.
CHOOSERS = frozenset({"ArgMax", "ArgMin"})
#: Products with constant weights, which may mix what they read. Every other operator, also one that is added one day,
#: is taken to show it: elements moved, pooled, scaled, normalised or activated, through each of which a line can be
#: fitted, as whoever has the leaked weights and the model's input knows what else goes in.
MIXERS = frozenset({"Conv", "int8::Conv", "Gemm", "int8::Gemm", "MatMul"})
#: Lockable tensors that an error names.
NAMED = 8


def shown(graph: Graph) -> frozenset[str]:
    """The tensors that :func:`check_visible` would refuse, so that a password cannot name them later either."""
    producers: dict[str, Node] = {name: node for node in graph.nodes for name in node.outputs if name}
    names = {node.outputs[0]: node.point for node in graph.nodes if node.point}
    found: set[str] = set()
    for name in graph.outputs:
        found.update(_readable(graph, name, producers))
        if any(name in node.inputs for node in graph.nodes):
            found.update(_ancestors(name, producers))
    return frozenset(found | {names[name] for name in found if name in names})


def check_visible(graph: Graph, tensors: Iterable[str], visible: Iterable[str] | None = None) -> None:
    """Check that the normal world sees nothing of locked ``tensors`` but the answer.

    Args:
        graph: before activations are fused: ONNX's own tensors.
        tensors: those that a password names.
        visible: tensors that leave the TA; the model's outputs where it lies there whole.

    Raises:
        PasswordError: a visible tensor is a locked one or its activation, or is read by other nodes while it is
            computed from a locked one; names the tensors and the remedy.
    """
    producers: dict[str, Node] = {name: node for node in graph.nodes for name in node.outputs if name}
    # A quantised layer names its result before it is quantised.
    own = {node.point: node.outputs[0] for node in graph.nodes if node.point}
    locked = {own.get(name, name): name for name in tensors}
    for name in graph.outputs if visible is None else visible:
        for at in _readable(graph, name, producers):
            if at in locked:
                raise PasswordError(
                    f"{name!r} leaves the TA and is the locked tensor {locked[at]!r}"
                    + (
                        ""
                        if at == name
                        else ", at most moved, pooled, scaled, added to, activated or mixed into as many values"
                    ),
                    "lock another layer, or take this output out of the model",
                )
        reader = next((node for node in graph.nodes if name in node.inputs), None)
        source = _source(name, producers, locked)
        if reader is not None and source is not None:
            raise PasswordError(
                f"{name!r} leaves the TA on the way to the answer (node {reader.name!r} reads it) and is computed from "
                f"the locked tensor {source!r}",
                "take this output out of the model, or lock layers behind it alone",
            )


def _readable(graph: Graph, name: str, producers: Mapping[str, Node]) -> dict[str, None]:
    """``name`` and all tensors whose elements, or sums of a channel's, whoever sees it can read off it."""
    answer = name == graph.outputs[0]
    return _back(name, lambda tensor: _before(graph, producers.get(tensor), answer))


def _back(name: str, sources: Callable[[str], Iterable[str]]) -> dict[str, None]:
    """``name``, its sources, theirs and so on, each once."""
    found: dict[str, None] = {}
    open_ = [name]
    while open_:
        tensor = open_.pop()
        if tensor not in found:
            found[tensor] = None
            open_ += sources(tensor)
    return found


def _before(graph: Graph, node: Node | None, answer: bool) -> list[str]:
    """The tensors that can be read off a node's result, which is the answer's or another output's."""
    if node is None or node.op in CHOOSERS:
        return []
    read = node.inputs[1:] if node.op in MIXERS and _mixes(graph, node, answer) else node.inputs
    return [operand for operand in read if operand and graph.constant(operand) is None]


def _mixes(graph: Graph, node: Node, answer: bool) -> bool:
    """Whether a product hides each element of its first operand among others.

    No output may read one alone, as those of a depthwise convolution do. Of anything but the answer outputs must be
    fewer than what they read as well: otherwise whoever has the weights solves for it. An answer may have as many
    values (100 classes of 64 features, an embedding): what it tells is for the licence to limit.
    """
    by_output = _by_output(graph, node)
    if by_output is None:
        return False
    outputs, read = len(by_output) // int(node.attrs.get("group", 1)), by_output.shape[1]
    alone = np.any(by_output.reshape(*by_output.shape[:2], -1) != 0, axis=2).sum(axis=1) == 1
    return not alone.any() and (answer or outputs < read)


def _by_output(graph: Graph, node: Node) -> Array | None:
    """A product's weights (outputs, channels read, ...); None where they are not constant or channels stay apart."""
    weights = graph.constant(node.input(1))
    if weights is None or weights.ndim < 2 or node.attrs.get("transA", 0):
        return None
    if node.op.endswith("Conv"):
        return weights
    # A product of more than tokens (N, tokens, channels) sums along a row of an image, not over its channels.
    if weights.ndim > 2 or len(graph.shape(node.inputs[0])) > 3:
        return None
    return weights if node.op == "Gemm" and node.attrs.get("transB", 0) else weights.T


def _source(name: str, producers: Mapping[str, Node], locked: Mapping[str, str]) -> str | None:
    """A locked tensor that ``name`` is computed from."""
    return next((locked[tensor] for tensor in _ancestors(name, producers) if tensor in locked), None)


def _ancestors(name: str, producers: Mapping[str, Node]) -> dict[str, None]:
    """``name`` and all tensors that it is computed from."""
    return _back(name, lambda tensor: filter(None, producers[tensor].inputs) if tensor in producers else ())


def check_lockable(password: Password, made: Arrangement, graph: Graph, model: onnx.ModelProto) -> None:
    """Check that a password is not another lock's, and that all its tensors and channels are of layers with sites.

    Args:
        password: names the tensors.
        made: the arranged graph.
        graph: the graph that it was made of.
        model: the ONNX model that the graph was made of.

    Raises:
        PasswordError: names both locks, or the tensor and what stands against it.
    """
    password.check(model)
    for lock in password.locks:
        count = made.layers.get(lock.tensor)
        if count is None:
            names = ", ".join(list(made.layers)[:NAMED]) + (", ..." if len(made.layers) > NAMED else "")
            reason = lower(graph, None).shared.get(lock.tensor) or _reason(lock.tensor, model)
            raise PasswordError(
                f"tensor {lock.tensor!r} cannot be locked: {reason}", f"lock one of these: {names or 'there is none'}"
            )
        if int(lock.channels[-1]) >= count:
            raise PasswordError(
                f"tensor {lock.tensor!r} has {count} channels, the password names channel {int(lock.channels[-1])}",
                "use the model that the password was made for",
            )


def _reason(tensor: str, model: onnx.ModelProto) -> str:
    producer = next((node for node in model.graph.node if tensor in node.output), None)
    if producer is None:
        return "the model has no such tensor"
    if producer.op_type not in ("Conv", "Gemm", "MatMul"):
        return f"it comes from {producer.op_type}, not from a Conv, Gemm or MatMul"
    readers = [node for node in model.graph.node if tensor in node.input]
    if len(readers) == 1 and readers[0].op_type in ("BatchNormalization", "Add", "Sub", "Mul", "Div"):
        name, operator = readers[0].output[0], readers[0].op_type
        return f"the {operator} behind it is folded into its weights; that one's result {name!r} can"
    return "its weights or its bias are not constant, or not one value for each channel"

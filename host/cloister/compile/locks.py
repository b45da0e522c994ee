# SPDX-License-Identifier: BSD-2-Clause
"""What a password demands of a compile: its tensors can be locked, and nothing computed from them is seen.

The normal world may see what enters the model before the first lock, and the answer, its first output. Anything else
that is computed from a locked tensor would tell what the password says: a lock is two numbers for each channel, and
whoever has the weights and the input can fit them to whatever is linear in the channels, be it a single sum of all.

Of the answer only labels need leave the TA. It may not show channels one by one all the same; :func:`_readable` has the
rule. What full answers tell beyond is for the licence to limit (docs/edgepro.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod

import numpy as np
import onnx

from cloister.compile.arrangement import Arrangement, lower
from cloister.compile.channels import CONVOLUTIONS, PRODUCTS, channel_axes
from cloister.ir.graph import Graph, Node
from cloister.password import Password, PasswordError

#: Operators that tell nothing of an answer but which of its elements is the largest.
CHOOSERS = frozenset({"ArgMax", "ArgMin"})
#: Lockable tensors that an error names.
NAMED = 8


def shown(graph: Graph) -> frozenset[str]:
    """The tensors that :func:`check_visible` would refuse, so that a password cannot name them later either."""
    producers: dict[str, Node] = {name: node for node in graph.nodes for name in node.outputs if name}
    names = {node.outputs[0]: node.point for node in graph.nodes if node.point}
    answer = graph.outputs[0]
    found = set(_readable(graph, answer, producers))
    for name in graph.outputs:
        if name != answer or any(name in node.inputs for node in graph.nodes):
            found.update(_ancestors(name, producers))
    return frozenset(found | {names[name] for name in found if name in names})


def check_visible(graph: Graph, tensors: Iterable[str]) -> None:
    """Check that the normal world sees nothing of locked ``tensors`` but the answer.

    Args:
        graph: before activations are fused: ONNX's own tensors.
        tensors: those that a password names.

    Raises:
        PasswordError: an output is a locked tensor, or shows it; is computed from one and read by other nodes; or is
            computed from one and not the answer. Names the tensors and the remedy.
    """
    producers: dict[str, Node] = {name: node for node in graph.nodes for name in node.outputs if name}
    # A quantised layer names its result before it is quantised.
    own = {node.point: node.outputs[0] for node in graph.nodes if node.point}
    locked = {own.get(name, name): name for name in tensors}
    for name in graph.outputs:
        for at in _readable(graph, name, producers):
            if at in locked:
                more = "" if at == name else ", at most moved, pooled, scaled, added to, activated or one by one"
                raise PasswordError(
                    f"{name!r} leaves the TA and is the locked tensor {locked[at]!r}{more}",
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
        if name != graph.outputs[0] and source is not None:
            raise PasswordError(
                f"{name!r} leaves the TA beside the answer {graph.outputs[0]!r} and is computed from the locked tensor "
                f"{source!r}",
                "take this output out of the model, or lock only what it is not computed from",
            )


def _readable(graph: Graph, name: str, producers: Mapping[str, Node]) -> dict[str, None]:
    """``name`` and all tensors whose channels, or sums over a channel, can be read one by one off it.

    Every operator, also one that is added one day, is taken to show what it reads: moved, pooled, scaled, normalised or
    activated, through each of which a line can be fitted, as whoever has the weights and the input knows what else goes
    in. Products with constant weights end this where each of their outputs adds up several channels.
    """
    axes = channel_axes(graph)
    return _back(name, lambda tensor: _before(graph, producers.get(tensor), axes))


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


def _before(graph: Graph, node: Node | None, axes: Mapping[str, int]) -> list[str]:
    """The tensors that can be read off a node's result."""
    if node is None or node.op in CHOOSERS:
        return []
    read = node.inputs[1:] if _mixes(graph, node, axes) else node.inputs
    return [operand for operand in read if operand and graph.constant(operand) is None]


def _mixes(graph: Graph, node: Node, axes: Mapping[str, int]) -> bool:
    """Whether a node is a product with constant weights of which no output reads one channel alone."""
    weights = graph.constant(node.input(1))
    if weights is None or node.op not in CONVOLUTIONS | PRODUCTS:
        return False
    if node.op in CONVOLUTIONS:
        by_output = weights
    else:
        # along the rows of an image, say, a channel's own elements are added up
        along = axes.get(node.inputs[0]) == len(graph.shape(node.inputs[0])) - 1
        if not along or node.attrs.get("transA", 0) or prod(weights.shape[:-2]) != 1:
            return False
        matrix = weights.reshape(-1, 1) if weights.ndim == 1 else weights.reshape(weights.shape[-2:])
        by_output = matrix if node.attrs.get("transB", 0) else matrix.T
    read = np.any(by_output.reshape(*by_output.shape[:2], -1) != 0, axis=2).sum(axis=1)
    return not np.any(read == 1)


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

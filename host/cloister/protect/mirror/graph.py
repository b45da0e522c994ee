# SPDX-License-Identifier: BSD-2-Clause
"""The victim as a graph: where it can be tapped, and cutting it off there. Uses torch.fx."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from cloister.protect.strategy import IMAGE, LOGITS
from cloister.protect.training.errors import TrainingError

#: What only passes its input on, maybe rescaled: the tensor before it is worth no tap of its own beside it.
_PASSING = (
    nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.Identity, nn.Flatten,
)  # fmt: skip
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh,
)  # fmt: skip
_ACTIVATION_NAMES = frozenset(
    ("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "hardswish", "sigmoid", "tanh")
)
_PASSING_NAMES = frozenset(("batch_norm", "dropout", "flatten", "view", "reshape", "contiguous", "getattr", "size"))


@dataclass(frozen=True)
class Tensor:
    """A tensor that can be tapped.

    Attributes:
        name: for strategies: the path of the module that makes it, or the graph's name for it; ``image``; ``logits``.
        node: its name in the graph.
        shape: without the batch: (C, H, W) or (N,).
        macs: multiply-accumulates of convolutions and linear layers up to it, for one image.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    macs: int


def trace(module: nn.Module) -> fx.GraphModule:
    """A copy as a graph, on the CPU, in evaluation mode; one that came from ONNX is a graph already.

    Raises:
        TrainingError: torch.fx cannot trace it, or it does not take one tensor and return one.
    """
    copied = copy.deepcopy(module).cpu().eval().requires_grad_(True)
    for layer in copied.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False  # would write over a tensor that is tapped
    try:
        graph = copied if isinstance(copied, fx.GraphModule) else fx.symbolic_trace(copied)
    except Exception as error:  # torch.fx raises many kinds
        raise TrainingError(
            f"the module cannot be traced: {str(error).splitlines()[0]}", "make its forward free of branches on values"
        ) from error
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1 or not isinstance(_output(graph).args[0], fx.Node):
        raise TrainingError(
            f"the module takes {len(inputs)} inputs, or does not answer one tensor", "give one from images to logits"
        )
    return graph


def candidates(graph: fx.GraphModule, shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """The tensors that can be tapped, by name, in the order in which they become ready.

    These are the image, the answer, and in between each tensor through which all data flows and behind which something
    is computed from it by weights or pooling: after an activation, a pool or a residual block.

    Args:
        graph: of :func:`trace`.
        shape: channels, height and width of an image.

    Raises:
        TrainingError: the graph does not compute with images of that shape.
    """
    try:
        with torch.no_grad():
            ShapeProp(graph).propagate(torch.zeros((1, *shape)))
    except Exception as error:  # whatever the module raises
        text = str(error.__cause__ or error).strip().splitlines()[0]
        raise TrainingError(f"the model does not take images of {shape}: {text}", "give the images' shape") from error
    order = list(graph.graph.nodes)
    last = {node: max((order.index(user) for user in node.users), default=-1) for node in order}
    answer = _output(graph).args[0]
    modules = dict(graph.named_modules())
    found: dict[str, Tensor] = {}
    reach, macs = -1, 0
    for index, node in enumerate(order):
        if node.op in ("get_attr", "output"):
            continue
        dims = _dims(node)
        macs += _macs(node, modules, dims)
        crossing = reach <= index  # nothing before this is needed behind it
        reach = max(reach, last[node])
        if node.op == "placeholder":
            found[IMAGE] = Tensor(IMAGE, node.name, shape, 0)
        elif node is answer:
            found[LOGITS] = Tensor(LOGITS, node.name, dims, macs)
        elif crossing and len(dims) in (1, 3) and _worth(node, modules):
            name = str(node.target) if node.op == "call_module" else node.name
            name = node.name if name in found else name
            found[name] = Tensor(name, node.name, dims, macs)
    return found


def resolve(graph: fx.GraphModule, shape: tuple[int, int, int], taps: Sequence[str]) -> list[Tensor]:
    """The tensors of those names, in the order in which they become ready.

    Raises:
        TrainingError: a name is not among the candidates, or the order is another.
    """
    known = candidates(graph, shape)
    unknown = [name for name in taps if name not in known]
    if unknown:
        raise TrainingError(f"the model has no tap {', '.join(unknown)}", f"those it has: {', '.join(known)}")
    ordered = [name for name in known if name in taps]
    if ordered != list(taps):
        raise TrainingError(f"taps {', '.join(taps)} are not in the model's order", f"give {', '.join(ordered)}")
    return [known[name] for name in taps]


def with_outputs(graph: fx.GraphModule, nodes: Sequence[str]) -> fx.GraphModule:
    """The part of ``graph`` that computes those tensors; shares its modules, answers a tuple.

    Args:
        graph: not changed.
        nodes: names in the graph.
    """
    part: fx.Graph = copy.deepcopy(graph.graph)
    by_name = {node.name: node for node in part.nodes}
    output = next(node for node in part.nodes if node.op == "output")
    output.args = (tuple(by_name[name] for name in nodes),)
    part.lint()
    placeholder = next(node for node in part.nodes if node.op == "placeholder")
    for node in reversed(list(part.nodes)):
        if node not in (output, placeholder) and not node.users:
            part.erase_node(node)
    result = fx.GraphModule(graph, part)
    result.delete_all_unused_submodules()
    return result.train(graph.training)


def answer_node(graph: fx.GraphModule) -> str:
    """The graph's name for what it answers."""
    return str(_output(graph).args[0].name)


def _output(graph: fx.GraphModule) -> fx.Node:
    return next(node for node in graph.graph.nodes if node.op == "output")


def _dims(node: fx.Node) -> tuple[int, ...]:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape[1:]) if hasattr(meta, "shape") and len(meta.shape) else ()


def _macs(node: fx.Node, modules: dict[str, nn.Module], dims: tuple[int, ...]) -> int:
    layer = modules.get(str(node.target)) if node.op == "call_module" else None
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return 0
    elements = 1
    for extent in dims:
        elements *= extent
    return elements * int(layer.weight[0].numel())


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """passing, activation, or other."""
    if node.op == "call_module":
        layer = modules[str(node.target)]
        if isinstance(layer, _PASSING):
            return "passing"
        return "activation" if isinstance(layer, _ACTIVATIONS) else "other"
    name = getattr(node.target, "__name__", str(node.target))
    if name in _PASSING_NAMES:
        return "passing"
    return "activation" if name in _ACTIVATION_NAMES else "other"


def _worth(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether its data is finished: not only passed on, and not about to be normalised or activated."""
    if _kind(node, modules) == "passing":
        return False
    ahead = list(node.users)
    while len(ahead) == 1 and _kind(ahead[0], modules) == "passing":
        ahead = list(ahead[0].users)
    return not (len(ahead) == 1 and _kind(ahead[0], modules) == "activation")

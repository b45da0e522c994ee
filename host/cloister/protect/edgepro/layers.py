# SPDX-License-Identifier: BSD-2-Clause
"""Layers of a torch module, and which of them can be locked."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence

from torch import fx, nn

from cloister.protect.training.errors import TrainingError

#: Modules that use their layers' weights without calling the layers.
_HIDING = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def lockable(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers that can be locked: convolutions and linear layers but the last.

    The last layer's outputs are the logits; a lock there could be read off the answers. A traced module's layers come
    in the order in which they are called; any other module's in that of its attributes. Layers inside torch's own
    attention are left out: it reads their weights without calling them.
    """
    layers = {name: layer for name, layer in called(module) if isinstance(layer, nn.Conv2d | nn.Linear)}
    return dict(list(layers.items())[:-1])


def check_names(layers: Sequence[str], every: Iterable[str], module: nn.Module) -> None:
    """Refuse names of layers that are not among ``every``, those of ``module`` that can be locked.

    Raises:
        TrainingError: names them with the reason, and those that are there.
    """
    there = list(every)
    unknown = [name for name in layers if name not in there]
    if there and unknown:
        reasons = "; ".join(f"{name!r} {_unlockable(name, module)}" for name in unknown)
        raise TrainingError(f"layers cannot be locked: {reasons}", f"those that can: {', '.join(there)}")


def _unlockable(name: str, module: nn.Module) -> str:
    """Why a layer is not among those that :func:`lockable` found."""
    part = dict(module.named_modules()).get(name)
    if part is None:
        return "is not there"
    if not isinstance(part, nn.Conv2d | nn.Linear):
        return f"is no convolution or linear layer, but a {type(part).__name__}"
    if name in dict(called(module)):
        return "is the last layer, whose outputs are the answer"
    return "is never called: what reads its weights would not see the lock"


def called(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Paths and modules, in the order of a traced module's calls; what torch's own attention hides is left out."""
    inner = [name for name, part in module.named_modules() if isinstance(part, _HIDING)]
    seen = set()
    for root in _roots(module):
        for path, part in module.get_submodule(root).named_modules():
            name = ".".join(filter(None, (root, path)))
            if name not in seen and not any(name.startswith(f"{hiding}.") for hiding in inner):
                seen.add(name)
                yield name, part


def _roots(module: nn.Module) -> list[str]:
    if not isinstance(module, fx.GraphModule):
        return [""]
    return [str(node.target) for node in module.graph.nodes if node.op == "call_module"]


def width_of(layer: nn.Conv2d | nn.Linear) -> int:
    """Number of output channels."""
    return int(layer.weight.shape[0])


def traced(module: nn.Module) -> fx.GraphModule:
    """A copy in evaluation mode, as a graph.

    Raises:
        TrainingError: torch.fx cannot trace it.
    """
    copied = copy.deepcopy(module).eval()
    if isinstance(copied, fx.GraphModule):  # its functions might not be traced again
        return copied
    try:
        return fx.symbolic_trace(copied)
    except Exception as error:  # torch.fx, and whatever the module's forward raises
        raise _untraceable(error) from error


def _untraceable(error: Exception) -> TrainingError:
    return TrainingError(
        f"the module cannot be traced: {(str(error).splitlines() or [repr(error)])[0]}",
        "make its forward free of branches and loops on tensors, or give the model as an ONNX file",
    )

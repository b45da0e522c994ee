# SPDX-License-Identifier: BSD-2-Clause
"""Channels that depend on each other: which can be removed together, and removing them. Uses torch-pruning's graph."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cloister.protect.training.errors import LibraryError, TrainingError

#: Channels to remove, by the path of the layer that makes them.
Removal = Mapping[str, list[int]]


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together, such as all that are added up along a residual stage.

    Attributes:
        layer: path of a layer that makes them; names the group.
        width: number of channels.
        makers: paths of the convolutions, linear layers and normalisations that write them; for each the channel of
            the group to which each of its channels belongs, int64 (channels of the maker,).
        raw: torch-pruning's own group.
        sections: equal runs of channels that must stay equally wide, as group normalisation takes channels together;
            0: no such runs, so none can be removed.
    """

    layer: str
    width: int
    makers: dict[str, torch.Tensor]
    raw: Any = field(repr=False, compare=False)
    sections: int = 1

    def lowest(self, worth: torch.Tensor, count: int) -> list[int]:
        """The least worthy channels, equally many of each section, ascending.

        Args:
            worth: (width,).
            count: a multiple of the sections.
        """
        parts = worth.view(self.sections, -1)
        places = torch.argsort(parts, dim=1, stable=True)[:, : count // self.sections]
        first = torch.arange(self.sections).view(-1, 1) * parts.shape[1]
        return sorted((places + first).flatten().tolist())


def library() -> Any:
    """The module ``torch_pruning``.

    Raises:
        LibraryError: it is not installed.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise LibraryError(
            "pruning needs torch-pruning", "run build/setup --train, or pip install torch-pruning"
        ) from error
    return torch_pruning


def multiply_accumulates(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image (channels, height, width)."""
    total = 0

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * (layer.weight[0].numel())

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            module.eval()(torch.zeros((1, *shape)))
    finally:
        for handle in handles:
            handle.remove()
    return total


def parameters(module: nn.Module) -> int:
    """Weights and biases that are deployed: batch normalisation is folded into a bias for each channel."""
    total = 0
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            total += layer.weight.numel() + layer.weight.shape[0]
    return total


def widths(module: nn.Module) -> dict[str, int]:
    """Output channels of each convolution and linear layer, by its path."""
    return {
        name: int(layer.weight.shape[0])
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


def _graph(module: nn.Module, shape: tuple[int, int, int]) -> Any:
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # the graph is found along gradients
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            return library().DependencyGraph().build_dependency(module.eval(), torch.zeros((2, *shape)))
    except TrainingError:
        raise
    except Exception as error:  # whatever the module's forward or the tracer raises
        raise TrainingError(
            f"the layers' dependencies cannot be traced: {(str(error) or repr(error)).splitlines()[0]}",
            "give a module that takes one tensor of images and returns logits",
        ) from error


def _all(module: nn.Module, shape: tuple[int, int, int]) -> Iterator[Group]:
    graph = _graph(module, shape)
    names = {id(layer): name for name, layer in module.named_modules()}
    kinds = [nn.modules.conv._ConvNd, nn.Linear]
    for raw in graph.get_all_groups(root_module_types=kinds):
        root = raw[0].dep.target.module
        makers, width, sections = {}, int(root.weight.shape[0]), 1
        for item in raw:
            layer = item.dep.target.module
            if isinstance(layer, nn.GroupNorm) and layer.num_groups > 1:
                sections = math.lcm(sections, _sections(layer, item, width))
            writes = graph.is_out_channel_pruning_fn(item.dep.handler)
            if writes and isinstance(layer, nn.Conv2d | nn.Linear | nn.modules.batchnorm._BatchNorm):
                channel_of = torch.full((max(item.idxs) + 1,), -1, dtype=torch.int64)
                channel_of[torch.tensor(item.idxs)] = torch.tensor(item.root_idxs)
                makers[names[id(layer)]] = channel_of
        yield Group(names[id(root)], width, makers, raw, sections)


def _sections(layer: nn.GroupNorm, item: Any, width: int) -> int:
    """Sections of a group of ``width`` channels that this normalisation takes together; 0: its own cut through them."""
    share = layer.num_channels // layer.num_groups
    pairs = zip(item.idxs, item.root_idxs, strict=True)
    fits = width % layer.num_groups == 0
    return (
        layer.num_groups if fits and all(own // share == root * layer.num_groups // width for own, root in pairs) else 0
    )


def prunable(module: nn.Module, shape: tuple[int, int, int]) -> list[Group]:
    """The groups of channels that can be removed, found by removing one and computing an answer.

    The answer's own channels cannot, nor those whose number stands somewhere in the module's code.

    Args:
        module: on the CPU.
        shape: channels, height and width of an image.

    Raises:
        TrainingError: the module cannot be traced, or none can be removed.
    """
    with torch.no_grad():
        answer = module.eval()(torch.zeros((2, *shape))).shape
    found = []
    for group in _all(module, shape):
        if not group.sections or group.width < 2 * group.sections:
            continue
        try:
            with torch.no_grad():
                least = group.lowest(torch.zeros(group.width), group.sections)
                smaller = remove(module, {group.layer: least}, shape)
                good = smaller(torch.zeros((2, *shape))).shape == answer
                good = good and widths(smaller)[group.layer] == group.width - group.sections
        except Exception:  # noqa: S112 - a shape that the code fixes: this group stays whole
            continue
        if good:
            found.append(group)
    if not found:
        raise TrainingError(
            "no channel of this model can be removed", "give a module whose code does not fix its layers' widths"
        )
    order = {name: index for index, (name, _) in enumerate(module.named_modules())}
    return sorted(found, key=lambda group: order[group.layer])


def remove(module: nn.Module, removal: Removal, shape: tuple[int, int, int]) -> nn.Module:
    """A copy of ``module`` without those channels and all that depends on them; on the CPU, in evaluation mode.

    Raises:
        TrainingError: a layer or channel is not there.
    """
    smaller = copy.deepcopy(module).eval()
    graph = _graph(smaller, shape)
    for name, indices in removal.items():
        layer = dict(smaller.named_modules()).get(name)
        if not isinstance(layer, nn.Conv2d | nn.Linear) or not set(indices) < set(range(layer.weight.shape[0])):
            raise TrainingError(f"layer {name!r} has no channels {indices} to spare", "prune the model this is for")
        handler = graph.get_pruner_of_module(layer).prune_out_channels
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            graph.get_pruning_group(layer, handler, sorted(indices)).prune()
    for parameter in smaller.parameters():
        parameter.grad = None
    return smaller

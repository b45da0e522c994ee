# SPDX-License-Identifier: BSD-2-Clause
"""Backbones that are not the victim itself: with fewer channels, or with weights that tell nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from cloister.attack.surgery import fresh, undrawn
from cloister.protect.prune.channels import Group, prunable, remove
from cloister.protect.training.errors import TrainingError

#: Layers of at least so many channels keep a multiple of it: the engine computes channels in fours.
MULTIPLE = 4
#: Synthetic images that statistics of a backbone without private data are measured on.
SYNTHETIC = 256


def narrowed(module: nn.Module, shape: tuple[int, int, int], share: float) -> nn.Module:
    """A copy in which each layer but the last has about ``share`` of its channels: those of the largest weights.

    Of layers that group normalisation takes in runs, each run keeps as many.

    Args:
        module: on the CPU.
        shape: channels, height and width of an image.
        share: above 0 to 1.

    Raises:
        TrainingError: the layers' dependencies cannot be traced, or torch-pruning is missing.
    """
    removal = {}
    for group in prunable(module, shape):
        wanted = max(1, round(share * group.width))
        multiple = math.lcm(MULTIPLE, group.sections)
        if wanted < multiple:
            multiple = group.sections
        wanted = max(multiple, multiple * round(wanted / multiple))
        if wanted < group.width:
            removal[group.layer] = group.lowest(_weights(module, group), group.width - wanted)
    return remove(module, removal, shape)


def _weights(module: nn.Module, group: Group) -> torch.Tensor:
    total = torch.zeros(group.width)
    for name, channel_of in group.makers.items():
        layer = module.get_submodule(name)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            size = layer.weight.detach().abs().flatten(1).mean(1)
            known = channel_of >= 0
            total.index_add_(0, channel_of[known], size[: len(channel_of)][known])
    return total


def synthetic(shape: tuple[int, int, int], count: int, seed: int) -> torch.Tensor:
    """Images that have the statistics of normalised natural ones but nothing else of any: float32 (count, C, H, W).

    Noise at several resolutions, the coarser the stronger, brought to mean 0 and deviation 1: natural images have
    power falling with frequency about so (Field, "Relations between the statistics of natural images", 1987).
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    total = torch.zeros((count, *shape))
    size = 2
    while size < max(height, width):
        noise = torch.randn((count, channels, size, size), generator=generator)
        larger = nn.functional.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
        total += larger * (2.0 / size) ** 0.5
        size *= 2
    total += 0.1 * torch.randn(total.shape, generator=generator)
    return (total - total.mean()) / total.std()


@torch.no_grad()
def drawn(module: nn.Module, shape: tuple[int, int, int], seed: int) -> nn.Module:
    """A copy that no private data went into: weights drawn, normalisation measured on :func:`synthetic` images.

    Raises:
        TrainingError: it cannot be run on images of that shape, or has weights that cannot be drawn.
    """
    made = fresh(module, seed)
    if same := sorted(undrawn(made, module)):
        raise TrainingError(
            f"a random backbone would show {', '.join(same)} of {type(module).__name__} as learned: the layer that has "
            "it does not draw it anew",
            "choose a backbone that is not random, or give the model as a torch module whose layers are torch's own",
        )
    norms = [layer for layer in made.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = None  # the plain mean of what is seen
    images = synthetic(shape, SYNTHETIC, seed)
    try:
        for part in images.split(64):
            made.train()(part)
    except Exception as error:  # whatever the module's forward raises
        told = (str(error) or repr(error)).splitlines()[0]
        raise TrainingError(
            f"{type(module).__name__} with weights drawn anew cannot be run on images {shape} in training mode: {told}",
            "give a module that can, or choose a backbone that is not random",
        ) from error
    _restore(norms, momenta)
    return made.eval()


def _restore(norms: Sequence[nn.Module], momenta: Sequence[float | None]) -> None:
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum

# SPDX-License-Identifier: BSD-2-Clause
"""Search for the password by gradient: a scale and a shift for each channel, all weights kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection

import torch
from torch import nn

from cloister.attack.attacker import Attacker, Record
from cloister.attack.attacks.finetune import budget
from cloister.attack.surgery import Outputs, behind_layers, has_normalisation
from cloister.protect.edgepro.layers import width_of

TITLE = "gradient search for a mask"
SOURCE = (
    'after Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013, and Zhou et al., '
    '"Deconstructing Lottery Tickets", NeurIPS 2019 (masks learned over frozen weights); scales and shifts are real '
    "here, as locks are"
)

#: Ways to begin; see :func:`masked`. The first is for networks that are normalised already.
KINDS = ("plain", "normalised", "anew", "undecided")


class Affine(nn.Module):
    """A scale and a shift for each channel."""

    def __init__(self, scales: torch.Tensor, shifts: torch.Tensor) -> None:
        super().__init__()
        self.scales, self.shifts = nn.Parameter(scales), nn.Parameter(shifts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, ...), the same shape."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        result: torch.Tensor = x * self.scales.view(shape) + self.shifts.view(shape)
        return result


def masked(
    module: nn.Module, images: torch.Tensor, how: str, seed: int, layers: Collection[str] | None = None
) -> nn.Module:
    """A copy with frozen weights and something to learn for each channel behind every layer but the last.

    Args:
        module: on the CPU.
        images: normalised, (N, C, H, W).
        how: "plain": scales of 1 and shifts of 0. "normalised": batch normalisation that changes nothing at first.
            "anew": one that brings every channel to mean 0 and deviation 1, so that channels that are never above 0
            have a gradient. "undecided": as "normalised", but with small scales of either sign drawn, so that no sign
            has to be crossed over.
        seed: for that draw.
        layers: paths of those to learn behind, where not all can be locked.
    """
    copied = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)

    def learned(layer: nn.Module, outputs: Outputs) -> nn.Module:
        width = width_of(layer)
        if how == "plain":
            return Affine(torch.ones(width), torch.zeros(width))
        normal = outputs.normalisation(anew=how == "anew")
        if how == "undecided":
            with torch.no_grad():
                normal.weight.mul_(0.3 * torch.randn(width, generator=generator))
        return normal

    copied.requires_grad_(False)
    behind_layers(copied, learned, images, layers)
    return copied


def run(attacker: Attacker) -> list[Record]:
    """Two records, with the largest share of the data: the mask alone, and everything trained on from it."""
    module = attacker.locked()
    if module is None:
        return []
    began = time.monotonic()
    share, images, sample = attacker.most()
    kinds = KINDS[:1] if has_normalisation(module) else KINDS
    layers = attacker.lockable(module)
    starts = {f"{how} mask": masked(module, sample, how, attacker.seed, layers) for how in kinds}
    found = attacker.train(starts, images, f"mask-share-{share:g}", attacker.effort.mask_rates)
    records = [attacker.record("mask", budget(share), found, began, images=len(images))]
    began = time.monotonic()
    start = found.module.cpu().requires_grad_(True)
    tuned = attacker.train({f"{found.start}, all trained on": start}, images, f"mask-tuned-share-{share:g}")
    records.append(attacker.record("mask, fine-tuned", budget(share), tuned, began, images=len(images)))
    return records

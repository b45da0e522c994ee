# SPDX-License-Identifier: BSD-2-Clause
"""What a network answers, and how often that is right."""

from __future__ import annotations

import torch
from torch import nn

from cloister.protect.training.data import Images, Splits

#: Images at a time, wherever a network looks at many: more does not make a CPU faster, and what a layer gives for 1000
#: large images takes tens of GB.
BATCH = 250


@torch.no_grad()
def logits_of(module: nn.Module, images: Images, splits: Splits) -> torch.Tensor:
    """The network's outputs: float32 (N, classes), on the network's device; its mode is left as it was."""
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    try:
        parts = [module(splits.normalise(part.to(device))).to(torch.float32) for part in images.pixels.split(BATCH)]
    finally:
        module.train(training)
    return torch.cat(parts)


def labels_of(module: nn.Module, images: Images, splits: Splits) -> torch.Tensor:
    """The network's answers: int64 (N,), on the network's device."""
    return logits_of(module, images, splits).argmax(1)


def accuracy(module: nn.Module, images: Images, splits: Splits) -> float:
    """Share of the images that the network labels rightly, 0 to 1."""
    labels = labels_of(module, images, splits)
    return float((labels == images.labels.to(labels.device)).to(torch.float32).mean())


def agreement(first: torch.Tensor, second: torch.Tensor) -> float:
    """Share of equal labels, 0 to 1 (fidelity, where one of the two is the victim's)."""
    return float((first == second.to(first.device)).to(torch.float32).mean())

# SPDX-License-Identifier: BSD-2-Clause
"""What the training of a pair minimises."""

from __future__ import annotations

import torch
from torch import nn

from cloister.protect.mirror.pair import Pair
from cloister.protect.mirror.settings import MirrorSettings
from cloister.protect.prune.distil import Distillation


def unevenness(logits: torch.Tensor) -> torch.Tensor:
    """Distance of answers (N, classes) to equal chances, 0 at the least."""
    even = torch.log(torch.tensor(float(logits.shape[1]), device=logits.device))
    return -logits.log_softmax(1).mean() - even


class PairObjective(Distillation):
    """The pair answers as the victim does; the backbone by itself answers nothing."""

    def __init__(self, victim: nn.Module, settings: MirrorSettings) -> None:
        super().__init__(victim, settings.distil, settings.temperature)
        self.settings = settings

    def loss(
        self, module: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """See the base class; ``module`` is a :class:`Pair`."""
        assert isinstance(module, Pair)
        own, tapped = module.backbone.raw(images)
        total = self.towards(module.monitor(images, module.backbone.crossed(own, tapped)), images, labels)
        if module.backbone.frozen:
            return total
        return total + self.settings.poor * unevenness(own)

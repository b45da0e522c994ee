# SPDX-License-Identifier: BSD-2-Clause
"""Fine-tuning towards the unpruned network's answers."""

from __future__ import annotations

import copy

import torch
from torch import nn

from cloister.protect.training.data import Splits
from cloister.protect.training.loop import Objective, Recipe


class Distillation(Objective):
    """Cross-entropy with the labels, mixed with the distance to a teacher's answers (Hinton et al. 2015)."""

    def __init__(self, teacher: nn.Module, share: float, temperature: float, label_smoothing: float = 0.0) -> None:
        """The teacher is copied; ``share`` (0 to 1) is the distance's part of the loss."""
        super().__init__(label_smoothing)
        self.teacher = copy.deepcopy(teacher).eval()
        self.share, self.temperature = share, temperature

    def begin(self, module: nn.Module, splits: Splits, recipe: Recipe) -> None:
        """Move the teacher to where the training images lie."""
        self.teacher.to(splits.train.pixels.device)

    def loss(
        self, module: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """As :meth:`Objective.loss`."""
        return self.towards(module(images), images, labels)

    def towards(self, logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of these answers (N, classes) to these images."""
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if not self.share:
            return loss
        with torch.no_grad():
            aim = (self.teacher(images) / self.temperature).log_softmax(1)
        ours = (logits / self.temperature).log_softmax(1)
        distance = nn.functional.kl_div(ours, aim, reduction="batchmean", log_target=True)
        return (1 - self.share) * loss + self.share * self.temperature**2 * distance

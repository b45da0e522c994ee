# SPDX-License-Identifier: BSD-2-Clause
"""What the training of a pair minimises."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cloister.protect.mirror.fine_tuning import FineTuning, unevenness
from cloister.protect.mirror.pair import Pair
from cloister.protect.mirror.readers import Readers
from cloister.protect.mirror.settings import MirrorSettings
from cloister.protect.prune.distil import Distillation
from cloister.protect.training.data import Splits
from cloister.protect.training.evaluate import accuracy, labels_of
from cloister.protect.training.loop import Recipe


class PairObjective(Distillation):
    """The pair answers as the victim does; a backbone that is trained tells nothing by itself, nor after an attack."""

    def __init__(self, victim: nn.Module, settings: MirrorSettings) -> None:
        super().__init__(victim, settings.distil, settings.temperature)
        self.settings = settings
        self.steps = 0
        self.attacker: FineTuning | None = None
        self.readers: Readers | None = None

    def begin(self, module: nn.Module, splits: Splits, recipe: Recipe) -> None:
        """Make the attackers."""
        super().begin(module, splits, recipe)
        assert isinstance(module, Pair)
        backbone, settings = module.backbone, self.settings
        if backbone.frozen:
            return
        if settings.attack:
            self.attacker = FineTuning(settings, splits)
        if settings.readers and backbone.inner:
            shapes = [tensor.shape for tensor in backbone.inner]
            self.readers = Readers(shapes, module.classes, settings.seed, splits.train.pixels.device)

    def loss(
        self, module: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """See the base class; ``module`` is a :class:`Pair`."""
        assert isinstance(module, Pair)
        own, tapped = module.backbone.raw(images)
        total = self.towards(module.monitor(images, module.backbone.crossed(own, tapped)), images, labels)
        if module.backbone.frozen:
            return total
        total = total + self.settings.poor * unevenness(own)
        if self.readers is not None:
            total = total + self.settings.readers * self.readers.told(tapped, labels)
        if self.attacker is not None and self.steps % self.settings.attack_every == 0:
            success, carrier = self.attacker.success(module.backbone, images, generator)
            # the value is the attacker's success, the gradient that of the carrier
            total = total + self.settings.attack * (success + carrier - carrier.detach())
        self.steps += 1
        return total

    def score(self, module: nn.Module, splits: Splits) -> float:
        """Validation accuracy of the pair, less what the backbone's own is above chance, or below it."""
        assert isinstance(module, Pair)
        found = accuracy(module, splits.validation, splits)
        if module.backbone.frozen:
            return found
        alone = labels_of(_Own(module.backbone), splits.validation, splits)
        own = float((alone == splits.validation.labels.to(alone.device)).to(torch.float32).mean())
        return found - max(0.0, abs(own - 1 / module.classes) - 0.05)

    def state(self) -> dict[str, Any]:
        """Steps so far, and the readers."""
        return {"steps": self.steps, "readers": None if self.readers is None else self.readers.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """See the base class."""
        self.steps = state["steps"]
        if self.readers is not None:
            self.readers.restore(state["readers"])


class _Own(nn.Module):
    """A backbone as a network that answers its own logits; no copy."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.backbone(image)[0]
        return logits

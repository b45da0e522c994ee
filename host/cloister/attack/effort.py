# SPDX-License-Identifier: BSD-2-Clause
"""How much an attacker has, and how hard he tries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cloister.attack.errors import AttackError
from cloister.protect.training import Augmentation


@dataclass(frozen=True)
class Effort:
    """What attackers are given, the same for every target.

    Attributes:
        shares: of the labelled training images; 0 to 1.
        queries: numbers of labels that are asked of the device.
        rates: learning rates that every training is tried with; the best on the validation images counts.
        mask_rates: the same for scales and shifts of channels.
        epochs: validations in a training; the best of them counts.
        steps: of a training, spread over the epochs.
        trial: steps of the short trainings that starts and rates are told apart by.
        batch: images in a step.
        augmentation: of the attacker's images. Give him the owner's.
        precision: of his trainings, as :class:`~cloister.protect.training.Recipe` names it.
        validation: images, at most, that rates and epochs are chosen on. They come on top of the attacker's share.
        pruned: shares of each layer's channels that the attack by pruning tries.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.1)
    queries: tuple[int, ...] = (50, 500, 5000)
    rates: tuple[float, ...] = (0.01, 0.05, 0.2)
    mask_rates: tuple[float, ...] = (0.02, 0.2)
    epochs: int = 20
    steps: int = 2000
    trial: int = 300
    batch: int = 64
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validation: int = 2000
    pruned: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5)

    def __post_init__(self) -> None:
        """Raises AttackError where nothing would be tried."""
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise AttackError(f"shares of the training images are {self.shares}", "give some above 0 and at most 1")
        if not self.queries or not all(count > 0 for count in self.queries):
            raise AttackError(f"numbers of queries are {self.queries}", "give some above 0")
        if not self.rates or not self.mask_rates or not all(rate > 0 for rate in (*self.rates, *self.mask_rates)):
            raise AttackError("a learning rate is missing or not above 0", "give at least one rate")
        if min(self.epochs, self.steps, self.trial, self.batch - 1, self.validation) < 1:
            raise AttackError("an attacker without steps does nothing", "give at least 1 epoch, and a batch of 2")
        if not all(0 < share < 1 for share in self.pruned):
            raise AttackError(f"shares of pruned channels are {self.pruned}", "give some between 0 and 1")

    @staticmethod
    def quick(augmentation: Augmentation | None = None) -> Effort:
        """A tenth of the work, to try things out; it favours the defender."""
        return Effort(
            rates=(0.02, 0.1), mask_rates=(0.1,), epochs=5, steps=200, trial=50, validation=1000,
            augmentation=augmentation or Augmentation(),
        )  # fmt: skip

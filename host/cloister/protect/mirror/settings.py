# SPDX-License-Identifier: BSD-2-Clause
"""How a pair is trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cloister.protect.strategy import Strategy
from cloister.protect.training.augment import Augmentation
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.loop import Recipe


@dataclass(frozen=True)
class MirrorSettings:
    """What is trained, and what for.

    Attributes:
        strategy: of kind "mirror".
        recipe: of both halves together. A frozen backbone stays as it is; then only the CPM is trained by it.
        final: epochs of the CPM alone at the end, with the backbone as it has become; 0: none. Frozen backbones
            have none.
        distil: share of the pair's loss that is the distance to the victim's answers; the rest are true labels.
        temperature: that both answers are softened with for that.
        poor: weight of the distance of a tampered backbone's own answers to equal chances.
        attack: weight of the same distance after an attacker has fine-tuned a copy of the tampered backbone.
        attack_steps: steps of that attacker, at most; each time their number is drawn.
        attack_rates: his learning rates; each time one is drawn.
        attack_batch: images in one of his steps.
        attack_share: share of the training images that he has.
        attack_every: training steps from one attack to the next.
        readers: weight of the same distance for linear readers of the taps, trained on the true labels alongside.
        seed: of all that is drawn but the recipe's.
    """

    strategy: Strategy
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=15, rate=0.05, clip=5.0, select="last"))
    final: int = 5
    distil: float = 0.7
    temperature: float = 4.0
    poor: float = 1.0
    attack: float = 1.0
    attack_steps: int = 4
    attack_rates: tuple[float, ...] = (0.01, 0.05, 0.2)
    attack_batch: int = 64
    attack_share: float = 0.1
    attack_every: int = 1
    readers: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises TrainingError where a setting cannot be."""
        checks = (
            (self.strategy.kind == "mirror", f"a strategy of kind {self.strategy.kind}", "choose kind mirror"),
            (self.final >= 0, f"{self.final} final epochs", "choose 0 or more"),
            (0 <= self.distil <= 1, f"a share of {self.distil} for distillation", "choose 0 to 1"),
            (self.temperature > 0, f"a temperature of {self.temperature}", "choose above 0"),
            (min(self.poor, self.attack, self.readers) >= 0, "a negative weight", "choose 0 or more"),
            (min(self.attack_steps, self.attack_batch, self.attack_every) >= 1, "an attacker without steps or images",
             "choose at least 1, or give attack the weight 0"),
            (bool(self.attack_rates) and min(self.attack_rates) > 0, f"attackers' rates {self.attack_rates}",
             "choose above 0"),
            (0 < self.attack_share <= 1, f"an attacker's share of {self.attack_share}", "choose above 0 to 1"),
        )  # fmt: skip
        for good, what, remedy in checks:
            if not good:
                raise TrainingError(f"a pair cannot be trained with {what}", remedy)


def settings_with(
    strategy: Strategy,
    *,
    epochs: int | None = None,
    rate: float | None = None,
    batch: int | None = None,
    augmentation: Augmentation | None = None,
    precision: str | None = None,
    **given: Any,
) -> MirrorSettings:
    """The default settings, but for what is given and not None; the recipe's own by name.

    Raises:
        TrainingError: as :class:`MirrorSettings`.
    """
    plain = {key: value for key, value in given.items() if value is not None}
    parts: dict[str, Any] = {
        "epochs": epochs, "rate": rate, "batch": batch, "augmentation": augmentation, "precision": precision,
        "seed": plain.get("seed"),
    }  # fmt: skip
    default = MirrorSettings(strategy).recipe
    recipe = replace(default, **{key: value for key, value in parts.items() if value is not None})
    return MirrorSettings(strategy, recipe=recipe, **plain)

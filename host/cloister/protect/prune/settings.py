# SPDX-License-Identifier: BSD-2-Clause
"""What is pruned, by how much, and how the network is mended between steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from cloister.protect.training.augment import Augmentation
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.loop import Recipe

Criterion = Literal["taylor", "l1", "l2", "bn", "median", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)


@dataclass(frozen=True)
class PruneSettings:
    """How to prune.

    Attributes:
        budget: points (hundredths of the validation images) that may be lost.
        steps: number of steps from the unpruned network to ``target``.
        target: share of the multiply-accumulates that the last step leaves. Every step leaves the same share of what
            the one before left.
        criterion: what ranks channels: "taylor" (how much the loss changes to first order if the channel is gone,
            Molchanov et al. 2019), "l1" and "l2" (size of the weights that make and read it), "bn" (scale of its batch
            normalisation; layers without stay whole), "median" (distance to the layer's other filters, He et al.
            2019), "random".
        scope: "global" ranks the channels of all layers together, "layer" takes the same share of each layer.
        weigh: divide a channel's worth by the multiply-accumulates that its removal saves, by the instructions that it
            saves as ``cloister plan`` estimates them (slower: exports the network once for each group), or by nothing
            ("none"). Global scope only.
        round_to: layers keep a multiple of so many channels, if they had that many; the engine computes channels in
            fours and eights.
        least: channels that each layer keeps.
        images: training images that "taylor" looks at.
        distil: share of the loss that is the distance to the unpruned network's answers; 0: labels alone.
        temperature: that both answers are softened with for that.
        slack: points by which steps before the last fine-tuning may be below the budget.
        refine: how often a smaller step is tried where one lost too much.
        recipe: of the fine-tuning after each step.
        final: epochs of the last fine-tuning; 0: none.
        seed: of the fine-tuning and of the random criterion.
    """

    budget: float = 1.0
    steps: int = 8
    target: float = 0.125
    criterion: Criterion = "taylor"
    scope: Literal["global", "layer"] = "global"
    weigh: Literal["macs", "instructions", "none"] = "macs"
    round_to: int = 4
    least: int = 4
    images: int = 2000
    distil: float = 0.5
    temperature: float = 4.0
    slack: float = 1.0
    refine: int = 2
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=4, rate=0.02, weight_decay=1e-4, clip=5.0))
    final: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises TrainingError where a setting cannot be."""
        checks = (
            (self.budget >= 0, f"an accuracy budget of {self.budget} points", "choose 0 or more"),
            (self.steps >= 1, f"{self.steps} steps", "choose at least 1"),
            (0 < self.target < 1, f"a target of {self.target}", "choose the share that is to be left, as 0.125"),
            (self.criterion in CRITERIA, f"a criterion {self.criterion!r}", f"there are: {', '.join(CRITERIA)}"),
            (self.scope in ("global", "layer"), f"a scope {self.scope!r}", "choose global or layer"),
            (self.weigh in ("macs", "instructions", "none"), f"weights {self.weigh!r}", "choose macs or instructions"),
            (self.round_to >= 1 and self.least >= 1, f"{self.least} channels at least, in multiples of "
             f"{self.round_to}", "choose at least 1"),
            (0 <= self.distil <= 1, f"a share of {self.distil} for distillation", "choose 0 to 1"),
            (self.temperature > 0, f"a temperature of {self.temperature}", "choose above 0"),
            (self.slack >= 0 and self.refine >= 0 and self.final >= 0 and self.images >= 1,
             "a negative slack, refine or final, or no images", "choose 0 or more, and at least one image"),
        )  # fmt: skip
        for good, what, remedy in checks:
            if not good:
                raise TrainingError(f"pruning cannot be done with {what}", remedy)


def settings_with(
    *,
    epochs: int | None = None,
    rate: float | None = None,
    batch: int | None = None,
    augmentation: Augmentation | None = None,
    precision: str | None = None,
    **given: Any,
) -> PruneSettings:
    """The default settings, but for what is given and not None; the recipe's own by name.

    Raises:
        TrainingError: as :class:`PruneSettings`.
    """
    plain = {key: value for key, value in given.items() if value is not None}
    parts: dict[str, Any] = {
        "epochs": epochs, "rate": rate, "batch": batch, "augmentation": augmentation,
        "precision": precision, "seed": plain.get("seed"),
    }  # fmt: skip
    recipe = replace(PruneSettings().recipe, **{key: value for key, value in parts.items() if value is not None})
    return PruneSettings(recipe=recipe, **plain)

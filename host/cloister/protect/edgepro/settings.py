# SPDX-License-Identifier: BSD-2-Clause
"""What a lock is made of, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cloister.password import FINGERPRINT
from cloister.protect.edgepro.select import Criterion, Draw
from cloister.protect.training.augment import Augmentation
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.loop import Recipe


@dataclass(frozen=True)
class LockSettings:
    """Which channels are locked to what, and what lock training strives for.

    There are two kinds of locks, which can be mixed. Constants are EdgePro's: with the password the channel is set to a
    locking value. A constant is drawn from ``constant_range``, in units of the channel's mean activation; 0 would equal
    pruning the channel, which an attacker can do too. Turned channels are this project's: with the password the
    channel's output is scaled by -1 and shifted, so that it keeps carrying information, while without it the layer
    behind reads the wrong half of it. Constants cost the model the channel, turned channels cost nothing, so the
    default is those alone.

    Attributes:
        criterion, draw, pool: how channels that become constants are ranked and drawn; see ``select``. Turned ones are
            drawn from the rest with equal chances.
        constant_share, turned_share: of each layer's channels. 0 leaves a kind out.
        constant_range: smallest and largest locking value, in means of the channel's activation; above 0.
        layers: paths of the layers to lock; empty: all that can be.
        without_random: weight of the loss with uniformly random labels without the password (EdgePro's).
        without_uniform: weight of the distance to equal chances for all classes without the password.
        without_features: weight of the same distance for linear readers of each layer's features, which are trained on
            the true labels alongside, as an attacker would. Costs accuracy with the password; off by default, since no
            attack was found that it made worse.
        hide: weight of how far locked channels look unlike the others of their layer (``hiding``). Most channels of a
            trained layer have weights that add up to less than 0, so those of the other sign were turned; the same
            goes for what inputs add to outputs, for the outputs' skewness, and more.
        keep: weight of the distance to the unlocked model's answers with the password.
        jitter: share of itself by which a value may differ from device to device (``Password.for_device``); training
            draws such differences, so that none of them costs accuracy.
        recipe: of lock training.
        seed: of the images that rankings are measured on. Channels and values are drawn by the operating system's
            generator: a seed would let others draw them again.
        allow_zero: let locking values be 0, which is what pruning the channel gives; only to compare with.
    """

    criterion: Criterion = "mean"
    draw: Draw = "roulette"
    pool: float = 0.3
    constant_share: float = 0.0
    turned_share: float = 0.5
    constant_range: tuple[float, float] = (0.5, 2.0)
    layers: tuple[str, ...] = ()
    without_random: float = 0.0
    without_uniform: float = 1.0
    without_features: float = 0.0
    hide: float = 0.3
    keep: float = 1.0
    jitter: float = FINGERPRINT
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=16, rate=0.007, weight_decay=1e-4, clip=5.0))
    seed: int = 0
    allow_zero: bool = False

    @staticmethod
    def published() -> LockSettings:
        """EdgePro's published locks, to compare with: a tenth of the channels, locked to 0, random labels without.

        They are trained otherwise than by the published code, which gives a random half of each batch the mask and
        true labels, the other half no mask and random labels, and takes one cross-entropy of both. Here, as with all
        settings, the whole batch is taken with the mask and half of the same images once more without it, as two
        losses.
        """
        return LockSettings(
            constant_share=0.1, turned_share=0.0, constant_range=(0.0, 0.0), allow_zero=True, keep=0.0,
            without_random=1.0, without_uniform=0.0, without_features=0.0, hide=0.0, jitter=0.0,
        )  # fmt: skip

    def __post_init__(self) -> None:
        """Raises TrainingError where a setting makes no lock."""
        if self.constant_share < 0 or self.turned_share < 0 or not 0 < self.constant_share + self.turned_share <= 1:
            raise TrainingError(
                f"shares of locked channels are {self.constant_share} and {self.turned_share}",
                "choose at least 0 each (--constant, --turned), together above 0 and at most 1",
            )
        low, high = self.constant_range
        if not 0 <= low <= high or (low == 0 and not self.allow_zero):
            raise TrainingError(
                f"locking values go from {self.constant_range[0]} to {self.constant_range[1]} means",
                "choose above 0: a locking value of 0 is what pruning the channel gives",
            )


def settings_with(
    *,
    epochs: int | None = None,
    rate: float | None = None,
    augmentation: Augmentation | None = None,
    precision: str | None = None,
    **given: Any,
) -> LockSettings:
    """The default settings, but for what is given and not None; the recipe's own by name.

    Raises:
        TrainingError: as :class:`LockSettings`.
    """
    plain = {key: value for key, value in given.items() if value is not None}
    parts: dict[str, Any] = {
        "epochs": epochs, "rate": rate, "augmentation": augmentation, "precision": precision, "seed": plain.get("seed"),
    }  # fmt: skip
    recipe = replace(LockSettings().recipe, **{key: value for key, value in parts.items() if value is not None})
    return LockSettings(recipe=recipe, **plain)

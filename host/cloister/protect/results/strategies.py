# SPDX-License-Identifier: BSD-2-Clause
"""The strategies that results are reported on, by network and name, and how their pairs are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloister.protect.mirror import MirrorSettings
from cloister.protect.prune import PruneSettings
from cloister.protect.results.cases import Case
from cloister.protect.strategy import IMAGE, Strategy
from cloister.protect.training import Recipe


@dataclass(frozen=True)
class Schedule:
    """How pairs of a network are trained.

    Attributes:
        epochs: of both halves together, or of the CPM where the backbone is frozen.
        final: of the CPM alone behind a backbone that was tampered with.
        rate: highest learning rate.
        attack_every: training steps from one attack on the backbone to the next.
    """

    epochs: int
    final: int
    rate: float
    attack_every: int


#: What each name stands for.
NAMES = {
    "cheapest": "a tampered backbone, one tap, a small CPM",
    "tampered": "a tampered backbone that ends earlier, and a larger CPM",
    "truncated": "the victim's first layers as they are, and a CPM in place of the others",
    "last": "the victim as it is but for its last layer, and a CPM of two linear layers on what is left",
    "random": "a backbone with random weights: nothing learned is exposed",
    "small": "no backbone: a small network of its own, distilled from the victim, whole in the TA",
    "pruned": "the victim, pruned a little, whole in the TA",
    "pruned-last": "the same outside but for its last layer, and a CPM of two linear layers on what is left",
    "whole": "the victim, whole in the TA",
}

WHOLE = Strategy(kind="whole")
_IMAGE = Strategy(taps=(IMAGE,), backbone="random", pool=2)


def _last(tap: str) -> Strategy:
    """The least that can be kept back: most of the accuracy, a wide gap, and nearly all of the model given away."""
    return Strategy(taps=(tap,), backbone="truncated", cpm_width=32, cpm_depth=0)


#: By network and name; those of one network that prune do it to the same share. Widths, depths and taps were chosen by
#: predicted costs, before any training, but for some that followed from validation accuracies: `pruned` and
#: `pruned-last` were added when pairs of VGG-7 had lost or cost too much, and the CPM of LeNet-5's `cheapest` was
#: widened from 16.
STRATEGIES: dict[str, dict[str, Strategy]] = {
    "digits": {
        "cheapest": Strategy(taps=("6",), tail="short", cpm_width=8, cpm_depth=0),
        "small": replace(_IMAGE, cpm_width=12),
        "pruned-last": replace(_last("9"), pruned=0.8),
        "whole": WHOLE,
    },
    "lenet5": {
        "cheapest": Strategy(taps=("7",), tail="short", backbone_width=0.84, cpm_width=32, cpm_depth=0),
        "tampered": Strategy(taps=("3",), tail="short", cpm_width=8),
        "last": _last("12"),
        "random": Strategy(taps=("3",), backbone="random", cpm_width=8),
        "small": replace(_IMAGE, cpm_width=8, cpm_depth=2),
        "whole": WHOLE,
    },
    "vgg7": {
        "cheapest": Strategy(taps=("13",), tail="short", cpm_width=32),
        "tampered": Strategy(taps=("6",), tail="short", cpm_width=32, cpm_depth=2),
        "truncated": Strategy(taps=("13",), backbone="truncated", cpm_width=32),
        "last": _last("23"),
        "random": Strategy(taps=("6",), backbone="random", cpm_width=32, cpm_depth=2),
        "pruned": replace(WHOLE, pruned=0.8),
        "pruned-last": replace(_last("23"), pruned=0.8),
        "whole": WHOLE,
    },
    "resnet20": {
        "truncated": Strategy(taps=("8.relu",), backbone="truncated", pool=2, cpm_width=64, cpm_depth=3),
        "last": _last("12"),
        "whole": WHOLE,
    },
}
SCHEDULES = {
    "digits": Schedule(8, 3, 0.05, 2),
    "lenet5": Schedule(10, 3, 0.05, 4),
    "vgg7": Schedule(8, 2, 0.05, 4),
    "resnet20": Schedule(6, 0, 0.05, 8),
}
#: Of pairs that are trained longer than their network's others. This one lost 4.3 points of validation accuracy after 8
#: and 2 epochs, so it was tried; it still loses 3.4.
LONGER = {("vgg7", "cheapest"): Schedule(24, 4, 0.05, 4)}


def settings_of(case: Case, variant: str, seed: int, share: float) -> MirrorSettings:
    """How that pair is trained; recipes take batch, augmentation and precision from the network's case.

    Args:
        case: the network.
        variant: a name of :data:`STRATEGIES`, of kind "mirror".
        seed: of everything drawn.
        share: of the epochs.
    """
    schedule = LONGER.get((case.name, variant), SCHEDULES[case.name])
    recipe = Recipe(
        max(1, round(schedule.epochs * share)), case.recipe.batch, schedule.rate, clip=5.0, select="last", seed=seed,
        augmentation=case.recipe.augmentation, precision=case.recipe.precision,
    )  # fmt: skip
    final = max(1, round(schedule.final * share)) if schedule.final else 0
    return MirrorSettings(STRATEGIES[case.name][variant], recipe, final, attack_every=schedule.attack_every, seed=seed)


def pruning_of(case: Case, variant: str, seed: int, share: float) -> PruneSettings:
    """How that whole network is pruned, in one step; as :func:`settings_of`, of kind "whole"."""
    schedule = SCHEDULES[case.name]
    recipe = Recipe(
        1, case.recipe.batch, schedule.rate, weight_decay=1e-4, clip=5.0, seed=seed,
        augmentation=case.recipe.augmentation, precision=case.recipe.precision,
    )  # fmt: skip
    target = STRATEGIES[case.name][variant].pruned
    assert target is not None
    final = max(1, round(schedule.epochs * share) - 2)
    return PruneSettings(steps=1, target=target, slack=10.0, recipe=recipe, final=final, seed=seed)

# SPDX-License-Identifier: BSD-2-Clause
"""How strategies are searched for, trained and attacked."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace

from cloister.attack.attacker import FINALISTS
from cloister.attack.attacks import ATTACKS
from cloister.attack.effort import Effort as AttackEffort
from cloister.errors import CloisterError
from cloister.protect.mirror import MirrorSettings
from cloister.protect.mirror import settings_with as mirror_settings_with
from cloister.protect.strategy import Strategy
from cloister.protect.training import Augmentation
from cloister.search import Effort as SearchEffort


@dataclass(frozen=True)
class Depth:
    """How thoroughly one strategy is trained and attacked.

    Attributes:
        epochs: of backbone and CPM together.
        final: of the CPM alone behind them.
        attacks: names, as ``cloister attack`` has them.
        effort: what attackers have.
    """

    epochs: int
    final: int
    attacks: tuple[str, ...]
    effort: AttackEffort

    def __post_init__(self) -> None:
        unknown = sorted(set(self.attacks) - set(ATTACKS))
        if unknown or not {"finetune", "steal"} <= set(self.attacks):
            raise CloisterError(
                f"there are no attacks {', '.join(unknown)}" if unknown else "attacks lack fine-tuning or stealing",
                f"choose finetune, steal and more of {', '.join(ATTACKS)}",
            )
        if self.epochs < 1 or self.final < 0:
            raise CloisterError(f"{self.epochs} epochs and {self.final} final ones", "choose at least 1, and 0 or more")

    def steps(self, mirror: MirrorSettings, images: int) -> float:
        """About how many steps of training a strategy takes, attackers' taken in; for one that is tampered.

        Args:
            mirror: how pairs are trained.
            images: for training.
        """
        batches = math.ceil(images / mirror.recipe.batch)
        # in each step an attacker is trained, and the step's own gradient goes through both networks
        pair = batches * (self.epochs * (2 + mirror.attack_steps / mirror.attack_every) + self.final)
        trainings = len(self.effort.shares) + 2 * len(self.effort.queries) + len(self.attacks) - 2
        trials = 3 * len(self.effort.rates)
        return pair + trainings * (FINALISTS * self.effort.steps + trials * self.effort.trial)


def _full() -> Depth:
    return Depth(15, 5, ("direct", "finetune", "steal", "head"), AttackEffort())


def _proxy() -> Depth:
    effort = AttackEffort(
        shares=(0.1,), queries=(500,), rates=(0.05,), mask_rates=(0.1,), epochs=5, steps=300, trial=50, validation=1000
    )
    return Depth(4, 1, ("direct", "finetune", "steal"), effort)


@dataclass(frozen=True)
class ProtectSettings:
    """All that a user can choose beside the budget.

    Attributes:
        full: of strategies that are trained in full.
        proxy: of those that are trained briefly.
        search: how many strategies are estimated, trained briefly and in full.
        rate, batch: of pairs' training; None: the defaults of ``MirrorSettings``.
        augmentation: of training images, the owner's and the attackers'.
        forms: kinds of backbones, or "whole", that are considered; empty: all.
        seed: of all that is drawn.
    """

    full: Depth = field(default_factory=_full)
    proxy: Depth = field(default_factory=_proxy)
    search: SearchEffort = field(default_factory=lambda: SearchEffort(estimates=400, proxies=16, trainings=3))
    rate: float | None = None
    batch: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    forms: tuple[str, ...] = ()
    seed: int = 0

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits, of what a strategy's figures depend on."""
        kept = {key: value for key, value in asdict(self).items() if key != "search"}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]

    def mirror(self, strategy: Strategy, depth: Depth) -> MirrorSettings:
        """How a strategy's pair is trained."""
        return mirror_settings_with(
            strategy, epochs=depth.epochs, rate=self.rate, batch=self.batch, augmentation=self.augmentation,
            final=depth.final, seed=self.seed,
        )  # fmt: skip

    def share(self, images: int) -> float:
        """What a short training costs, as a share of a full one."""
        mirror = self.mirror(Strategy(taps=("logits",)), self.full)
        return self.proxy.steps(mirror, images) / self.full.steps(mirror, images)


def settings_with(
    *,
    estimates: int | None = None,
    proxies: int | None = None,
    trainings: int | None = None,
    epochs: int | None = None,
    proxy_epochs: int | None = None,
    attack_steps: int | None = None,
    attacks: tuple[str, ...] | None = None,
    rate: float | None = None,
    batch: int | None = None,
    augmentation: Augmentation | None = None,
    forms: tuple[str, ...] = (),
    seed: int = 0,
) -> ProtectSettings:
    """The default settings, but for what is given and not None.

    Args:
        estimates, proxies, trainings: strategies that are estimated, trained briefly, and trained in full.
        epochs: of full trainings; a third of them more for the CPM alone.
        proxy_epochs: of short trainings.
        attack_steps: of each training of an attacker on strategies that are trained in full; a seventh for the others.
        attacks: on strategies that are trained in full.
        rate, batch, augmentation, forms, seed: as of :class:`ProtectSettings`.

    Raises:
        SearchError, CloisterError: numbers or attacks that cannot be.
    """
    plain = ProtectSettings(rate=rate, batch=batch, augmentation=augmentation or Augmentation(), forms=forms, seed=seed)
    full, proxy, search = plain.full, plain.proxy, plain.search
    efforts = [replace(depth.effort, augmentation=plain.augmentation) for depth in (full, proxy)]
    if attack_steps is not None:
        steps = (attack_steps, max(1, attack_steps // 7))
        efforts = [
            replace(effort, steps=count, trial=min(effort.trial, max(1, count // 6)))
            for effort, count in zip(efforts, steps, strict=True)
        ]
    count = full.epochs if epochs is None else epochs
    final = full.final if epochs is None else -(-epochs // 3)
    full = replace(full, epochs=count, final=final, effort=efforts[0], attacks=attacks or full.attacks)
    proxy = replace(proxy, epochs=proxy.epochs if proxy_epochs is None else proxy_epochs, effort=efforts[1])
    wanted = {"estimates": estimates, "proxies": proxies, "trainings": trainings}
    given = {key: value for key, value in wanted.items() if value is not None}
    if given:
        # a smaller number of one stage makes the others small enough for it
        least = given.get("trainings", min(search.trainings, *given.values()))
        middle = given.get("proxies", max(least, min(search.proxies, given.get("estimates", search.proxies))))
        search = SearchEffort(given.get("estimates", max(middle, search.estimates)), middle, least)
    return replace(plain, full=full, proxy=proxy, search=search)

# SPDX-License-Identifier: BSD-2-Clause
"""How strategies are searched for, trained and attacked."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace

from cloister.attack.attacker import DRAWS, FINALISTS, METHOD, NORMALISED
from cloister.attack.attacks import ATTACKS
from cloister.attack.effort import Effort as AttackEffort
from cloister.errors import CloisterError
from cloister.protect.edgepro import LockSettings
from cloister.protect.edgepro.settings import settings_with as lock_settings_with
from cloister.protect.mirror import MirrorSettings
from cloister.protect.mirror import settings_with as mirror_settings_with
from cloister.protect.prune import PruneSettings
from cloister.protect.prune import settings_with as prune_settings_with
from cloister.protect.strategy import FORMS, Strategy
from cloister.protect.training import Augmentation
from cloister.search import Effort as SearchEffort

#: Learning rate of what is pruned or locked, as a share of a pair's: so the defaults of pairs and of pruning are.
MENDING_RATE = 0.4
#: Of locks by default. Their trainings are half as long here as `cloister edgepro`'s or shorter, and its lower rate has
#: not been tried in so few epochs.
LOCKING_RATE = 0.02
#: More points than can be lost: how far to prune is the search's choice.
ANY_LOSS = 100.0
#: Of the files that trained strategies are kept as. A kept training's files are compiled as they are: a new number has
#: them made anew. 2: ranges of a random backbone in 8 bits tell nothing of the owner's images, and neither do constants
#: of a model from ONNX, which are drawn as its weights are.
FILES = 2
#: From so many epochs of mending on a victim is pruned in half as large steps.
SMALL_STEPS = 10


@dataclass(frozen=True)
class Depth:
    """How thoroughly one strategy is trained and attacked.

    Attributes:
        epochs: of backbone and CPM together.
        final: of the CPM alone behind them.
        attacks: names, as ``cloister attack`` has them.
        effort: what attackers have.
        mending: epochs of a pruned victim's last fine-tuning [default: ``epochs``].
        locking: epochs of a lock's training [default: half of ``epochs``].
    """

    epochs: int
    final: int
    attacks: tuple[str, ...]
    effort: AttackEffort
    mending: int | None = None
    locking: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.attacks) - set(ATTACKS))
        if unknown or not {"finetune", "steal"} <= set(self.attacks):
            raise CloisterError(
                f"there are no attacks {', '.join(unknown)}" if unknown else "attacks lack fine-tuning or stealing",
                f"choose finetune, steal and more of {', '.join(ATTACKS)}",
            )
        if self.epochs < 1 or self.final < 0:
            raise CloisterError(f"{self.epochs} epochs and {self.final} final ones", "choose at least 1, and 0 or more")
        if min(1 if count is None else count for count in (self.mending, self.locking)) < 1:
            raise CloisterError("no epochs to mend what is pruned, or to train locks", "choose at least 1")

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
        trials = (DRAWS + NORMALISED) * len(self.effort.rates)
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
        forms: what is considered, of :data:`~cloister.protect.strategy.FORMS`: kinds of backbones, and "whole" for the
            model in the TA; empty: all. "pruned" and "locked" beside them, or alone, leave out what is not.
        seed: of all that is drawn.
        quick: they began as :func:`quick_settings`, which reports then say.
    """

    full: Depth = field(default_factory=_full)
    proxy: Depth = field(default_factory=_proxy)
    search: SearchEffort = field(default_factory=lambda: SearchEffort(estimates=400, proxies=16, trainings=3))
    rate: float | None = None
    batch: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    forms: tuple[str, ...] = ()
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.forms) - set(FORMS)):
            raise CloisterError(f"there is no form {', '.join(unknown)}", f"choose of {', '.join(FORMS)}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The forms without pruning and locks; empty: all."""
        return tuple(form for form in self.forms if form not in ("pruned", "locked"))

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits, of what a strategy's figures depend on."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("search", "quick")}
        kept["attackers"] = METHOD
        kept["files"] = FILES
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]

    def mirror(self, strategy: Strategy, depth: Depth) -> MirrorSettings:
        """How a strategy's pair is trained."""
        return mirror_settings_with(
            strategy, epochs=depth.epochs, rate=self.rate, batch=self.batch, augmentation=self.augmentation,
            final=depth.final, seed=self.seed,
        )  # fmt: skip

    def prune(self, share: float, depth: Depth) -> PruneSettings:
        """How a victim is pruned to that share of its multiply-accumulates, whatever accuracy that costs.

        In steps of about a half, or its root; what the steps break is mended at the end.
        """
        mending = depth.epochs if depth.mending is None else depth.mending
        steps = math.ceil(-math.log2(share)) * (2 if mending >= SMALL_STEPS else 1)
        return prune_settings_with(
            target=share, steps=max(1, steps), epochs=1, final=mending, budget=ANY_LOSS, rate=self._mending_rate,
            batch=self.batch, augmentation=self.augmentation, seed=self.seed,
        )  # fmt: skip

    def lock(self, shares: tuple[float, float], depth: Depth) -> LockSettings:
        """How a model is locked with those shares of turned channels and of constants."""
        made = lock_settings_with(
            epochs=(depth.epochs + 1) // 2 if depth.locking is None else depth.locking,
            rate=LOCKING_RATE if self.rate is None else self._mending_rate,
            turned_share=shares[0], constant_share=shares[1], augmentation=self.augmentation, seed=self.seed,
        )  # fmt: skip
        return made if self.batch is None else replace(made, recipe=replace(made.recipe, batch=self.batch))

    @property
    def _mending_rate(self) -> float | None:
        return None if self.rate is None else MENDING_RATE * self.rate

    def share(self, images: int) -> float:
        """What a short training costs, as a share of a full one."""
        mirror = self.mirror(Strategy(taps=("logits",)), self.full)
        return self.proxy.steps(mirror, images) / self.full.steps(mirror, images)


def quick_settings() -> ProtectSettings:
    """To see what comes out, in minutes: attackers hardly train, so it says little of protection."""
    attacks = ("direct", "finetune", "steal")
    full, proxy = (
        AttackEffort(
            shares=(0.1,), queries=(500,), rates=(0.05,), mask_rates=(0.1,), epochs=2, steps=steps, trial=5,
            validation=300, pruned=(0.1, 0.3),
        )
        for steps in (60, 20)
    )  # fmt: skip
    return ProtectSettings(
        Depth(5, 2, attacks, full), Depth(2, 1, attacks, proxy), SearchEffort(estimates=30, proxies=3, trainings=1),
        quick=True,
    )  # fmt: skip


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
    quick: bool = False,
) -> ProtectSettings:
    """The default settings, but for what is given and not None.

    Args:
        quick: begin with :func:`quick_settings` instead.
        estimates, proxies, trainings: strategies that are estimated, trained briefly, and trained in full.
        epochs: of full trainings; a third of them more for the CPM alone.
        proxy_epochs: of short trainings.
        attack_steps: of each training of an attacker on strategies that are trained in full; a seventh for the others.
        attacks: on strategies that are trained in full.
        rate, batch, augmentation, forms, seed: as of :class:`ProtectSettings`.

    Raises:
        SearchError, CloisterError: numbers or attacks that cannot be.
    """
    plain = replace(
        quick_settings() if quick else ProtectSettings(), rate=rate, batch=batch,
        augmentation=augmentation or Augmentation(), forms=forms, seed=seed,
    )  # fmt: skip
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

# SPDX-License-Identifier: BSD-2-Clause
"""The evaluator that trains: what strategies of one victim cost and achieve."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from cloister.attack.attacker import digest_of
from cloister.attack.bench import Report, bench
from cloister.attack.exposed import BlackBox, Exposed
from cloister.compile.arrange import MemoryBudgetError
from cloister.errors import PassingError
from cloister.protect.automatic.costs import PRUNED_ERROR, Costs, copied, needs_backbone, same_costs, sketch
from cloister.protect.automatic.pruned import PrunedVictims
from cloister.protect.automatic.settings import Depth, ProtectSettings
from cloister.protect.automatic.whole import MODEL_FILE, locked_model, pruned_model
from cloister.protect.mirror import lock_pair, mirror_model, taps_of
from cloister.protect.mirror.export import BACKBONE_FILE, CPM_FILE
from cloister.protect.mirror.mirror import REPORT_FILE
from cloister.protect.mirror.onnx_pair import OnnxPair
from cloister.protect.strategy import Strategy
from cloister.protect.training import Splits, TrainingError, accuracy
from cloister.protect.training.evaluate import onnx_accuracy, share_right
from cloister.seal.files import write_aside
from cloister.search import Figures, Space
from cloister.search.space import Scalar
from cloister.search.strategies import CHOICES, strategy_space

#: What was found of a strategy, beside its other files.
FIGURES_FILE = "figures.json"
#: Attacks whose figures are no gain of an attacker who has data or queries.
NO_GAIN = ("direct", "observe")
#: A mean nearer to 0 is rounding of one that is 0.
NOTHING = 1e-6
#: On locked models that are trained in full these are tried beside the attacks that are asked for.
LOCK_ATTACKS = ("mask", "prune", "signs")


@dataclass(frozen=True)
class Learned:
    """What only training tells of a strategy.

    Attributes:
        lost: points on the validation images.
        gain: the strongest attack's accuracy as a ratio to the black box with the same budget, on validation images.
        accuracy: on validation images, 0 to 1.
        attacker: of the strongest attack, on validation images.
        details: figures on test images, and more.
    """

    lost: float
    gain: float
    accuracy: float
    attacker: float
    details: dict[str, Any]


class TrainingEvaluator:
    """Builds, trains and attacks. Keeps what it found, and begins nothing twice.

    Args:
        victim: the unprotected model, from normalised images to logits.
        splits: what it was trained on.
        settings: how thoroughly strategies are trained and attacked.
        folder: keeps the victim as ONNX, checkpoints, and what was found.
        memory: of the secure world in bytes, see :class:`Costs`.
        label: the model's name, for passwords.
        device: to train on.
        quiet: show no epochs of full trainings.

    Raises:
        TrainingError: the victim cannot be traced or exported.
    """

    def __init__(
        self, victim: nn.Module, splits: Splits, settings: ProtectSettings, folder: Path, *,
        memory: int | None = None, label: str = "", device: str = "auto", quiet: bool = False,
    ) -> None:  # fmt: skip
        self._victim, self._splits, self._settings, self._folder = victim.cpu().eval(), splits, settings, folder
        self._device, self._quiet = device, quiet
        self.taps = taps_of(self._victim, splits.shape)
        self.costs = Costs(self._victim, splits, folder, memory)
        self._label = label or "model"
        self._pruned = PrunedVictims(
            self._victim, splits, settings, folder / settings.digest / "pruned", device=device, quiet=quiet
        )
        # a locked pair is trained twice, and judged by what is left when its weights leak: only where it is wanted
        lockable = None if "locked" in settings.forms else ("whole",)
        self._space = strategy_space(list(self.taps), shapes=self.taps, lockable=lockable, **self._narrowed())
        self._known: dict[Strategy, Figures] = {}
        self._right = accuracy(self._victim, splits.validation, splits)

    @property
    def right(self) -> float:
        """The victim's accuracy on validation images, 0 to 1."""
        return self._right

    def check_victim(self) -> None:
        """Refuse a victim that cannot run on devices: no strategy would.

        Raises:
            UnsupportedModelError: names what is not supported.
        """
        with suppress(MemoryBudgetError):  # a part of it may fit
            self.costs.predict(Strategy(kind="whole"))

    def _narrowed(self) -> dict[str, tuple[Scalar, ...]]:
        """What can be chosen of the parameters that not every victim and every wish leave whole.

        Raises:
            TrainingError: only pruned victims are wanted, and this one cannot be pruned.
        """
        forms, kinds = self._settings.forms, self._settings.kinds
        wanted = [share for share in CHOICES["pruned"] if isinstance(share, float)]
        shares = self._pruned.possible(wanted)
        if "pruned" in forms and not shares:
            raise TrainingError(f"only pruned models are wanted: {self._pruned.refused[max(wanted)]}", "allow others")
        found: dict[str, tuple[Scalar, ...]] = {"form": kinds or CHOICES["form"]}
        found["pruned"] = tuple(shares) if "pruned" in forms else (None, *shares)
        if "locked" in forms:
            found["lock"] = tuple(name for name in CHOICES["lock"] if name != "none")
        return found

    @property
    def name(self) -> str:
        """See :class:`cloister.search.Evaluator`.

        By digests: another machine may hold another training of the model, and the same data under another name.
        """
        return f"{self.identity}, settings {self._settings.digest}"

    @property
    def former(self) -> str:
        """The name in studies from before it was by the data's digest."""
        weights = digest_of("", *self._victim.state_dict().values())[:16]
        return f"model {weights} on {self._splits.name}, settings {self._settings.digest}"

    @cached_property
    def identity(self) -> str:
        """Model, data and normalisation by their digests: the same on every machine that has the same.

        Mean and deviation count with three digits, since processors differ in the last ones.
        """
        splits = self._splits
        images = (splits.train.pixels, splits.train.labels, splits.validation.pixels, splits.validation.labels)
        told = [f"{value if abs(value) > NOTHING else 0:.3g}" for value in (*splits.mean, *splits.std)]
        data = digest_of(" ".join(told), *images)[:8]
        return f"model {digest_of('', *self._victim.state_dict().values())[:8]} on data {data}"

    @property
    def space(self) -> Space:
        """All strategies but those that this victim cannot have; pairs are locked where only locks are wanted."""
        return self._space

    @property
    def proxy_share(self) -> float:
        """From the steps that both kinds of training take."""
        return self._settings.share(len(self._splits.train))

    def place(self, strategy: Strategy, stage: str = "training") -> Path:
        """Where a strategy's files are kept."""
        return self._folder / self._settings.digest / stage / strategy.digest

    def holds(self, strategy: Strategy) -> bool:
        """Whether a strategy was trained in full here: others who work on the same study have folders of their own."""
        return (self.place(strategy) / FIGURES_FILE).exists()

    def estimate(self, strategy: Strategy) -> Figures:
        """Costs; the same for all strategies that differ in weights alone."""
        key = same_costs(strategy)
        if key not in self._known:
            source = None if key.pruned is None else self._pruned.sketch(key.pruned)
            found = self.costs(key, source)
            error = found.error if source is None else math.hypot(found.error, PRUNED_ERROR)
            self._known[key] = replace(found, error=error)
        return self._known[key]

    def proxy(self, strategy: Strategy) -> Figures:
        """After a short training and a quick attack."""
        return self._figures(strategy, "proxy", self._settings.proxy)

    def train(self, strategy: Strategy) -> Figures:
        """After the full training and all attacks; the protected model's files lie at :meth:`place`."""
        return self._figures(strategy, "training", self._settings.full)

    def _figures(self, strategy: Strategy, stage: str, depth: Depth) -> Figures:
        source = self._source(strategy, stage, depth)
        # now that the pruned victim is there, costs need no sketch
        costs = self.estimate(strategy) if source is None else self.costs(same_costs(strategy), source)
        learned = self._kept(self.place(strategy, stage) / FIGURES_FILE, lambda: self._learn(strategy, stage, depth))
        return replace(
            costs, lost=learned.lost, gain=learned.gain, accuracy=learned.accuracy, attacker=learned.attacker,
            details={**costs.details, **learned.details},
        )  # fmt: skip

    def _source(self, strategy: Strategy, stage: str, depth: Depth) -> nn.Module | None:
        """The pruned victim that a strategy protects; None: the victim as it is."""
        return None if strategy.pruned is None else self._pruned.trained(strategy.pruned, stage, depth)

    def _kept(self, path: Path, find: Callable[[], Learned]) -> Learned:
        if path.exists():
            try:
                return Learned(**json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise PassingError(f"{path} is damaged: {error}", "delete it; the rest is kept") from error
        found = find()
        write_aside(path, (json.dumps(vars(found), indent=1) + "\n").encode())
        return found

    def _learn(self, strategy: Strategy, stage: str, depth: Depth) -> Learned:
        place = self.place(strategy, stage)
        source = self._source(strategy, stage, depth)
        # the accuracy of what is exposed is always told
        attacks = tuple(dict.fromkeys(("direct", *depth.attacks)))
        target, beside, right, details = self._trained(strategy, stage, depth, source)
        if strategy.lock is not None and stage == "training":
            attacks = (*attacks, *(attack for attack in LOCK_ATTACKS if attack not in attacks))
        details["victim_test"] = self.tested
        if source is not None:
            details["pruned"] = {
                "left": self._pruned.left(source),
                "validation": accuracy(source, self._splits.validation, self._splits),
                "test": accuracy(source, self._splits.test, self._splits),
                "tensors": {tap: list(shape) for tap, shape in taps_of(source, self._splits.shape).items()},
            }
        report = bench(
            [target, *beside], self._splits, self._victim, attacks=attacks, effort=depth.effort,
            seed=self._settings.seed, folder=place.parent.parent / f"attacks-{stage}", device=self._device,
            quiet=self._quiet or stage != "training",
        )  # fmt: skip
        if stage == "training":
            report.write(place)
        names = [exposed.name for exposed in (target, *beside)]
        gains = [gain for exposed in names for gain in gains_of(report, exposed)]
        strongest = max(
            (record for record in report.records if record["target"] in names), key=lambda record: record["validation"]
        )
        direct = report.find(target.name, "direct")
        details |= {
            "gain_test": max(gain["test"] for gain in gains),
            "strongest": max(gains, key=lambda gain: gain["validation"]),
            "direct_test": direct["accuracy"],
            "victim_validation": self._right,
        }
        return Learned(
            100 * (self._right - right), max(gain["validation"] for gain in gains), right,
            strongest["validation"], details,
        )  # fmt: skip

    def exposed(self, strategy: Strategy) -> list[Exposed]:
        """What attackers of a strategy that is trained in full may begin with, and what the device answers."""
        depth = self._settings.full
        target, beside, _, _ = self._trained(strategy, "training", depth, self._source(strategy, "training", depth))
        return [target, *beside]

    def _trained(
        self, strategy: Strategy, stage: str, depth: Depth, source: nn.Module | None
    ) -> tuple[Exposed, list[Exposed], float, dict[str, Any]]:
        """As :meth:`_pair`, for any strategy; trained now, or loaded if it was before."""
        place, name, victim = self.place(strategy, stage), f"protected {strategy.digest}", source or self._victim
        if strategy.kind == "mirror":
            return self._pair(victim, strategy, stage, depth, place, name)
        if strategy.lock is not None:
            target, right, details = locked_model(
                victim, self._splits, strategy, self._settings.lock(strategy.lock, depth), place, name=name,
                label=self._label, device=self._device, quiet=self._quiet or stage != "training",
            )  # fmt: skip
        elif source is not None:
            target, right, details = pruned_model(source, self._splits, strategy, place, name)
        else:
            target, right, details = self._whole(strategy, place, name)
        return target, [], right, details

    @cached_property
    def tested(self) -> float:
        """The victim's accuracy on test images."""
        return accuracy(self._victim, self._splits.test, self._splits)

    def _pair(
        self, victim: nn.Module, strategy: Strategy, stage: str, depth: Depth, place: Path, name: str
    ) -> tuple[Exposed, list[Exposed], float, dict[str, Any]]:
        """Train a pair: what an attacker sees, and may begin with instead; validation accuracy; further figures."""
        full = stage == "training"
        made = mirror_model(
            victim, self._splits, self._settings.mirror(strategy, depth), folder=place / "checkpoints",
            device=self._device, name=f"pair {strategy.digest}", quiet=self._quiet or not full,
        )  # fmt: skip
        target: Exposed = made.exposed(name)
        if not needs_backbone(strategy):
            target = BlackBox(made.pair, self._splits, name)
        owners, report, details = made.pair, made.report, {}
        beside: list[Exposed] = []
        if strategy.lock is None:
            if full:
                made.save(place)
        else:
            locked = lock_pair(
                made, self._settings.lock(strategy.lock, depth), folder=place / "checkpoints" / "lock",
                device=self._device, name=f"lock {strategy.digest}", quiet=self._quiet or not full,
            )  # fmt: skip
            if full:
                locked.save(place, self._label)
            # who has both halves may still do better with the backbone alone, and layers of his own behind it
            beside = [made.exposed(f"{name}, its backbone")] if needs_backbone(strategy) else []
            target, owners, report = locked.exposed(name), locked.authorised(), locked.report
        if full:
            report = json.loads((place / REPORT_FILE).read_text())
        right, told = report["validation"]["pair"], report["test"]
        if strategy.precision == "int8":
            right = report["validation"].get("pair_int8") or self._sketched(owners)
        details["pair_test"] = told.get("pair_int8", told["pair"])
        if strategy.lock is not None:
            details["without_password_test"] = told.get("pair_int8_without_password", told["pair_without_password"])
            details["locked_channels"] = locked.password(self._label).channels
        return target, beside, right, details

    def _sketched(self, pair: Any) -> float:
        """Accuracy of a pair in 8 bits on validation images."""
        with tempfile.TemporaryDirectory(prefix="cloister-proxy-") as folder:
            files = OnnxPair(*sketch(pair, Path(folder), self._splits))
            return share_right(files.logits, self._splits.validation, self._splits)

    def _whole(self, strategy: Strategy, place: Path, name: str) -> tuple[Exposed, float, dict[str, Any]]:
        """The whole model in the TA: nothing is exposed."""
        path = copied(self.costs.victim_file(strategy.precision), place, MODEL_FILE)
        right, test = self._right, self.tested
        if strategy.precision == "int8":
            images = (self._splits.validation, self._splits.test)
            right, test = (onnx_accuracy(path, part, self._splits) for part in images)
        return BlackBox(self._victim, self._splits, name), right, {"pair_test": test}


def gains_of(report: Report, target: str) -> list[dict[str, Any]]:
    """For each attack on a target by somebody with data or queries: its accuracy over the black box's.

    Returns:
        ``attack``, ``budget``, and the ratios on ``validation`` and ``test`` images. Choices are made by the first;
        the black box is the attack of the same budget, or a guess where it has none.
    """
    black: dict[str, dict[str, Any]] = {
        record["budget"]: record for record in report.records if record["target"] == report.about["black_box"]
    }
    found = []
    for record in report.records:
        if record["target"] == target and record["attack"].partition(",")[0] not in NO_GAIN:
            bound = black.get(record["budget"], black["no data"])
            found.append(
                {
                    "attack": record["attack"],
                    "budget": record["budget"],
                    "validation": record["validation"] / max(1e-9, bound["validation"]),
                    "test": record["accuracy"] / max(1e-9, bound["accuracy"]),
                }
            )
    return found


def protected_files(place: Path, strategy: Strategy) -> dict[str, Path]:
    """The ONNX files of a strategy that was trained in full, by what they are: ``model``, or ``cpm``, ``backbone``."""
    if strategy.kind == "whole":
        return {"model": place / MODEL_FILE}
    found = {"cpm": place / CPM_FILE}
    return {**found, "backbone": place / BACKBONE_FILE} if needs_backbone(strategy) else found

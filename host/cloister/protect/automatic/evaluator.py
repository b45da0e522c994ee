# SPDX-License-Identifier: BSD-2-Clause
"""The evaluator that trains: what strategies of one victim cost and achieve."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cloister.attack.bench import Report, bench
from cloister.attack.exposed import BlackBox, Exposed
from cloister.protect.automatic.costs import Costs, copied, needs_backbone, same_costs, sketch
from cloister.protect.automatic.settings import Depth, ProtectSettings
from cloister.protect.mirror import mirror_model, taps_of
from cloister.protect.mirror.export import BACKBONE_FILE, CPM_FILE
from cloister.protect.mirror.mirror import REPORT_FILE
from cloister.protect.mirror.onnx_pair import OnnxPair
from cloister.protect.strategy import Strategy
from cloister.protect.training import Images, Splits, TrainingError, accuracy
from cloister.seal.files import write_aside
from cloister.search import Figures, Space
from cloister.search.strategies import strategy_space

#: The file of a strategy that lies whole in the TA.
MODEL_FILE = "model.onnx"
#: What was found of a strategy, beside its other files.
FIGURES_FILE = "figures.json"
#: Attacks whose figures are no gain of an attacker who has data or queries.
NO_GAIN = ("direct", "observe")


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
        label: names model and data.
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
        self._name = f"{label or 'model'} on {splits.name}, settings {settings.digest}"
        self.taps = taps_of(self._victim, splits.shape)
        self.costs = Costs(self._victim, splits, folder, memory)
        forms = {"form": settings.forms} if settings.forms else {}
        self._space = strategy_space(list(self.taps), lock=("none",), pruned=(None,), **forms)
        self._known: dict[Strategy, Figures] = {}
        self._right = accuracy(self._victim, splits.validation, splits)

    @property
    def name(self) -> str:
        """See :class:`cloister.search.Evaluator`."""
        return self._name

    @property
    def space(self) -> Space:
        """All strategies but those with locks or pruning: for these there are commands of their own."""
        return self._space

    @property
    def proxy_share(self) -> float:
        """From the steps that both kinds of training take."""
        return self._settings.share(len(self._splits.train))

    def place(self, strategy: Strategy, stage: str = "training") -> Path:
        """Where a strategy's files are kept."""
        return self._folder / self._settings.digest / stage / strategy.digest

    def estimate(self, strategy: Strategy) -> Figures:
        """Costs; the same for all strategies that differ in weights alone."""
        key = same_costs(strategy)
        if key not in self._known:
            self._known[key] = self.costs(key)
        return self._known[key]

    def proxy(self, strategy: Strategy) -> Figures:
        """After a short training and a quick attack."""
        return self._figures(strategy, "proxy", self._settings.proxy)

    def train(self, strategy: Strategy) -> Figures:
        """After the full training and all attacks; the protected model's files lie at :meth:`place`."""
        return self._figures(strategy, "training", self._settings.full)

    def _figures(self, strategy: Strategy, stage: str, depth: Depth) -> Figures:
        costs = self.estimate(strategy)
        learned = self._kept(self.place(strategy, stage) / FIGURES_FILE, lambda: self._learn(strategy, stage, depth))
        return replace(
            costs, lost=learned.lost, gain=learned.gain, accuracy=learned.accuracy, attacker=learned.attacker,
            details={**costs.details, **learned.details},
        )  # fmt: skip

    def _kept(self, path: Path, find: Callable[[], Learned]) -> Learned:
        if path.exists():
            try:
                return Learned(**json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise TrainingError(f"{path} is damaged: {error}", "delete it; the rest is kept") from error
        found = find()
        write_aside(path, (json.dumps(vars(found), indent=1) + "\n").encode())
        return found

    def _learn(self, strategy: Strategy, stage: str, depth: Depth) -> Learned:
        place = self.place(strategy, stage)
        name = f"protected {strategy.digest}"
        if strategy.kind == "whole":
            target, right, details = self._whole(strategy, place, name)
        else:
            target, right, details = self._pair(strategy, stage, depth, place, name)
        report = bench(
            [target], self._splits, self._victim, attacks=depth.attacks, effort=depth.effort,
            seed=self._settings.seed, folder=place.parent.parent / f"attacks-{stage}", device=self._device,
            quiet=self._quiet or stage != "training",
        )  # fmt: skip
        if stage == "training":
            report.write(place)
        gains = gains_of(report, name)
        strongest = max(
            (record for record in report.records if record["target"] == name), key=lambda record: record["validation"]
        )
        direct = report.find(name, "direct")
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

    def _pair(
        self, strategy: Strategy, stage: str, depth: Depth, place: Path, name: str
    ) -> tuple[Exposed, float, dict[str, Any]]:
        """Train a pair: what an attacker sees, accuracy on validation images, and further figures."""
        full = stage == "training"
        made = mirror_model(
            self._victim, self._splits, self._settings.mirror(strategy, depth), folder=place / "checkpoints",
            device=self._device, name=f"pair {strategy.digest}", quiet=self._quiet or not full,
        )  # fmt: skip
        report = made.report
        if full:
            made.save(place)
            report = json.loads((place / REPORT_FILE).read_text())
        right = report["validation"]["pair"]
        test = report["test"].get("pair_int8", report["test"]["pair"])
        if strategy.precision == "int8":
            right = report["validation"].get("pair_int8") or self._sketched(made.pair)
        target: Exposed = made.exposed(name)
        if not needs_backbone(strategy):
            target = BlackBox(made.pair, self._splits, name)
        return target, right, {"pair_test": test, "victim_test": report["test"]["victim"]}

    def _sketched(self, pair: Any) -> float:
        """Accuracy of a pair in 8 bits on validation images."""
        with tempfile.TemporaryDirectory(prefix="cloister-proxy-") as folder:
            files = OnnxPair(*sketch(pair, Path(folder), self._splits))
            return files.accuracy(*self._arrays(self._splits.validation))

    def _whole(self, strategy: Strategy, place: Path, name: str) -> tuple[Exposed, float, dict[str, Any]]:
        """The whole model in the TA: nothing is exposed."""
        path = copied(self.costs.victim_file(strategy.precision), place, MODEL_FILE)
        right, test = self._right, accuracy(self._victim, self._splits.test, self._splits)
        details = {"victim_test": test, "pair_test": test}
        if strategy.precision == "int8":
            right, details["pair_test"] = (
                onnx_accuracy(path, *self._arrays(images)) for images in (self._splits.validation, self._splits.test)
            )
        return BlackBox(self._victim, self._splits, name), right, details

    def _arrays(self, images: Images) -> tuple[Any, Any]:
        return self._splits.normalise(images.pixels.cpu()).numpy(), images.labels.cpu().numpy()


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


def onnx_accuracy(path: Path, images: Any, labels: Any, batch: int = 500) -> float:
    """Share of normalised images (N, C, H, W) that an ONNX file gives their label, 0 to 1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = range(0, len(images), batch)
    found = np.concatenate([session.run(None, {name: images[at : at + batch]})[0].argmax(1) for at in parts])
    return float(np.mean(found == labels))


def protected_files(place: Path, strategy: Strategy) -> dict[str, Path]:
    """The ONNX files of a strategy that was trained in full, by what they are: ``model``, or ``cpm``, ``backbone``."""
    if strategy.kind == "whole":
        return {"model": place / MODEL_FILE}
    found = {"cpm": place / CPM_FILE}
    return {**found, "backbone": place / BACKBONE_FILE} if needs_backbone(strategy) else found

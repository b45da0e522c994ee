# SPDX-License-Identifier: BSD-2-Clause
"""From a trained model to a backbone that may be seen and a CPM that must not."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cloister.protect.mirror.backbone import Backbone
from cloister.protect.mirror.cpm import Cpm
from cloister.protect.mirror.export import export_pair
from cloister.protect.mirror.exposed import ExposedBackbone
from cloister.protect.mirror.objective import PairObjective
from cloister.protect.mirror.onnx_pair import OnnxPair
from cloister.protect.mirror.pair import Pair, build_pair
from cloister.protect.mirror.saliency import salient_channels
from cloister.protect.mirror.settings import MirrorSettings
from cloister.protect.prune.channels import multiply_accumulates
from cloister.protect.strategy import Strategy
from cloister.protect.training.claim import claim
from cloister.protect.training.data import Splits
from cloister.protect.training.evaluate import accuracy, share_right
from cloister.protect.training.loop import fit
from cloister.seal.files import write_aside

REPORT_FILE = "report.json"
#: Training images that ranges of 8-bit tensors are measured on.
CALIBRATION = 200


@dataclass(frozen=True, eq=False)
class Mirrored:
    """A protected model.

    Attributes:
        pair: both halves as one network, on the CPU, in evaluation mode.
        report: accuracies of victim, pair and backbone alone, costs and settings, as ``report.json`` has them.
        splits: of the data it was trained on.
    """

    pair: Pair
    report: dict[str, Any]
    splits: Splits

    @property
    def backbone(self) -> Backbone:
        """What is exposed: answers (own logits, what crosses...)."""
        return self.pair.backbone

    @property
    def cpm(self) -> Cpm:
        """What stays in the TA: from what crosses to logits."""
        return self.pair.cpm

    @property
    def strategy(self) -> Strategy:
        """What it was made by."""
        return self.pair.strategy

    def save(self, folder: Path) -> None:
        """Write ``backbone.onnx``, ``cpm.onnx`` and ``report.json`` into ``folder``.

        A strategy in 8 bits is quantised here, with ranges from training images; the report then also has the
        accuracies of the written files as ``pair_int8``.
        """
        report = dict(self.report)
        files = OnnxPair(*export_pair(self.pair, folder, calibration(self.splits)))
        if self.strategy.precision == "int8":
            for name, found in on_files(files, self.splits).items():
                report[name] = {**report[name], "pair_int8": found}
        write_report(report, folder)

    def exposed(self, name: str = "", grown: bool = True) -> ExposedBackbone:
        """For the attack bench; ``grown`` is explained at :class:`ExposedBackbone`."""
        return ExposedBackbone(self.pair, self.splits, name, grown)


def calibration(splits: Splits) -> npt.NDArray[np.float32]:
    """Training images, normalised, that ranges of 8-bit tensors are measured on: float32 (N, C, H, W)."""
    step = max(1, len(splits.train) // CALIBRATION)
    found: npt.NDArray[np.float32] = splits.normalise(splits.train.pixels[::step][:CALIBRATION].cpu()).numpy()
    return found


def on_files(files: OnnxPair, splits: Splits) -> dict[str, float]:
    """Accuracy of a pair's files on the images of ``test`` and ``validation``, 0 to 1."""
    return {
        name: share_right(files.logits, images, splits)
        for name, images in (("test", splits.test), ("validation", splits.validation))
    }


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write ``report.json``."""
    write_aside(folder / REPORT_FILE, (json.dumps(report, indent=2) + "\n").encode())


def mirror_model(
    victim: nn.Module,
    splits: Splits,
    settings: MirrorSettings,
    *,
    folder: Path | None = None,
    device: str = "auto",
    name: str = "mirror",
    quiet: bool = False,
) -> Mirrored:
    """Build a strategy's pair for a trained model and train it.

    Args:
        victim: the owner's trained model, from normalised images to logits; not changed.
        splits: what it was trained on. Epochs are selected on the validation split; the test split is reported on only.
        settings: the strategy, and how to train.
        folder: keeps checkpoints; an interrupted run goes on from there.
        device, name, quiet: as for ``fit``.

    Raises:
        TrainingError: the victim cannot be traced, the strategy does not fit it, or ``folder`` is of another run.
    """
    began = time.monotonic()
    strategy, classes = settings.strategy, len(splits.classes)
    victim = copy.deepcopy(victim).cpu().eval()
    if folder is not None:
        claim(folder, "MirrorNet", victim, splits, asdict(settings))
    channels = salient_channels(victim, splits, strategy, settings.seed)
    pair = build_pair(victim, splits.shape, classes, strategy, settings.seed, channels=channels)
    fitted = fit(
        pair, splits, settings.recipe, folder=None if folder is None else folder / "together",
        objective=PairObjective(victim, settings), device=device, name=name, quiet=quiet,
    )  # fmt: skip
    seconds, history = fitted.seconds, {"together": fitted.history}
    if settings.final and not pair.backbone.frozen:
        pair.backbone.freeze()
        recipe = replace(settings.recipe, epochs=settings.final, select="best")
        fitted = fit(
            pair, splits, recipe, folder=None if folder is None else folder / "cpm",
            objective=PairObjective(victim, settings), device=device, name=f"{name}, CPM", quiet=quiet,
        )  # fmt: skip
        seconds += fitted.seconds
        history["cpm"] = fitted.history
    pair.cpu().eval()
    alone = pair.backbone.alone()
    report = {
        "strategy": asdict(strategy),
        "summary": str(strategy),
        **{
            split: {
                "victim": accuracy(victim, images, splits),
                "pair": accuracy(pair, images, splits),
                "backbone_alone": accuracy(alone, images, splits),
            }
            for split, images in (("test", splits.test), ("validation", splits.validation))
        },
        "macs": {
            "victim": multiply_accumulates(victim, splits.shape),
            "backbone": multiply_accumulates(alone, splits.shape),
            "cpm": multiply_accumulates(pair, splits.shape) - multiply_accumulates(alone, splits.shape),
        },
        "crossing": [
            {"input": crossing.input, "tap": crossing.tap, "shape": list(crossing.shape)} for crossing in pair.crossings
        ],
        "crossing_bytes": crossing_bytes(pair),
        "settings": asdict(settings),
        "data": splits.name,
        "history": history,
        "training_s": round(seconds, 1),
        "total_s": round(time.monotonic() - began, 1),
    }
    return Mirrored(pair, report, splits)


def crossing_bytes(pair: Pair) -> int:
    """Bytes that cross into the TA for one image."""
    size = 1 if pair.strategy.precision == "int8" else 4
    return size * sum(int(torch.Size(crossing.shape).numel()) for crossing in pair.crossings)

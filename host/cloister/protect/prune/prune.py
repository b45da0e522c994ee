# SPDX-License-Identifier: BSD-2-Clause
"""From a trained model to a smaller one: remove a few channels, fine-tune, look at the accuracy, and again."""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloister.protect.prune.channels import multiply_accumulates, parameters, prunable, remove, widths
from cloister.protect.prune.choose import choose
from cloister.protect.prune.criteria import scores
from cloister.protect.prune.distil import Distillation
from cloister.protect.prune.settings import PruneSettings
from cloister.protect.training.claim import claim
from cloister.protect.training.data import Splits
from cloister.protect.training.evaluate import accuracy
from cloister.protect.training.export import export_onnx
from cloister.protect.training.loop import Fitted, fit
from cloister.seal.files import write_aside

#: Files in a pruning folder.
MODEL_FILE, STATE_FILE, PLAN_FILE = "pruned.onnx", "pruned.pt", "step.json"
#: How many times more than it won back before the last fine-tuning is thought to be able to win back.
HOPE = 1.5
#: Points that a difference of two shares of images is off at most by rounding.
ROUNDED = 1e-4


def within(lost: float, budget: float) -> bool:
    """Whether so many points are within the budget: what loses it exactly is, however its shares of images round."""
    return lost <= budget + ROUNDED


@dataclass(frozen=True, eq=False)
class Step:
    """The network after one step.

    Attributes:
        number: 0 is the unpruned network.
        module: on the CPU, in evaluation mode.
        validation: share of the validation images labelled rightly, 0 to 1.
        lost: points of it that the unpruned network had more.
        accepted: within the budget, and the slack of steps before the last.
        macs, parameters: of the module, for one image.
        removed: number of channels that this step removed, by the layer that made them.
        seconds: of the fine-tuning.
        epoch: the selected one.
        before: accuracy on the validation images before the fine-tuning.
    """

    number: int
    module: nn.Module = field(repr=False)
    validation: float
    lost: float
    accepted: bool
    macs: int
    parameters: int
    removed: dict[str, int]
    seconds: float
    epoch: int
    before: float

    def as_json(self) -> dict[str, Any]:
        """All but the module, and the layers' widths."""
        kept = {key: value for key, value in vars(self).items() if key != "module"}
        return {**kept, "widths": widths(self.module)}


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned model.

    Attributes:
        module: on the CPU, in evaluation mode; removed channels are not in it.
        steps: every step that was tried, the unpruned network first.
        final: the step that ``module`` is, after the last fine-tuning.
        report: accuracies of the unpruned and the pruned network, and all steps.
        shape: channels, height and width of an image.
        refused: steps that the last fine-tuning did not bring back into the budget, as it left them.
    """

    module: nn.Module
    steps: list[Step]
    final: Step
    report: dict[str, Any]
    shape: tuple[int, int, int]
    refused: list[Step] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write ``pruned.onnx`` and ``pruned.pt`` (state; its tensors have the pruned shapes) into ``folder``."""
        export_onnx(self.module, self.shape, folder / MODEL_FILE)
        aside = folder / (STATE_FILE + ".new")
        torch.save(self.module.state_dict(), aside)
        aside.replace(folder / STATE_FILE)


def prune_model(
    module: nn.Module,
    splits: Splits,
    settings: PruneSettings | None = None,
    *,
    folder: Path | None = None,
    device: str = "auto",
    name: str = "prune",
    quiet: bool = False,
) -> Pruned:
    """Prune a trained model step by step, as far as the accuracy budget allows.

    Args:
        module: the trained model; not changed.
        splits: what it was trained on. All is chosen on the validation split; the test split is reported on only.
        settings: default: those of :class:`PruneSettings`.
        folder: keeps a folder for each step; an interrupted run goes on from there.
        device, name, quiet: as for ``fit``.

    Raises:
        TrainingError: the module cannot be traced or pruned, or ``folder`` is of another run.
    """
    settings = settings or PruneSettings()
    began = time.monotonic()
    whole = copy.deepcopy(module).cpu().to(torch.float32).eval()
    if folder is not None:
        _claim(folder, whole, splits, settings)
    run = _Run(whole, splits, settings, folder, device, name, quiet)
    run.steps_down()
    final = run.last()
    report = {
        "test": {name: accuracy(found, splits.test, splits) for name, found in
                 (("unpruned", whole), ("pruned", final.module))},
        "validation": {"unpruned": run.steps[0].validation, "pruned": final.validation},
        "macs": {"unpruned": run.steps[0].macs, "pruned": final.macs},
        "parameters": {"unpruned": run.steps[0].parameters, "pruned": final.parameters},
        "reached_target": final.macs <= settings.target * run.steps[0].macs,
        "exhausted": run.exhausted,
        "whole": [layer for layer in widths(whole) if layer not in run.cut],
        "final": final.as_json(),
        "steps": [step.as_json() for step in run.steps],
        "refused": [step.as_json() for step in run.refused],
        "training_s": sum(step.seconds for step in run.steps) + (final.seconds if settings.final else 0.0)
        + sum(step.seconds for step in run.refused),
        "total_s": time.monotonic() - began,
        "settings": asdict(settings),
        "data": splits.name,
    }  # fmt: skip
    return Pruned(final.module, run.steps, final, report, splits.shape, run.refused)


def _claim(folder: Path, whole: nn.Module, splits: Splits, settings: PruneSettings) -> None:
    """As ``claim``; what another run chose to remove, but did not train, is forgotten."""
    if not claim(folder, "pruning", whole, splits, asdict(settings)):
        for stale in folder.glob(f"*/{PLAN_FILE}"):
            stale.unlink()


def _plans(path: Path | None) -> list[dict[str, Any]]:
    """What was chosen to remove in a step's folder: more than once, where that came to what had been refused."""
    if path is None or not path.exists():
        return []
    found: list[dict[str, Any]] | dict[str, Any] = json.loads(path.read_text())
    return found if isinstance(found, list) else [found]  # of earlier versions one alone


class _Run:
    """One run's steps so far."""

    def __init__(
        self, whole: nn.Module, splits: Splits, settings: PruneSettings, folder: Path | None, device: str, name: str,
        quiet: bool,
    ) -> None:  # fmt: skip
        self.whole, self.splits, self.settings, self.folder = whole, splits, settings, folder
        self.device, self.name, self.quiet = device, name, quiet
        self.began = time.monotonic()
        score = accuracy(whole, splits.validation, splits)
        macs = multiply_accumulates(whole, splits.shape)
        self.steps = [Step(0, whole, score, 0.0, True, macs, parameters(whole), {}, 0.0, 0, score)]
        groups = prunable(whole, splits.shape)
        self.can = {group.layer for group in groups}
        self.cut = {layer for group in groups for layer in group.makers}
        self.exhausted = False
        self.refused: list[Step] = []

    def steps_down(self) -> None:
        """All steps, until the target or the budget is reached, or nothing can be removed any more."""
        settings, whole = self.settings, self.steps[0].macs
        for number in range(1, settings.steps + 1):
            wanted = round(whole * settings.target ** (number / settings.steps))
            current = self.accepted()[-1]
            if current.macs <= wanted:
                continue
            step = self._step(current, wanted)
            tried = len(self.steps) - 1  # the one that was just made
            for _ in range(settings.refine):
                if step is None or step.accepted:
                    break
                # Half of the way, on a scale of ratios. Channels come in multiples: where that led to what had been
                # refused already, it is half of the way to what was asked for.
                towards = step.macs if step.number == tried else wanted
                wanted, tried = round((current.macs * towards) ** 0.5), len(self.steps)
                step = self._step(current, wanted)
            if step is None or not step.accepted:
                self.exhausted = step is None and self.steps[-1].accepted
                return

    def accepted(self) -> list[Step]:
        """The steps within budget and slack, in their order."""
        return [step for step in self.steps if step.accepted]

    def _step(self, current: Step, wanted: int) -> Step | None:
        """Remove, fine-tune and judge; None: nothing can be removed. An older step: the same, and refused."""
        number, settings = len(self.steps), self.settings
        folder = None if self.folder is None else self.folder / f"step-{number:02}"
        smaller, removed = self._removed(current, wanted, number, folder)
        if not removed:
            return None
        macs = multiply_accumulates(smaller, self.splits.shape)
        for step in self.steps:
            if not step.accepted and step.macs == macs:
                return step
        share, left = macs / self.steps[0].macs, ""
        if number > 1:
            passed = time.monotonic() - self.began
            whole = max(1, settings.steps - (number - 1)) + settings.final / max(1, settings.recipe.epochs)
            left = f", about {passed / (number - 1) * whole:.0f} s left"
        self._tell(f"step {number}: {sum(map(len, removed.values()))} channels less, "
                   f"{share:.1%} of the multiply-accumulates left{left}")  # fmt: skip
        before = accuracy(smaller, self.splits.validation, self.splits)
        recipe = settings.recipe.with_seed(settings.seed + number)
        fitted = self._fit(smaller, recipe, folder, f"step {number}")
        lost = 100 * (self.steps[0].validation - fitted.score)
        step = Step(
            number, fitted.module.cpu(), fitted.score, lost, within(lost, settings.budget + settings.slack), macs,
            parameters(fitted.module), {layer: len(gone) for layer, gone in removed.items()}, fitted.seconds,
            fitted.epoch, before,
        )  # fmt: skip
        self.steps.append(step)
        self._tell(f"step {number}: {fitted.score:.2%} of the validation images, {lost:.2f} points lost, "
                   f"{'kept' if step.accepted else 'refused'}")  # fmt: skip
        return step

    def _removed(
        self, current: Step, wanted: int, number: int, folder: Path | None
    ) -> tuple[nn.Module, dict[str, list[int]]]:
        """The smaller network before its fine-tuning, and the channels it lacks; read, if they were chosen before."""
        path = None if folder is None else folder / PLAN_FILE
        plans = _plans(path)
        for known in plans:
            if (known["from"], known["wanted"]) == (current.number, wanted):
                return remove(current.module, known["removed"], self.splits.shape), known["removed"]
        groups = [group for group in prunable(current.module, self.splits.shape) if group.layer in self.can]
        worth = scores(
            current.module, groups, self.splits, self.settings, seed=self.settings.seed + number, device=self.device
        )
        smaller, removed = choose(current.module, groups, worth, wanted, self.splits.shape, self.settings)
        if path is not None and removed:
            plans.append({"from": current.number, "wanted": wanted, "removed": removed})
            write_aside(path, (json.dumps(plans, indent=1) + "\n").encode())
        return smaller, removed

    def last(self) -> Step:
        """The smallest network within the budget, after the last fine-tuning where one is asked for.

        That is the longest training of all. Where it failed for a step it is not tried for those that have lost so much
        that it would have to win back much more than it did then.
        """
        settings = self.settings
        won, before = math.inf, 0.0
        for step in reversed(self.accepted()):
            if not within(step.lost - HOPE * won, settings.budget):
                self._tell(f"step {step.number}, {step.lost:.2f} points lost: not fine-tuned for long, which won back "
                           f"{won:.2f} of {before:.2f}")  # fmt: skip
                continue
            if step.number == 0 or not settings.final:
                if within(step.lost, settings.budget):
                    return step
                continue
            folder = None if self.folder is None else self.folder / f"final-{step.number:02}"
            recipe = replace(settings.recipe, epochs=settings.final, seed=settings.seed)
            fitted = self._fit(copy.deepcopy(step.module), recipe, folder, "last fine-tuning")
            found = fitted.module.cpu()
            score, epoch = fitted.score, fitted.epoch
            if step.validation >= score:  # it may only have made things worse
                found, score, epoch = step.module, step.validation, 0
            lost = 100 * (self.steps[0].validation - score)
            self._tell(f"step {step.number} after the last fine-tuning: {score:.2%}, {lost:.2f} points lost")
            tuned = replace(step, module=found, validation=score, lost=lost, seconds=fitted.seconds, epoch=epoch,
                            accepted=within(lost, settings.budget))  # fmt: skip
            if tuned.accepted:
                return tuned
            self.refused.append(tuned)
            won, before = step.lost - lost, step.lost
        return self.steps[0]

    def _fit(self, module: nn.Module, recipe: Any, folder: Path | None, what: str) -> Fitted:
        settings = self.settings
        objective = Distillation(self.whole, settings.distil, settings.temperature, recipe.label_smoothing)
        return fit(
            module, self.splits, recipe, folder=folder, objective=objective, device=self.device,
            name=f"{self.name}, {what}", quiet=self.quiet,
        )  # fmt: skip

    def _tell(self, text: str) -> None:
        if not self.quiet:
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)

# SPDX-License-Identifier: BSD-2-Clause
"""From a victim and a budget to a bundle and a report."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from cloister.errors import CloisterError
from cloister.protect.automatic.bundle import check_folder, earlier_bundle, keep_note, make_bundle
from cloister.protect.automatic.evaluator import TrainingEvaluator
from cloister.protect.automatic.measure import check_measurable, measured, resident
from cloister.protect.automatic.nearest import check_memory, check_possible, none_within
from cloister.protect.automatic.report import doubts, report_of, write_report
from cloister.protect.automatic.settings import ProtectSettings
from cloister.protect.automatic.whole import PASSWORD_FILE
from cloister.protect.strategy import Strategy
from cloister.protect.training import Splits
from cloister.protect.training.loop import auto_device
from cloister.seal import VendorKey
from cloister.search import Budget, BudgetError, Found, Stage, found_in, search
from cloister.search.book import Record
from cloister.search.choose import choose, tell

STUDY_FILE = "study.journal"
#: Names of classes that the first line tells.
CLASSES = 5
#: Told one line for everything that is done.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Protected:
    """A protected model.

    Attributes:
        folder: holds everything.
        bundle: to be licensed and run.
        password: of a locked model: what licences must carry for it to answer; None: not locked. Secret.
        strategy: the chosen one.
        found: the search: front, choice, and all that was tried.
        report: as ``report.json`` has it.
    """

    folder: Path
    bundle: Path
    strategy: Strategy
    found: Found
    report: dict[str, Any]

    @property
    def password(self) -> Path | None:
        """See the class."""
        return None if self.strategy.lock is None else self.folder / PASSWORD_FILE

    @property
    def licence(self) -> str:
        """The command that a device's licence is issued with."""
        return str(self.report["licence"])

    @property
    def next(self) -> list[str]:
        """The commands that come next, in their order: device's record, licence, a first run on a few test images."""
        return list(self.report["next"])

    @property
    def page(self) -> Path:
        """The report to read."""
        return self.folder / "report.html"


def protect_model(
    victim: nn.Module,
    splits: Splits,
    budget: Budget,
    folder: Path,
    *,
    settings: ProtectSettings | None = None,
    name: str = "",
    study: str | Path | None = None,
    time_limit: float | None = None,
    measure: bool = False,
    keys: Path | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Protected:
    """Search for the best strategy within a budget, train it in full, and compile it.

    Args:
        victim: the trained model, from normalised images (N, C, H, W) to logits; not changed.
        splits: what it was trained on.
        budget: what protection may cost.
        folder: gets the bundle, the ONNX files, ``report.html``, ``report.json``, the attacks, and in ``training``
            the study and checkpoints: interrupted, the same call goes on where it was.
        settings: how strategies are searched for, trained and attacked.
        name: of the model on devices and in the report; default: the folder's.
        study: a file, or a database's URL for workers on several machines; default: a file in ``folder``.
        time_limit: seconds after which the search ends with the best so far. If nothing was trained in full by then,
            what seems best is trained all the same.
        measure: count the instructions of what was chosen on the emulated device, beside what was predicted.
        keys: directory of the vendor's keys.
        device: to train on: "auto", "cpu", "cuda".
        quiet: tell nothing.

    Raises:
        KeyFileError: there is no vendor key.
        DeviceError: there is no such device.
        CloisterError: something else would be overwritten in ``folder``; it is to be measured, and the benchmark is
            not here or fails.
        TrainingError: the victim cannot be traced or exported.
        BudgetError: nothing keeps the budget; the message says how near one can come. Where that came out only in
            training, the report is there.
        SearchError: the study cannot be used; nothing could be trained in the time.
    """
    settings, began = settings or ProtectSettings(), time.monotonic()
    name = name or folder.resolve().name

    def say(line: str) -> None:
        if not quiet:
            print(f"{time.monotonic() - began:7.0f} s  {line}", file=sys.stderr, flush=True)

    check_memory(budget)
    check_folder(folder)
    if measure:
        check_measurable()
    auto_device(device)
    vendor = VendorKey.load(keys).public  # it would be late to find out after hours that there is none
    work = folder / "training"
    say("finding what can be tapped, and how far the model can be pruned")
    evaluator = TrainingEvaluator(
        victim, splits, settings, work, memory=budget.memory, label=name, device=device, quiet=quiet
    )
    right = f"{evaluator.right:.2%} of {len(splits.validation)} validation images"
    say(f"the model labels {right} rightly; {_taken(splits)}")
    for warning in doubts(budget, splits, evaluator.right, evaluator.tested):
        say(warning)
    evaluator.check_victim()
    say(f"estimating whether {budget} can be kept")
    check_possible(evaluator, budget, say)
    say(f"searching within {budget}; {len(evaluator.taps)} tensors can be tapped")
    found = search(
        evaluator, budget, study=study or work / STUDY_FILE, name=study_name(evaluator, settings, budget),
        effort=settings.search, seed=settings.seed, say=say,
        time_limit=None if time_limit is None else max(0.0, time_limit - (time.monotonic() - began)),
    )  # fmt: skip
    found = _trained(found, evaluator, budget, say)
    chosen = found.chosen
    assert chosen is not None
    place = evaluator.place(chosen.strategy)
    if chosen.stage is Stage.TRAINING and not evaluator.holds(chosen.strategy):
        say(f"trained in another folder; training it here too, about {chosen.seconds / 60:.0f} minutes")
        evaluator.train(chosen.strategy)
    report = report_of(found, evaluator, budget, settings, splits, name, place)
    report["seconds"] = round(time.monotonic() - began, 1)
    if not found.choice.fits:
        earlier = earlier_bundle(folder)
        report["earlier_bundle"] = None if earlier is None else earlier.name
        keep_note(folder)
        write_report(folder, report, found, budget, place)
        raise BudgetError(
            f"no strategy that was trained keeps the budget ({budget}); the nearest is {_told(chosen)}",
            ("allow that, or give more time: the search was not complete" if not found.complete else "allow that")
            + f"; {folder / 'report.html'} shows all that was tried"
            + ("" if earlier is None else f"; {earlier} is of an earlier run: it stays as it was, with its licences"),
        )  # fmt: skip
    bundle, about = make_bundle(folder, place, chosen.strategy, budget, name, keys, vendor, splits, say)
    for warning in (warned := about.pop("warnings", [])):
        say(f"warning: {warning}")
    report |= {**about, "warnings": report["warnings"] + warned}
    write_report(folder, report, found, budget, place)
    if measure:
        say("counting its instructions on the emulated device")
        unprotected = evaluator.costs.victim_file(chosen.strategy.precision)
        report["measured"] = measured(work / "measure", place, chosen.strategy, unprotected)
        report["resident"] = resident(place, chosen.strategy, unprotected, budget.memory)
        write_report(folder, report, found, budget, place)
    say(f"written: {bundle}, {folder / 'report.html'}")
    return Protected(folder, bundle, chosen.strategy, found, report)


def study_name(evaluator: TrainingEvaluator, settings: ProtectSettings, budget: Budget) -> str:
    """Of the search in its study: a database may hold those of several models, data and settings.

    The memory is part of it, since it decides which partitions are swapped, and so what estimates say; the other
    limits only judge.
    """
    memory = "any memory" if budget.memory is None else f"{budget.memory} bytes"
    return f"{evaluator.identity}, settings {settings.digest}, {memory}"


def _taken(splits: Splits) -> str:
    """How images and classes are taken, since it is there that data and model most often differ."""
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (splits.mean, splits.std))
    listed = ", ".join(splits.classes[:CLASSES]) + (", ..." if len(splits.classes) > CLASSES else "")
    return f"pixels less mean {mean}, by deviation {std}; {len(splits.classes)} classes: {listed}"


def _told(record: Record) -> str:
    assert record.figures is not None
    return f"{record.strategy} ({tell(record.figures)})"


def _trained(found: Found, evaluator: TrainingEvaluator, budget: Budget, say: Say) -> Found:
    """The same, with the chosen strategy trained in full if it was not.

    Raises:
        BudgetError: nothing was tried in the time.
        CloisterError: the strategy cannot be trained.
    """
    chosen = found.chosen
    if chosen is None and not found.complete:
        raise BudgetError("the time limit ended the search before anything was trained", "give it more time")
    if chosen is None:
        estimates = {
            record.strategy: record.figures for record in found.study.records(Stage.ESTIMATE) if record.figures
        }
        raise none_within(estimates, budget)
    if chosen.stage is Stage.TRAINING:
        return found
    minutes = chosen.seconds / evaluator.proxy_share / 60
    say(f"no time for more short trainings; training the best in full, about {minutes:.0f} minutes: {chosen.strategy}")
    record = found.study.work(Stage.TRAINING, chosen.point, evaluator.space, evaluator.train, budget)
    again = replace(found_in(found.study, budget), complete=found.complete)
    if again.chosen is not None and again.chosen.stage is Stage.TRAINING:
        return again
    tried = [record] if record is not None else found.study.records(Stage.TRAINING)
    for failed in tried:
        if failed.state == "failed" and failed.strategy == chosen.strategy:
            raise CloisterError(f"{failed.strategy} cannot be trained: {failed.reason}", "mend that, then run it again")
    # another worker is at it: waiting for it could take longer than the time limit allows, and its files lie elsewhere
    say(f"another worker trains that; training it here too, about {minutes:.0f} minutes")
    began = time.monotonic()
    figures = evaluator.train(chosen.strategy)
    mine = replace(chosen, stage=Stage.TRAINING, figures=figures, seconds=time.monotonic() - began)
    return replace(
        again, front=[mine], choice=choose([mine], budget), trainings=again.trainings + 1, cost=again.cost + 1
    )

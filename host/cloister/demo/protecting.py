# SPDX-License-Identifier: BSD-2-Clause
"""The demo's first half, which needs torch: a victim, and what ``cloister.protect`` makes of it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cloister.demo.data import digits
from cloister.demo.kept import Kept
from cloister.demo.settings import DemoSettings

if TYPE_CHECKING:
    from torch import nn

    from cloister.protect.automatic import ProtectSettings
    from cloister.protect.training import Splits

LOG = "protect.log"
#: More threads than this gain nothing with networks so small, and cost much where other work wants the cores too.
THREADS = 2

Say = Callable[[str], None]
#: What ``cloister.protect`` tells while it works, and what of that the demo shows.
LINES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\s*\d+ s  (\d+ strategies estimated)"), r"\1"),
    (re.compile(r"\s*\d+ s  proxy \d+: (.*?): attacker"), r"trained briefly and attacked: \1"),
    (re.compile(r"\s*\d+ s  training \d+: (.*?): attacker"), r"trained in full and attacked: \1"),
    (re.compile(r"\s*\d+ s  (counting .*)"), r"\1"),
    (re.compile(r"pair \w+: (\d+ of \d+), (\d+ s), (\d+ s left)"), r"  the pair: \1 epochs in \2, \3"),
    (re.compile(r"attacks: (\d+ of \d+), (\d+ s), (\d+ s left)"), r"  attackers: \1 in \2, \3"),
    (re.compile(r"\s*\[(\d+)/(\d+)\] +(\d+ s)  (?!onnxruntime)\S"), r"  measurements: \1 of \2 in \3"),
)


def shown(line: str) -> str | None:
    """What the demo shows of a line of progress; None: nothing."""
    for pattern, told in LINES:
        if found := pattern.match(line):
            return found.expand(told)
    return None


@contextlib.contextmanager
def overheard(log: Path, say: Say) -> Iterator[None]:
    """All that is written to standard error goes to ``log``, programs' that are started, too; ``say`` gets progress."""
    read, write = os.pipe()
    sys.stderr.flush()
    before = os.dup(2)
    last = ""

    def listen() -> None:
        nonlocal last
        with os.fdopen(read, encoding="utf-8", errors="replace") as lines, log.open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(line)
                file.flush()
                told = shown(line)
                if told is not None and told != last:
                    say(told)
                    last = told

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    os.dup2(write, 2)
    os.close(write)
    try:
        with (
            os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False) as stream,
            contextlib.redirect_stderr(stream),
        ):
            yield
    finally:
        os.dup2(before, 2)  # closes the pipe's last end here
        os.close(before)
        listener.join(10)


def splits(settings: DemoSettings) -> Splits:
    """The digits as training takes them."""
    import torch

    from cloister.protect.training import Images, Splits

    train, train_labels, test, test_labels = map(torch.from_numpy, digits())
    return Splits.make(
        Images(train, train_labels), Images(test, test_labels), validation=settings.validation, seed=settings.seed,
        name="digits",
    )  # fmt: skip


def victim(data: Splits, settings: DemoSettings, folder: Path) -> nn.Module:
    """The model that is to be protected, trained; goes on where it was."""
    import torch

    from cloister.demo.train import network
    from cloister.protect.training import Augmentation, Recipe, fit

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = network()
    recipe = Recipe(
        epochs=settings.victim_epochs, batch=settings.victim_batch, rate=settings.victim_rate,
        augmentation=Augmentation(crop=1), seed=settings.seed,
    )  # fmt: skip
    return fit(module, data, recipe, folder=folder, device="cpu", quiet=True).module


def protect_settings(settings: DemoSettings) -> ProtectSettings:
    """How the search trains and attacks."""
    from cloister.attack import Effort
    from cloister.protect.automatic import Depth, ProtectSettings
    from cloister.protect.training import Augmentation
    from cloister.search import Effort as SearchEffort

    augmentation, attacks = Augmentation(crop=1), ("direct", "finetune", "steal")

    def effort(steps: int) -> Effort:
        return Effort(
            shares=(settings.share,), queries=(settings.queries,), rates=(0.05,), mask_rates=(0.1,), epochs=4,
            steps=steps, trial=max(1, steps // 6), validation=200, augmentation=augmentation,
        )  # fmt: skip

    return ProtectSettings(
        full=Depth(settings.epochs, settings.final, attacks, effort(settings.attack_steps)),
        proxy=Depth(2, 1, attacks, effort(settings.attack_steps // 4)),
        search=SearchEffort(settings.estimates, settings.proxies, settings.trainings, start=settings.proxies),
        batch=settings.batch, rate=settings.rate, augmentation=augmentation, forms=settings.forms, seed=settings.seed,
    )  # fmt: skip


def protect(folder: Path, settings: DemoSettings, say: Say, *, measure: bool = True) -> Kept:
    """Train a victim and protect it; an interrupted run goes on where it was.

    Args:
        folder: gets what ``cloister.protect`` writes.
        settings: of all that is trained.
        say: told a line for everything that is done.
        measure: count instructions on the emulated device; without, a later run takes it for unfinished.

    Raises:
        CloisterError: torch or Optuna is missing, or a step failed; :data:`LOG` in ``folder`` has its details.
    """
    from cloister.protect.extra import need_torch

    need_torch()
    from cloister.search.errors import need_optuna

    need_optuna()
    import torch

    import cloister
    from cloister.protect.training import accuracy

    began = time.monotonic()
    torch.set_num_threads(max(1, min(THREADS, torch.get_num_threads())))
    folder.mkdir(parents=True, exist_ok=True)
    data = splits(settings)
    say("training the model that is to be protected")
    with overheard(folder / LOG, say):
        model = victim(data, settings, folder / "victim")
        took = time.monotonic() - began
        say(f"it reads {accuracy(model, data.test, data):.1%} of the test images, after {took:.0f} s")
        made = cloister.protect(
            model, data, folder, budget_memory=settings.budget_memory, budget_overhead=settings.budget_overhead,
            budget_accuracy=settings.budget_accuracy, name="digits", settings=protect_settings(settings),
            measure=measure, device="cpu",
        )  # fmt: skip
    kept = Kept(folder, data.mean[0], data.std[0], time.monotonic() - began, made.report)
    kept.save()
    return kept

# SPDX-License-Identifier: BSD-2-Clause
"""What the attack bench tells while it runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from digits_data import digits_splits
from torch import nn

from cloister.attack import BlackBox, Effort, WhiteBox, bench
from cloister.attack import progress as module
from cloister.attack.attacker import Attacker, Record
from cloister.attack.attacks import ATTACKS
from cloister.attack.plan import planned
from cloister.attack.progress import Plan, Progress
from cloister.protect.edgepro.folding import fold_normalisation
from cloister.protect.training import Fitted, network

#: The module, which the package's function hides.
BENCH = sys.modules["cloister.attack.bench"]
EFFORT = Effort((0.1,), (50,), (0.02, 0.05), (0.1,), epochs=1, steps=4, trial=2, validation=100)


class Clock:
    """Passes only where a test says so."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(module.time, "monotonic", lambda: self.now)


def attacked(folder: Path, *attacks: str, quiet: bool = False) -> None:
    splits = digits_splits()
    target = BlackBox(network("digits", 1, 10, 0), splits, "own")
    bench(target, splits, network("digits", 1, 10, 1), attacks=attacks, effort=EFFORT, folder=folder, device="cpu",
          quiet=quiet, white=False)  # fmt: skip


def untrained(patch: pytest.MonkeyPatch) -> list[None]:
    """Trainings cost nothing; an entry for each."""
    calls: list[None] = []

    def fit(network: nn.Module, *_data: Any, **_more: Any) -> Fitted:
        calls.append(None)
        return Fitted(network.eval(), 0.5, 1, [], 0.0)

    patch.setattr("cloister.attack.attacker.fit", fit)
    return calls


def test_an_attack_is_named_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []

    class Watched(ModuleType):
        @staticmethod
        def run(attacker: Attacker) -> list[Record]:
            told.append((attacker.target.name, capsys.readouterr().err))
            return []

    monkeypatch.setitem(ATTACKS, "finetune", Watched("finetune"))
    attacked(tmp_path, "direct", "finetune")
    (own, first), (black, second) = told
    assert f"2 of 4, finetune of {own}" in first and f"4 of 4, finetune of {black}" in second
    assert capsys.readouterr().err.startswith("attacks: 4 of 4")


def test_trainings_are_told_but_not_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = untrained(monkeypatch)
    clock = Clock(monkeypatch)
    attacked(tmp_path / "fast", "finetune")
    assert calls and "training 1" not in capsys.readouterr().err, "no time has passed"
    calls.clear()

    class Slow(Progress):
        def _line(self, text: str) -> None:
            super()._line(text)
            clock.now += module.LINE_S

    monkeypatch.setattr(BENCH, "Progress", Slow)
    attacked(tmp_path / "slow", "finetune")
    numbers = re.findall(r"finetune of own: training (\d+) of about (\d+)", capsys.readouterr().err)
    assert [int(number) for number, _ in numbers] == list(range(1, len(calls) + 1))
    assert {int(most) for _, most in numbers} == {len(calls)}, "as planned"


def test_the_end_is_told_by_what_is_trained_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with Progress([Plan(0, 0), Plan(2, 100), Plan(1, 300)], 9) as progress:
        clock.now += 50
        progress.begin("direct of it", 5)
        clock.now += 50  # which trains nothing
        progress.begin("steal of it", 8)
        clock.now += 20
        with progress.training(60, begun=True):
            clock.now += 1
        clock.now += 20
        assert "left" not in capsys.readouterr().err
        with progress.training(40, begun=False):
            clock.now += 8
        progress.begin("mask of it", 9)
        assert "9 of 9, mask of it: about 1 training, about 60 s left; 149 s" in capsys.readouterr().err
    assert capsys.readouterr().err == "attacks: 9 of 9, 149 s\n"


def test_kept_attacks_are_not_among_those_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained(monkeypatch)
    given: list[list[Plan]] = []

    class Noted(Progress):
        def __init__(self, plans: list[Plan], *more: Any) -> None:
            given.append(plans)
            super().__init__(plans, *more)

    monkeypatch.setattr(BENCH, "Progress", Noted)
    attacked(tmp_path, "direct", "finetune")
    capsys.readouterr()
    attacked(tmp_path, "direct", "finetune", "steal")
    first, second = given
    assert len(first) == 4 and [plan.steps > 0 for plan in first] == [False, True] * 2
    assert len(second) == 2 and all(plan.steps for plan in second)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in lines] == [
        " 3 of 6, steal of own", " 6 of 6, steal of black box (queries only)", lines[-1].split(":")[1]
    ]  # fmt: skip
    attacked(tmp_path, "direct", "finetune", "steal")
    assert capsys.readouterr().err == "", "there was nothing to do"


def test_quiet_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    untrained(monkeypatch)
    monkeypatch.setattr(module, "LINE_S", 0.0)
    attacked(tmp_path, "direct", "finetune", quiet=True)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_a_bar_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    attacked(tmp_path, "finetune")
    shown = capsys.readouterr().err
    assert "finetune of black box" in shown and "\x1b[" in shown


class Mine(WhiteBox):
    lock = True


def test_plans_are_about_right(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, splits = untrained(monkeypatch), digits_splits()
    whole = fold_normalisation(network("digits", 1, 10, 0))
    for target in (Mine(whole, splits), WhiteBox(whole, splits), BlackBox(whole, splits)):
        fresh = lambda seed: network("digits", 1, 10, seed)  # noqa: E731 - as the bench gives it
        attacker = Attacker(target, splits, fresh, EFFORT, 0, None, "cpu", splits.train)
        for name, attack in ATTACKS.items():
            calls.clear()
            attack.run(attacker)
            plan = planned(attacker, name)
            assert len(calls) == pytest.approx(plan.trainings, rel=0.34), (type(target), name)
            assert bool(plan.steps) == bool(calls)

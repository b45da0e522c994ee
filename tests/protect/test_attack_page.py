# SPDX-License-Identifier: BSD-2-Clause
"""The Python of docs/attacks.md: it can be read, and its protection of one's own can be attacked."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from digits_data import digits_splits

from cloister.attack import Effort, bench
from cloister.attack.attacks import ATTACKS
from cloister.attack.plan import planned
from cloister.attack.progress import Plan
from cloister.protect.training import accuracy, network

PAGE = Path(__file__).parents[2] / "docs" / "attacks.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
#: What a reader brings: his network, what pruning made of it, and his data.
GIVEN = {"pruned", "splits", "victim"}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_name_is_imported_or_the_readers_own(block: str) -> None:
    found, made = set(), set(GIVEN)
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            made |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Name):
            (found if isinstance(node.ctx, ast.Load) else made).add(node.id)
    assert found - made <= set(dir(builtins))


def test_the_documented_protection_is_attacked() -> None:
    (block,) = (block for block in BLOCKS if "class MyProtection" in block)
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    splits, outside = digits_splits(), network("digits", 1, 10, 2)
    device = SimpleNamespace(labels=lambda pixels: torch.full((len(pixels),), 7))
    target = names["MyProtection"](outside, device)
    report = bench(target, splits, network("digits", 1, 10, 1), attacks=["direct"], effort=Effort(), device="cpu",
                   quiet=True)  # fmt: skip
    found = report.find("mine", "direct")
    assert found["accuracy"] == pytest.approx(accuracy(outside.eval(), splits.test, splits))


def test_the_page_tells_how_many_trainings_there_are() -> None:
    def plans(lock: bool, whole: bool, effort: Effort) -> list[Plan]:
        target = SimpleNamespace(lock=lock, module=lambda: network("digits", 1, 10, 1) if whole else None)
        attacker: Any = SimpleNamespace(target=target, effort=effort)
        return [planned(attacker, attack) for attack in ATTACKS]

    steps = []
    for name, lock, whole in (("a locked network", True, True), ("a network in clear[^|]*", False, True),
                              ("the black box", False, False)):  # fmt: skip
        full, one = plans(lock, whole, Effort()), plans(lock, whole, Effort(rates=(0.05,), steps=40, trial=40))
        steps.append(sum(plan.steps for plan in full))
        cells = " \\| ".join(f"{sum(counts):,}" for counts in (
            [plan.trainings for plan in full], steps[-1:], [plan.trainings for plan in one]))  # fmt: skip
        assert re.search(rf"^\| {name} \| {cells} \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert f"take {sum(steps):,} steps" in PAGE.read_text(encoding="utf-8")

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

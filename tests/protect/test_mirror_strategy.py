# SPDX-License-Identifier: BSD-2-Clause
"""Strategies: JSON both ways, equality, what cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest

from cloister.protect.strategy import Strategy, StrategyError

SOME = (
    Strategy(taps=("2", "6")),
    Strategy(
        taps=("image", "3.relu", "logits"), backbone="random", backbone_width=0.25, tail="short", cpm_width=12,
        cpm_depth=2, operator="separable", merge="concat", head="average", pool=4, pool_kind="max", channels=0.5,
        select="first", precision="int8", pruned=0.5, lock=(0.5, 0.1),
    ),
    Strategy(kind="whole", precision="int8"),
)  # fmt: skip


@pytest.mark.parametrize("strategy", SOME, ids=str)
def test_json_gives_the_same_strategy_back(strategy: Strategy) -> None:
    again = Strategy.from_json(strategy.to_json())
    assert again == strategy and hash(again) == hash(strategy) and again.digest == strategy.digest
    assert Strategy.from_json(json.loads(strategy.to_json())) == strategy
    assert set(json.loads(strategy.to_json())) == {field.name for field in fields(Strategy)}


def test_strategies_are_told_apart() -> None:
    assert len(set(SOME)) == len({strategy.digest for strategy in SOME}) == len({str(s) for s in SOME}) == len(SOME)
    assert all(len(str(strategy).splitlines()) == 1 for strategy in SOME)


def test_what_is_left_out_has_its_default() -> None:
    assert Strategy.from_json('{"taps": ["2"], "pool": 2}') == Strategy(taps=("2",), pool=2)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"taps": ()}, "no taps"),
        ({"taps": "2"}, "one text"),
        ({"taps": ("2", "2")}, "once"),
        ({"taps": ("2",), "backbone": "public"}, "backbone"),
        ({"taps": ("2",), "operator": "conv5x5"}, "operator"),
        ({"taps": ("2",), "precision": "int4"}, "precision"),
        ({"taps": ("2",), "cpm_width": 0}, "cpm_width"),
        ({"taps": ("2",), "cpm_depth": -1}, "cpm_depth"),
        ({"taps": ("2",), "pool": 0}, "pool"),
        ({"taps": ("2",), "channels": 0.0}, "channels"),
        ({"taps": ("2",), "channels": float("nan")}, "channels"),
        ({"taps": ("2",), "backbone_width": 1.5}, "backbone_width"),
        ({"taps": ("2",), "pruned": 0.0}, "pruned"),
        ({"taps": ("2",), "lock": (0.0, 0.0)}, "lock"),
    ],
)
def test_errors_name_what_cannot_be(values: dict[str, Any], named: str) -> None:
    with pytest.raises(StrategyError, match=named):
        Strategy(**values)


@pytest.mark.parametrize(
    ("text", "named"), [("no json", "no JSON"), ("[1]", "list"), ('{"taps": ["2"], "depth": 1}', "depth")]
)
def test_text_that_is_no_strategy_is_refused(text: str, named: str) -> None:
    with pytest.raises(StrategyError, match=named):
        Strategy.from_json(text)


def test_strategies_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import cloister.protect.strategy"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

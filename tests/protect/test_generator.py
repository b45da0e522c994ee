# SPDX-License-Identifier: BSD-2-Clause
"""The generator against a hand-made grid, with real trainings: a tiny one, to see that the comparison is sound."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cloister.attack import Effort
from cloister.protect.automatic import Depth, evaluator
from cloister.protect.results import generator
from cloister.protect.results.generator import ATTACKS, SETTINGS, Setup, grid_of, run, table
from cloister.protect.strategy import IMAGE
from cloister.search import Budget
from cloister.search import Effort as SearchEffort

TINY = Effort(
    shares=(0.1,), queries=(50,), rates=(0.05,), mask_rates=(0.1,), epochs=1, steps=3, trial=1, validation=100
)
SETUP = Setup(
    settings=replace(
        SETTINGS, full=Depth(1, 0, ATTACKS, TINY), proxy=Depth(1, 0, ATTACKS, TINY),
        search=SearchEffort(estimates=6, proxies=2, trainings=1, start=1),
    ),
    budget=Budget.parse("1MiB", "400%", "95"), width=4, victim=2, again=1, step=15,
)  # fmt: skip


def test_both_choices_are_compared_on_validation_and_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    record = run(tmp_path, 0, SETUP, lines.append)
    assert (record["grid"]["cost"], record["generator"]["trainings"], record["generator"]["proxies"]) == (2.0, 1, 2)
    for who in ("grid", "generator"):
        side = record[who]
        assert side["fits"] and len(side["again"]) == 1
        assert {"gain", "gain_test", "lost", "lost_test", "overhead"} <= set(side) & set(side["again"][0])
        assert side["summary"] in table([record])
    assert json.dumps(record)

    def begun(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(evaluator, "mirror_model", begun)
    monkeypatch.setattr(evaluator, "bench", begun)
    assert run(tmp_path, 0, SETUP) == record


def test_grids_are_of_thirty_strategies_that_can_be_had() -> None:
    taps = [IMAGE, "2", "5", "6", "9", "10", "13", "logits"]
    for exposed in (False, True):
        grid = grid_of(taps, replace(SETUP, step=1, exposed=exposed))
        assert len(set(grid)) == 30
        assert not any(strategy.pruned for strategy in grid)
        alone = [strategy for strategy in grid if strategy.kind == "whole" or strategy.taps == (IMAGE,)]
        assert len(alone) == (0 if exposed else 6)
    share = generator.SETTINGS.share(943)
    assert share * SETTINGS.search.proxies + SETTINGS.search.trainings <= 15

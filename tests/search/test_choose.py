# SPDX-License-Identifier: BSD-2-Clause
"""The front, the choice and its words."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from cloister.protect.strategy import Strategy
from cloister.search import Budget, Figures, SearchError, Stage, choose, front_of
from cloister.search.book import Record
from cloister.search.picture import draw, save

BUDGET = Budget.parse("1MiB", "1%", "1")


def record(number: int, stage: Stage = Stage.TRAINING, **figures: float) -> Record:
    values = {"overhead": 0.005, "memory": 1000, "boundary": 100, "lost": 0.5, "gain": 1.3, **figures}
    found = Figures(**values)  # type: ignore[arg-type]
    return Record(stage, number, Strategy(taps=("image",), cpm_width=number + 1), {}, "done", found)


def test_front_holds_what_nothing_dominates() -> None:
    best, dear, beaten, twin = record(0), record(1, gain=1.1, overhead=0.008), record(2, lost=0.6), record(3)
    assert front_of([dear, best, beaten, twin]) == [best, dear]


def test_least_gain_within_the_budget() -> None:
    inside, outside = record(0, gain=1.4), record(1, gain=1.0, overhead=0.02)
    found = choose([inside, outside], BUDGET)
    assert found.record is inside and found.fits
    assert found.runner_up is outside
    assert "1 of the 2 trained strategies keeps the budget" in found.why
    assert "overhead by 1.00 %" in found.why


def test_of_equal_gains_the_least_overhead() -> None:
    least, cheap = record(0, gain=1.10, overhead=0.009), record(1, gain=1.11, overhead=0.002)
    found = choose([least, cheap], BUDGET)
    assert found.record is cheap
    assert "least overhead" in found.why and "more overhead" in found.why
    assert choose([least, cheap], BUDGET, margin=0.0).record is least


def test_below_the_black_box_there_is_nothing_to_win() -> None:
    cheap = record(1, gain=1.0, overhead=0.001)
    assert choose([record(0, gain=0.8), cheap], BUDGET).record is cheap


def test_runner_up_that_is_cheaper_is_told_so() -> None:
    found = choose([record(0, gain=1.1), record(1, gain=1.5, overhead=0.001)], BUDGET)
    assert "the attacker gains 0.40 more, though it is better in overhead" in found.why


def test_nothing_keeps_the_budget() -> None:
    near, far = record(0, lost=1.5), record(1, lost=9.0, gain=1.0)
    found = choose([far, near], BUDGET)
    assert found.record is near and not found.fits
    assert "None of the 2 trained strategies keeps the budget" in found.why and "accuracy by 0.50 points" in found.why


def test_proxies_count_only_without_trainings() -> None:
    short = record(0, Stage.PROXY, gain=1.0)
    assert choose([short], BUDGET).record is short
    assert "only trained briefly" in choose([short], BUDGET).why
    assert choose([short, record(1)], BUDGET).record is not short


def test_what_did_better_in_a_short_training_alone_is_told() -> None:
    winner, brief = record(0, gain=1.0, overhead=0.008), record(1, Stage.PROXY, gain=1.0, overhead=-0.05)
    before = record(0, Stage.PROXY, gain=1.0)
    found = choose([winner, brief, before], BUDGET)
    assert found.record is winner
    assert "nothing else was trained in full" in found.why
    assert (
        f"Better in short trainings, and not trained in full: {brief.strategy}" in found.why
        and "--trainings" in found.why
    )
    for other in (
        record(1, Stage.PROXY, gain=1.4, overhead=-0.05),
        record(1, Stage.PROXY, gain=1.0, lost=2.0, overhead=-0.05),
        record(0, Stage.PROXY, gain=1.0, overhead=-0.05),
    ):  # worth more to an attacker; beyond the budget; trained in full as well
        assert "Better in" not in choose([winner, before, other], BUDGET).why
    assert "Better in" not in choose([winner, brief], BUDGET).why, "how the winner did in a short training is not known"
    # attackers of a full training try harder
    better = record(1, Stage.PROXY, gain=1.2)
    assert "Better in" not in choose([record(0, gain=1.3), before, better], BUDGET).why
    beyond = choose([record(0, lost=3.0), record(0, Stage.PROXY, lost=3.0), brief], BUDGET)
    assert not beyond.fits and str(brief.strategy) in beyond.why, "there the budget was kept"


def test_nothing_at_all() -> None:
    assert choose([], BUDGET).record is None


def test_picture(tmp_path) -> None:
    records = [record(0), record(1, Stage.PROXY, overhead=-0.1), record(2, gain=1.0, overhead=0.5)]
    text = draw(records, BUDGET, records[0], "a < b")
    root = ElementTree.fromstring(text)
    notes = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(note.split(":")[0] for note in notes) == ["proxy 1", "training 0", "training 2"]
    assert 'stroke-width="2.5"' in text
    ElementTree.fromstring(draw([], Budget(), None, "nothing"))
    with pytest.raises(SearchError, match=r"\.svg"):
        save(text, tmp_path / "front.png")
    save(text, tmp_path / "front.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["front.svg"]

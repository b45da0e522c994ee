# SPDX-License-Identifier: BSD-2-Clause
"""The generator on formulas whose best strategies are known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from analytic import TAPS, Analytic

from cloister.errors import CloisterError, PassingError
from cloister.protect.strategy import Strategy
from cloister.search import Budget, Effort, Figures, SearchError, Stage, search
from cloister.search.book import Book
from cloister.search.grid import compare, hand_made, run_grid
from cloister.search.propose import Proposer
from cloister.search.space import Point, Scalar
from cloister.search.storage import shown
from cloister.search.strategies import Shapes, point_of, strategy_of, strategy_space

BUDGET = Budget.parse("256KiB", "1%", "1")
SMALL = Effort(estimates=60, proxies=8, trainings=3)


def trail(book: Book) -> list[tuple[str, str]]:
    return [(stage.value, record.strategy.digest) for stage in Stage for record in book.records(stage)]


def test_points_and_strategies() -> None:
    space = strategy_space(TAPS)
    for strategy in hand_made(TAPS):
        assert strategy_of(point_of(strategy, TAPS), TAPS) == strategy
    plain = point_of(Strategy(taps=("block1",), pool=1), TAPS)
    # what means nothing does not make another strategy
    assert space.build({**plain, "pool_kind": "max"}) == space.build(plain)
    assert space.build({**plain, "form": "whole"}) == space.build({**plain, "form": "whole", "cpm_width": 32})
    assert space.build({**plain, "merge": "concat"}) == space.build(plain)
    alone = {**plain, "tap_0": "image", "form": "tampered"}
    assert space.build({**alone, "form": "trained", "backbone_width": 0.5, "tail": "short"}) == space.build(alone)
    only = strategy_space(TAPS, form=("tampered",))
    assert only.build(alone).backbone == "tampered"
    assert only.build(alone).taps == ("block3",), "without a backbone it would be no such pair"
    # taps are a set, in the order in which they become ready
    both = {**plain, "tap_0": "block3", "tap_1": "block1", "tap_2": "block3", "tap_3": None}
    assert space.build(both).taps == ("block1", "block3")


#: As of a network whose last tensor is a vector.
SHAPES = {"image": (3, 32, 32), "block1": (16, 8, 8), "block2": (32, 4, 4), "block3": (64,), "logits": (10,)}


def same(point: Point, shapes: Shapes | None = SHAPES, **names: Scalar) -> bool:
    """Whether other values make the same strategy."""
    space = strategy_space(TAPS, shapes=shapes)
    return space.build({**point, **names}) == space.build(point)


def test_a_monitor_of_the_image_alone_keeps_its_stride() -> None:
    space = strategy_space(TAPS)
    alone = point_of(Strategy(taps=("image",), backbone="random", tail="short", pool=2), TAPS)
    assert space.build(alone).pool == 2
    assert not same(alone, pool=1) and not same(alone, pool=4) and not same(alone, None, pool=4)
    assert same(alone, pool_kind="max", form="trained", channels=0.5)
    ladders = [[space.build(point) for point in ladder] for ladder in space.ladders]
    begun = [(ladder[0].taps, ladder[0].pool) for ladder in ladders if ladder[0].kind == "mirror"]
    assert (("image",), 1) in begun and (("image",), 2) in begun


def test_which_channels_are_the_first_where_nothing_is_known_of_them() -> None:
    few = point_of(Strategy(taps=("block1",), channels=0.5), TAPS)
    assert not same(few, select="first")
    for point in ({**few, "form": "random"}, {**few, "backbone_width": 0.5}):
        assert same(point, select="first")
        assert strategy_space(TAPS).build(point).select == "first", "and is called so"


def test_vectors_have_nothing_to_pool() -> None:
    vectors = point_of(Strategy(taps=("block3", "logits"), cpm_width=16), TAPS)
    assert same(vectors, pool=4, pool_kind="max") and same(vectors, head="average")
    assert same(vectors, operator="conv1x1") and same(vectors, tail="short")
    assert not same(vectors, channels=0.5) and not same(vectors, merge="concat")
    assert not same(vectors, None, pool=4), "of tensors of unknown shape nothing is told"
    # a layer as wide as the answer, at the least
    assert same({**vectors, "cpm_width": 8}, cpm_width=2) and not same(vectors, cpm_width=8)
    beside = {**vectors, "tap_2": "block2"}
    for name, value in (("pool", 4), ("head", "average"), ("operator", "conv1x1"), ("cpm_width", 8)):
        assert not same(beside, **{name: value}), name


def test_what_is_one_pixel_is_pooled_no_further() -> None:
    small = point_of(Strategy(taps=("block2",), pool=4), TAPS)
    assert same(small, pool=16) and not same(small, pool=2) and not same(small, None, pool=16)
    assert not same({**small, "tap_1": "image"}, pool=16), "there it is the stride, too"
    answer = point_of(Strategy(taps=("logits",)), TAPS)
    assert same(answer, None, pool=4, channels=0.5, select="first"), "logits cross whole"


def test_space_refuses() -> None:
    with pytest.raises(SearchError, match="widths"):
        strategy_space(TAPS, widths=(1,))
    with pytest.raises(SearchError, match="cpm_width"):
        strategy_space(TAPS, cpm_width=(3,))
    with pytest.raises(SearchError, match="tap at most"):
        point_of(Strategy(taps=("elsewhere",)), TAPS)
    assert all(point["precision"] == "int8" for point in strategy_space(TAPS, precision=("int8",)).anchors)


def test_as_good_as_the_grid_with_half_the_trainings() -> None:
    grid_evaluator, evaluator = Analytic(), Analytic()
    grid = run_grid(grid_evaluator, BUDGET, TAPS)
    found = search(evaluator, BUDGET, effort=replace(Effort(), estimates=400))
    compared = compare(found, grid, BUDGET)
    assert len(hand_made(TAPS)) == 30 == compared.grid_cost
    assert sum(stage == "train" for stage, _ in grid_evaluator.calls) == 30
    counted = [stage for stage, _ in evaluator.calls]
    assert counted.count("train") + evaluator.proxy_share * counted.count("proxy") == pytest.approx(compared.cost)
    assert compared.cost <= 15
    assert compared.as_good, compared.text
    assert found.choice.fits and found.complete
    # 30,000 random points, each trained, find no less than a gain of 1 at 0.240 %
    assert found.chosen is not None and found.chosen.figures is not None
    assert found.chosen.figures.gain == 1.0 and found.chosen.figures.overhead < 0.004


class Told(Analytic):
    """Proxies lose and show what a table tells; the others nothing and little. Trainings find the same."""

    def __init__(self, table: dict[Strategy, tuple[float, float]]) -> None:
        super().__init__()
        self.table = table

    def truth(self, strategy: Strategy) -> Figures:
        lost, gained = self.table[strategy]
        return replace(super().truth(strategy), lost=lost, gain=gained)

    def proxy(self, strategy: Strategy) -> Figures:
        return self.truth(strategy)


def trained_first(table: dict[Strategy, tuple[float, float]], before: int) -> Strategy:
    """What is trained next where all of the table had proxies, and the first of it trainings."""
    evaluator, book = Told(table), Book(None, "search")
    for place, strategy in enumerate(table):
        point = point_of(strategy, TAPS)
        book.work(Stage.PROXY, point, evaluator.space, evaluator.proxy, BUDGET)
        if place < before:
            book.work(Stage.TRAINING, point, evaluator.space, evaluator.train, BUDGET)
    proposer = Proposer(book, evaluator, BUDGET, seed=0)
    proposer.refresh()
    point = proposer.next_training(proposer.forecast())
    assert point is not None
    return evaluator.space.build(point)


def one(backbone: str, width: int) -> Strategy:
    pair = Strategy(taps=("block3",), tail="short", cpm_width=width, cpm_depth=0, pool=2, precision="int8")
    return replace(pair, backbone=backbone)


def test_a_strategy_s_own_proxy_decides_whether_it_is_trained() -> None:
    # it is the cheapest, and whoever looks at the many like it takes what it lost for noise
    widths = [one("tampered", width) for width in (32, 16, 8, 4)]
    others = {
        replace(like, precision=precision, pool=pool): (0.2, 1.2)
        for like in widths
        for precision in ("int8", "fp32")
        for pool in (2, 4)
    }
    cheapest = one("tampered", 2)
    assert trained_first({**others, cheapest: (0.2, 1.0)}, before=0) == cheapest
    for lost in (1.1, 1.2, 1.3, 5.0):
        assert trained_first({**others, cheapest: (lost, 1.0)}, before=0) != cheapest


def test_kinds_of_backbones_take_turns_if_they_have_a_chance() -> None:
    # the truncated one looks useful to an attacker, so that only its turn brings it a training
    tampered = {one("tampered", width): (0.2, 1.02) for width in (32, 16, 8)}
    looks_useful = one("truncated", 8)
    assert trained_first({**tampered, looks_useful: (0.2, 1.6)}, before=1) == one("tampered", 8)
    assert trained_first({**tampered, looks_useful: (0.2, 1.6)}, before=2) == looks_useful
    assert trained_first({**tampered, looks_useful: (60.0, 1.6)}, before=2) == one("tampered", 8)


def test_what_is_narrowed_has_no_equal_rungs() -> None:
    for ladder in strategy_space(TAPS, pruned=(None,)).ladders:
        assert all(point not in ladder[:place] for place, point in enumerate(ladder))


def test_what_would_cost_too_much_is_begun_with_smaller() -> None:
    budget, evaluator = Budget.parse("256KiB", "0.3%", "1"), Analytic()
    ladders = [[evaluator.space.build(point) for point in ladder] for ladder in evaluator.space.ladders]
    kept = [[one for one in ladder if budget.fits(Analytic().estimate(one), doubt=True)] for ladder in ladders]
    assert [] in kept, "of one family nothing keeps the budget"
    pairs = zip(kept, ladders, strict=True)
    assert any(rungs and rungs[0] != ladder[0] for rungs, ladder in pairs), "of one not the usual strategy"
    search(evaluator, budget, effort=Effort(60, 2 * len(ladders), 1))
    tried = [strategy for stage, strategy in evaluator.calls if stage == "proxy"]
    first = [rungs[0] for rungs in kept if rungs]
    assert tried[: len(first)] == first


def test_comparison_can_be_lost() -> None:
    grid = run_grid(Analytic(), BUDGET, TAPS)
    poor = strategy_space(TAPS, form=("trained",), cpm_width=(2,), precision=("fp32",))
    compared = compare(search(Analytic(space=poor), BUDGET, effort=SMALL), grid, BUDGET)
    assert not compared.as_good and "worse than" in compared.text


def test_every_strategy_is_evaluated_once() -> None:
    evaluator = Analytic()
    found = search(evaluator, BUDGET, effort=SMALL)
    assert len(evaluator.calls) == len(set(evaluator.calls))
    assert (found.proxies, found.trainings) == (8, 3)
    assert found.estimates == 60
    trained = {record.strategy for record in found.study.records(Stage.TRAINING)}
    assert trained <= {record.strategy for record in found.study.records(Stage.PROXY)}


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_the_same_seed_finds_the_same(sampler: str) -> None:
    runs = [search(Analytic(), BUDGET, effort=SMALL, seed=3, sampler=sampler) for _ in range(2)]
    assert trail(runs[0].study) == trail(runs[1].study)
    assert trail(search(Analytic(), BUDGET, effort=SMALL, seed=4, sampler=sampler).study) != trail(runs[0].study)


class Interrupted(Analytic):
    """Stops at its n-th call, as by Control-C."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def stop(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def estimate(self, strategy: Strategy) -> Figures:
        self.stop()
        return super().estimate(strategy)

    def proxy(self, strategy: Strategy) -> Figures:
        self.stop()
        return super().proxy(strategy)

    def train(self, strategy: Strategy) -> Figures:
        self.stop()
        return super().train(strategy)


def test_interrupted_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    study = tmp_path / "study.journal"
    for after in (10, 15, 9, 1, 6):
        with pytest.raises(KeyboardInterrupt):
            search(Interrupted(after), BUDGET, effort=SMALL, study=study)
    evaluator = Analytic()
    resumed = search(evaluator, BUDGET, effort=SMALL, study=study)
    whole = search(Analytic(), BUDGET, effort=SMALL)
    assert trail(resumed.study) == trail(whole.study)
    assert resumed.why == whole.why
    # what was kept was not done again
    assert len(evaluator.calls) == 60 + 8 + 3 - 41


def test_killed_worker_is_noticed(tmp_path: Path) -> None:
    study, mark = tmp_path / "study.journal", tmp_path / "in-training"
    script = (
        "import pathlib, sys, time\n"
        "from analytic import Analytic\n"
        "from cloister.search import *\n"
        "class Slow(Analytic):\n"
        "    def proxy(self, strategy):\n"
        "        if len(self.calls) > 30:\n"
        f"            pathlib.Path({str(mark)!r}).touch(); time.sleep(60)\n"
        "        return super().proxy(strategy)\n"
        f"search(Slow(), Budget.parse('256KiB', '1%', '1'), study={str(study)!r}, effort=Effort(60, 8, 3))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with study.open("ab") as file:
        file.write(b'{"op_code":4,"wor')  # what a machine that lost power may leave
    resumed = search(Analytic(), BUDGET, effort=SMALL, study=study)
    assert trail(resumed.study) == trail(search(Analytic(), BUDGET, effort=SMALL).study)


def test_time_limit_ends_with_the_best_so_far() -> None:
    class Timed(Analytic):
        def proxy(self, strategy: Strategy) -> Figures:
            time.sleep(0.1)
            return super().proxy(strategy)

        def train(self, strategy: Strategy) -> Figures:
            time.sleep(0.5)
            return super().train(strategy)

    began = time.monotonic()
    found = search(Timed(), BUDGET, effort=Effort(60, 40, 10, start=3), time_limit=4)
    assert time.monotonic() - began < 15
    assert not found.complete
    assert found.chosen is not None and found.trainings >= 1


def test_slow_estimates_leave_time_for_trainings() -> None:
    class Slow(Analytic):
        def estimate(self, strategy: Strategy) -> Figures:
            time.sleep(0.05)
            return super().estimate(strategy)

    evaluator = Slow()
    found = search(evaluator, BUDGET, effort=Effort(1000, 8, 3), time_limit=6)
    assert found.estimates < 200 and found.proxies >= 1 and found.chosen is not None


def test_no_time_at_all() -> None:
    found = search(Analytic(), BUDGET, effort=SMALL, time_limit=0)
    assert found.chosen is None and not found.complete and "Nothing was trained" in found.why


def test_more_effort_and_another_budget_go_on(tmp_path: Path) -> None:
    study = tmp_path / "study.journal"
    search(Analytic(), BUDGET, effort=SMALL, study=study)
    evaluator = Analytic()
    found = search(evaluator, Budget.parse("160KiB", "0.3%", "2"), effort=Effort(70, 10, 5), study=study)
    assert (found.proxies, found.trainings) == (10, 5)
    assert len([stage for stage, _ in evaluator.calls if stage != "estimate"]) == 4


def test_a_study_belongs_to_one_evaluator_and_seed(tmp_path: Path) -> None:
    class Other(Analytic):
        name = "of another model"

    study = tmp_path / "study.journal"
    search(Analytic(), BUDGET, effort=SMALL, study=study)
    with pytest.raises(SearchError, match="another evaluator"):
        search(Other(), BUDGET, effort=SMALL, study=study)
    with pytest.raises(SearchError, match="another seed"):
        search(Analytic(), BUDGET, effort=SMALL, study=study, seed=1)
    with pytest.raises(SearchError, match="another space"):
        search(Analytic(space=strategy_space(TAPS, precision=("fp32",))), BUDGET, effort=SMALL, study=study)
    assert search(Other(), BUDGET, effort=SMALL, study=study, name="second").trainings == 3


def test_what_cannot_be_done_is_noted_and_passed_over() -> None:
    class Picky(Analytic):
        def proxy(self, strategy: Strategy) -> Figures:
            if strategy.backbone == "truncated":
                raise CloisterError("no such backbone", "none")
            return super().proxy(strategy)

    found = search(Picky(), BUDGET, effort=SMALL, seed=1)
    failed = [record for record in found.study.records(Stage.PROXY) if record.state == "failed"]
    assert failed and all(record.reason == "no such backbone" for record in failed)
    assert found.proxies + len(failed) == 8
    unlowered = [record for record in found.study.records(Stage.ESTIMATE) if record.state == "failed"]
    assert all(record.reason == "this cannot be lowered" for record in unlowered)


def test_what_failed_for_something_outside_is_done_again(tmp_path: Path) -> None:
    class Full(Analytic):
        full = True

        def proxy(self, strategy: Strategy) -> Figures:
            if self.full:
                raise PassingError("the disk is full", "free some space")
            return super().proxy(strategy)

    evaluator, study = Full(), tmp_path / "study.journal"
    with pytest.raises(PassingError, match="the disk is full"):
        search(evaluator, BUDGET, effort=SMALL, study=study, seed=1)
    evaluator.full = False
    found = search(evaluator, BUDGET, effort=SMALL, study=study, seed=1)
    assert not [record for record in found.study.records(Stage.PROXY) if record.state == "failed"]
    undisturbed = search(Analytic(), BUDGET, effort=SMALL, seed=1)
    assert found.proxies == 8 and found.why == undisturbed.why


def test_when_everything_fails_the_search_ends() -> None:
    class Broken(Analytic):
        def proxy(self, strategy: Strategy) -> Figures:
            raise CloisterError("the disk is full", "none")

    with pytest.raises(SearchError, match="the disk is full"):
        search(Broken(), BUDGET, effort=SMALL)


def test_figures_must_be_complete() -> None:
    class Silent(Analytic):
        def proxy(self, strategy: Strategy) -> Figures:
            return replace(super().proxy(strategy), gain=None)

    with pytest.raises(SearchError, match="'gain'"):
        search(Silent(), BUDGET, effort=SMALL)


def test_a_budget_that_nothing_keeps() -> None:
    found = search(Analytic(), Budget.parse("1KiB", "0.001%", "0"), effort=SMALL)
    assert found.chosen is None or not found.choice.fits


def test_no_study(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no study\n")
    with pytest.raises(SearchError, match="is no study"):
        Book(tmp_path / "notes.txt", "search")
    assert (tmp_path / "notes.txt").read_text() == "no study\n"
    with pytest.raises(SearchError, match="no such study"):
        Book(tmp_path / "none.journal", "search", create=False)
    with pytest.raises(SearchError, match="secret") as caught:
        Book("postgresql://me:hidden@localhost:1/secret", "search")
    assert "hidden" not in str(caught.value)


def test_torch_is_not_imported() -> None:
    script = "import sys, cloister.search.grid, cloister.search.picture; sys.exit('torch' in sys.modules)"
    path = os.pathsep.join(sys.path)
    assert subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}).returncode == 0


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:hidden@host:port/db", "postgresql://me:hid@hid:den@host/db", "postgresql://me:hid@den@host/db"],
)
def test_urls_that_cannot_be_read_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(SearchError, match="URL cannot be read") as caught:
        Book(url, "search")
    assert "a number as port" in caught.value.remedy
    for told in (str(caught.value), shown(url)):
        assert "hid" not in told and "den" not in told

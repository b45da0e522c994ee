# SPDX-License-Identifier: BSD-2-Clause
"""A hand-made grid of 30 strategies, and the generator held against it: as good, with half the trainings?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

from cloister.protect.strategy import IMAGE, Precision, Strategy
from cloister.search.book import Book, Record
from cloister.search.budget import Budget
from cloister.search.choose import MARGIN, Choice, choose, dominates, front_of, gain, tell
from cloister.search.figures import Evaluator, Stage
from cloister.search.generate import Found, Say
from cloister.search.strategies import inner, point_of, spread, strategy_space

#: Width and depth of the grid's monitors.
MONITORS = ((4, 1), (8, 1), (16, 1), (32, 2))


def hand_made(taps: Sequence[str], *, others: str = "pruned") -> list[Strategy]:
    """The grid: what one would try by hand before a generator is there.

    Three backbones, the last tensor alone or three along the network, four sizes of monitor, in 8 bits with taps at
    half their height and width (24); and six others.

    Args:
        taps: names of the tensors that can be tapped, as for :func:`~cloister.search.strategies.strategy_space`.
            A model with fewer than two between image and answer has fewer tap sets, and so a smaller grid.
        others: "pruned": the whole model in the TA, in both precisions, as it is and pruned to a half and a quarter.
            "image", for evaluators that do not prune: four monitors that see the image alone in place of the pruned
            models. "exposed", where something must stay outside: tampered backbones with three sizes of monitor in
            float32.
    """
    between = inner(taps) or list(taps)
    sets = dict.fromkeys([(between[-1],), tuple(spread(between, 3))])
    found = [
        Strategy(
            taps=chosen, backbone=backbone, tail="whole" if backbone == "tampered" else "short", cpm_width=width,
            cpm_depth=depth, pool=2, precision="int8",
        )
        for backbone, chosen, (width, depth) in product(("tampered", "truncated", "random"), sets, MONITORS)
    ]  # fmt: skip
    if others == "exposed":
        return found + [
            Strategy(taps=chosen, backbone="tampered", cpm_width=width, cpm_depth=depth, pool=2)
            for chosen, (width, depth) in product(sets, MONITORS[1:])
        ]
    shares = (None, 0.5, 0.25) if others == "pruned" else (None,)
    found += [
        Strategy(kind="whole", precision=cast(Precision, precision), pruned=share)
        for precision, share in product(("fp32", "int8"), shares)
    ]
    if others == "image":
        found += [
            Strategy(taps=(IMAGE,), backbone="random", tail="short", cpm_width=width, cpm_depth=depth, precision="int8")
            for width, depth in MONITORS
        ]
    return found


def run_grid(
    evaluator: Evaluator,
    budget: Budget,
    taps: Sequence[str],
    *,
    study: str | Path | None = None,
    name: str = "grid",
    say: Say | None = None,
    strategies: Sequence[Strategy] | None = None,
) -> list[Record]:
    """Train every strategy of the grid; with a study, those that are not in it yet.

    Args:
        evaluator: trains.
        budget: for the study.
        taps: names of the tensors that can be tapped.
        study, name: as for :func:`cloister.search.search`.
        say: told what is done, a line each.
        strategies: the grid (default: that of :func:`hand_made`).


    Raises:
        SearchError: as :func:`cloister.search.search`.
    """
    space = strategy_space(taps)  # not the evaluator's: that may be narrower
    book = Book(study, name)
    book.bind(evaluator, 0, budget)
    book.release()
    for strategy in hand_made(taps) if strategies is None else strategies:
        point = point_of(strategy, taps)
        if any(record.strategy in (strategy, space.build(point)) for record in book.records(Stage.TRAINING)):
            continue
        record = book.work(Stage.TRAINING, point, space, evaluator.train, budget)
        if say is not None and record is not None:
            told = tell(record.figures) if record.figures else f"failed: {record.reason}"
            say(f"grid {record.number}: {record.strategy}: {told}")
    return book.records(Stage.TRAINING)


@dataclass(frozen=True)
class Comparison:
    """The generator beside the grid.

    Attributes:
        grid: what would be chosen from the grid.
        found: what the generator found.
        as_good: the generator's choice keeps the budget wherever the grid's does, and the attacker gains less from it,
            or no more than the margin more at no more overhead.
        grid_cost, cost: trainings; the generator's proxies count by their share of a training.
        covered: share of the grid's front that some strategy of the generator's equals or dominates; ``covered_by``
            is the share of the generator's front that the grid does (E. Zitzler and L. Thiele, 1999).
    """

    grid: Choice
    found: Found
    as_good: bool
    grid_cost: float
    cost: float
    covered: float
    covered_by: float

    @property
    def text(self) -> str:
        """In words."""
        verdict = "at least as good as" if self.as_good else "worse than"
        lines = [
            f"The generator's choice is {verdict} the best of the grid, with {self.cost:.1f} trainings instead of "
            f"{self.grid_cost:g}: {self.found.trainings} in full, and {self.found.proxies} short ones.",
            f"It equals or dominates {self.covered:.0%} of the grid's front, the grid {self.covered_by:.0%} of its.",
        ]
        for title, choice in (("Generator", self.found.choice), ("Grid", self.grid)):
            if choice.record is not None and choice.record.figures is not None:
                lines.append(f"{title}: {choice.record.strategy} ({tell(choice.record.figures)}).")
        return "\n".join(lines)


def compare(found: Found, grid: Sequence[Record], budget: Budget, *, margin: float = MARGIN) -> Comparison:
    """Hold what a search found against the grid's trainings."""
    best = choose(grid, budget, margin)
    mine, theirs = (front_of([record for record in records if record.figures]) for records in (found.front, grid))
    return Comparison(
        best, found, _as_good(found.choice, best, margin), float(len(grid)), found.cost, _covered(theirs, mine),
        _covered(mine, theirs),
    )  # fmt: skip


def _as_good(mine: Choice, theirs: Choice, margin: float) -> bool:
    if mine.record is None or mine.record.figures is None:
        return False
    if theirs.record is None or theirs.record.figures is None or mine.fits != theirs.fits:
        return mine.fits or theirs.record is None
    less = gain(theirs.record.figures) - gain(mine.record.figures)
    return less > margin or (less >= -margin and mine.record.figures.overhead <= theirs.record.figures.overhead)


def _covered(front: Sequence[Record], by: Sequence[Record]) -> float:
    count = 0
    for record in front:
        for other in by:
            if record.figures is not None and other.figures is not None:
                same = other.figures.values() == record.figures.values()
                if same or dominates(other.figures, record.figures):
                    count += 1
                    break
    return count / len(front) if front else 0.0

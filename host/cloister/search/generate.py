# SPDX-License-Identifier: BSD-2-Clause
"""The strategy generator: estimates for very many, proxies for the front, trainings for what survives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cloister.search.book import Book, Record
from cloister.search.budget import Budget
from cloister.search.choose import MARGIN, Choice, choose, front_of, tell
from cloister.search.errors import SearchError
from cloister.search.figures import Evaluator, Stage
from cloister.search.propose import Proposer
from cloister.search.space import Point

#: Seconds between two looks at whether other workers are done.
WAIT_S = 1.0
#: Trainings that fail one after the other before a search ends: what is wrong then is hardly the strategies.
FAILURES = 5
#: Of a time limit the estimates before the first proxy may take this share, and those before each further proxy as
#: much as this share of a proxy: where estimates are slow, fewer are made.
ESTIMATING, BETWEEN = 0.15, 0.5


@dataclass(frozen=True)
class Effort:
    """How much is tried, by all workers together.

    Attributes:
        estimates: strategies that are estimated.
        proxies: of these trained briefly.
        trainings: of these trained fully.
        start: proxies that are spread over the space before forecasts guide the rest [default: a quarter].
    """

    estimates: int = 1000
    proxies: int = 40
    trainings: int = 6
    start: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.trainings <= self.proxies <= self.estimates:
            raise SearchError(
                f"{self.estimates} estimates, {self.proxies} proxies and {self.trainings} trainings",
                "each stage takes its strategies from the one before: at least one training, and no more of them",
            )

    @property
    def spread(self) -> int:
        """``start`` or its default."""
        return max(3, self.proxies // 4) if self.start is None else self.start

    def due(self, proxies: int) -> int:
        """Trainings that may have begun after so many proxies: none before forecasts guide, then evenly.

        So an early end finds some strategy trained, and later proxies learn from trainings (asynchronous successive
        halving: L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020).
        """
        if proxies >= self.proxies:
            return self.trainings
        if proxies < self.spread:
            return 0
        return 1 + (self.trainings - 1) * (proxies - self.spread) // max(1, self.proxies - self.spread)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        front: trained strategies that no other dominates, by rising overhead; of proxies where nothing was trained.
        choice: the chosen strategy, the runner-up, and why.
        estimates, proxies, trainings: how many were done, in all runs of the search.
        cost: what proxies and trainings cost, in trainings.
        complete: all was tried; False where the time limit ended it.
        study: the records, and Optuna's studies in ``study.studies``.
    """

    front: list[Record]
    choice: Choice
    estimates: int
    proxies: int
    trainings: int
    cost: float
    complete: bool
    study: Book = field(repr=False)

    @property
    def chosen(self) -> Record | None:
        """The winner; None where nothing was trained."""
        return self.choice.record

    @property
    def why(self) -> str:
        """Why it was chosen, and why the runner-up was not."""
        return self.choice.why


#: Told one line for everything that is done.
Say = Callable[[str], None]


def search(
    evaluator: Evaluator,
    budget: Budget,
    *,
    study: str | Path | None = None,
    name: str = "search",
    effort: Effort | None = None,
    seed: int = 0,
    time_limit: float | None = None,
    sampler: str = "nsga2",
    margin: float = MARGIN,
    say: Say | None = None,
) -> Found:
    """Search for the strategy from which the attacker gains least within a budget.

    With the same study it goes on where it was; several processes may do so at once. With one worker and one seed
    it finds the same again, however often it is interrupted (but for figures that are not the same again).

    Args:
        evaluator: finds out what strategies cost and achieve, and tells what can be chosen.
        budget: what the strategy may cost.
        study: a file, or a database's URL; None keeps nothing.
        name: of the search in ``study``.
        effort: how much is tried.
        seed: of everything that is drawn here.
        time_limit: seconds after which nothing new is begun that is expected to take longer than is left.
        sampler: ``nsga2``, ``tpe`` or ``random``: who proposes what to estimate.
        margin: attacker's gains no further apart count as equal.
        say: told what is done, a line each.

    Raises:
        SearchError: the study is of something else or cannot be opened; the evaluator's figures lack something, or
            it fails again and again.
    """
    book = Book(study, name)
    book.bind(evaluator, seed, budget)
    effort, say = effort or Effort(), say or (lambda _: None)
    complete = _Search(book, evaluator, budget, effort, seed, time_limit, sampler, say).run()
    return found_in(book, budget, margin=margin, complete=complete)


def found_in(book: Book, budget: Budget, *, margin: float = MARGIN, complete: bool = False) -> Found:
    """What a study holds so far."""
    proxies, trainings = ([r for r in book.records(stage) if r.figures] for stage in (Stage.PROXY, Stage.TRAINING))
    return Found(
        front=front_of(trainings or proxies),
        choice=choose([*trainings, *proxies], budget, margin),
        estimates=len({record.strategy for record in book.records(Stage.ESTIMATE)}),
        proxies=len(proxies),
        trainings=len(trainings),
        cost=len(trainings) + float(book.about.get("proxy_share", 1.0)) * len(proxies),
        complete=complete,
        study=book,
    )


class _Search:
    """One worker."""

    def __init__(
        self, book: Book, evaluator: Evaluator, budget: Budget, effort: Effort, seed: int,
        time_limit: float | None, sampler: str, say: Say,
    ) -> None:  # fmt: skip
        self._book, self._evaluator, self._budget = book, evaluator, budget
        self._effort, self._say = effort, say
        self._proposer = Proposer(book, evaluator, budget, seed=seed, sampler=sampler)
        self._end = None if time_limit is None else time.monotonic() + time_limit
        self._limit = time_limit
        self._failures = 0

    def run(self) -> bool:
        """Work until all is done or time is up; whether all is done."""
        while True:
            self._book.release()
            self._proposer.refresh()
            proxies, trainings = self._proposer.proxies, self._proposer.trainings
            done = sum(record.state != "running" for record in proxies)
            if len(trainings) < self._effort.due(done):
                point = self._proposer.next_training(self._proposer.forecast())
                if point is not None:
                    if not self._in_time(Stage.TRAINING, proxies, trainings):
                        return False
                    self._work(Stage.TRAINING, point)
                    continue
            if len(proxies) < self._effort.proxies:
                if not self._in_time(Stage.PROXY, proxies, trainings):
                    return self._late(proxies, trainings)
                point = self._next_proxy(len(proxies))
                if point is not None:
                    self._work(Stage.PROXY, point)
                    continue
            if not any(record.state == "running" for record in (*proxies, *trainings)):
                return self._finish(trainings)
            if self._left() <= 0:
                return False
            time.sleep(WAIT_S)  # for what others find: it may be worth a training

    def _finish(self, trainings: list[Record]) -> bool:
        """Spend trainings that are left, as where the space ran out of strategies before the proxies were spent."""
        while len(trainings) < self._effort.trainings:
            point = self._proposer.next_training(self._proposer.forecast())
            if point is None:
                break
            if not self._in_time(Stage.TRAINING, self._proposer.proxies, trainings):
                return False
            self._work(Stage.TRAINING, point)
            self._proposer.refresh()
            trainings = self._proposer.trainings
        return True

    def _late(self, proxies: list[Record], trainings: list[Record]) -> bool:
        """There is no time for a further proxy: train the best that there is, if nothing was trained. Returns False."""
        if not trainings and self._in_time(Stage.TRAINING, proxies, trainings):
            point = self._proposer.next_training(self._proposer.forecast())
            if point is not None:
                self._work(Stage.TRAINING, point)
        return False

    def _next_proxy(self, turn: int) -> Point | None:
        effort = self._effort
        forecast = self._proposer.forecast()
        # a quarter of the estimates are spent before the first proxy, the others where forecasts point to
        first = effort.estimates // 4
        target = first + (effort.estimates - first) * (turn + 1) // effort.proxies
        if target > self._proposer.estimates:
            self._proposer.seek(forecast, target, turn, self._enough(turn))
            self._say(f"{self._proposer.estimates} strategies estimated")
        known = forecast if turn >= effort.spread else None
        return self._proposer.next_proxy(known, turn, effort.spread, max(effort.spread, effort.proxies // 2))

    def _enough(self, turn: int) -> Callable[[], bool]:
        """Whether estimates have taken their share of the time limit."""
        if self._limit is None:
            return lambda: False
        took = [record.seconds for record in self._proposer.proxies if record.figures]
        share = BETWEEN * sum(took) / len(took) if turn and took else ESTIMATING * self._limit
        end = time.monotonic() + min(share, max(0.0, self._left()))
        return lambda: time.monotonic() >= end

    def _work(self, stage: Stage, point: Point) -> None:
        evaluate = self._evaluator.proxy if stage is Stage.PROXY else self._evaluator.train
        limit = self._effort.proxies if stage is Stage.PROXY else self._effort.trainings
        briefly = "briefly" if stage is Stage.PROXY else "in full"
        begun = len(self._proposer.proxies if stage is Stage.PROXY else self._proposer.trainings)
        place = f"{briefly}, {begun + 1} of {limit}{self._outlook()}"
        self._say(f"training {place}: {self._evaluator.space.build(point)}")
        record = self._book.work(stage, point, self._evaluator.space, evaluate, self._budget, limit=limit)
        if record is None:
            return
        if record.figures is None:
            self._failures += 1
            self._say(f"{stage.value} {record.number}: {record.strategy}: failed: {record.reason}")
            if self._failures >= FAILURES:
                raise SearchError(
                    f"{self._failures} trainings failed one after the other, the last with: {record.reason}",
                    "mend that, then run the search again",
                )
            return
        self._failures = 0
        self._say(f"{stage.value} {record.number}: {record.strategy}: {tell(record.figures)}")

    def _outlook(self) -> str:
        """How long all that is left will take, once something tells."""
        proxies, trainings = self._proposer.proxies, self._proposer.trainings
        short, long = self._takes(proxies, trainings)
        if not short:
            return ""
        left = short * max(0, self._effort.proxies - len(proxies))
        left += long * max(0, self._effort.trainings - len(trainings))
        return f", about {max(1, round(min(left, self._left()) / 60))} min left"

    def _takes(self, proxies: list[Record], trainings: list[Record]) -> tuple[float, float]:
        """Seconds of a proxy and of a training; 0 where nothing tells."""
        short = [record.seconds for record in proxies if record.figures]
        long = [record.seconds for record in trainings if record.figures]
        proxy = sum(short) / len(short) if short else 0.0
        return proxy, sum(long) / len(long) if long else proxy / max(1e-6, self._evaluator.proxy_share)

    def _left(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()

    def _in_time(self, stage: Stage, proxies: list[Record], trainings: list[Record]) -> bool:
        """Whether there is time for one more; a proxy must leave the time for a first training."""
        if self._end is None:
            return True
        proxy, training = self._takes(proxies, trainings)
        needed = training if stage is Stage.TRAINING else proxy + (0.0 if trainings else training)
        return self._left() > needed

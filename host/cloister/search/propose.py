# SPDX-License-Identifier: BSD-2-Clause
"""What to try next: very many estimates, of which the most promising are worth a training."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from cloister.errors import CloisterError, PassingError
from cloister.protect.strategy import Strategy
from cloister.search.book import Book, Record, quiet
from cloister.search.budget import Budget
from cloister.search.choose import gain
from cloister.search.errors import SearchError
from cloister.search.figures import COSTS, Evaluator, Figures, Stage
from cloister.search.space import Point
from cloister.search.surrogate import ERRORS, Array, Encoder, Forecast, Sample, bend, costs

#: What can propose strategies; each is Optuna's.
SAMPLERS = ("nsga2", "tpe", "random")
POPULATION = 24
#: Strategies that were estimated already are proposed again at no cost, but not for ever: proposals for each estimate.
PATIENCE = 5
#: Standard deviations by which a forecast is believed to be better than its mean, where strategies are sought.
HOPE = 1.0
#: What overhead counts beside the gain. From 0.1 to 1 % it is then worth a little less than the margin of gains.
THRIFT = 0.03
#: The aim of nothing: worse than any strategy's.
NO_AIM = bend(20.0)
#: Of every so many trainings one is spent on a kind of backbone that was not trained in full yet, if its chance to keep
#: the budget is no less than this: what its short trainings are worth can be learned in no other way.
KIND_EVERY, KIND_CHANCE = 3, 0.1
#: Of every so many proxies one is spent on the front as a whole instead of on the strategy that would be chosen.
FRONT_EVERY = 4


@dataclass(frozen=True)
class Candidate:
    """A strategy with its estimate and what is forecast of it.

    Attributes:
        point, strategy, estimate: of the strategy.
        lost, gain: mean and standard deviation on the bent scale; None while there is nothing to forecast from.
    """

    point: Point
    strategy: Strategy
    estimate: Figures
    lost: tuple[float, float] | None = None
    gain: tuple[float, float] | None = None

    def likely(self, budget: Budget) -> float:
        """The probability that it keeps the budget. Costs that an estimate tells, with its error, are yes or no."""
        if not budget.fits(_without_accuracy(self.estimate), doubt=True):
            return 0.0
        if budget.accuracy is None or self.lost is None:
            return 1.0
        mean, deviation = self.lost
        return _below((bend(budget.accuracy) - mean) / deviation)

    def improvement(self, best: float) -> float:
        """By how much its :func:`aim` is expected to be below ``best``; a gain below 1 is worth no more than 1."""
        if self.gain is None:
            return 0.0
        most = best - aim(0.0, self.estimate)
        return max(0.0, _below_by(most, *self.gain) - _below_by(bend(1.0), *self.gain)) if most > bend(1.0) else 0.0


def aim(bent_gain: float, figures: Figures) -> float:
    """What the chosen strategy has least of: the attacker's gain, bent, and of equal gains the overhead."""
    return bent_gain + THRIFT * costs(figures)[0]


def _below_by(value: float, mean: float, deviation: float) -> float:
    """By how much a normal variable is expected to be below a value."""
    z = (value - mean) / deviation
    return deviation * (z * _below(z) + math.exp(-z * z / 2) / math.sqrt(2 * math.pi))


def _below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _without_accuracy(figures: Figures) -> Figures:
    return Figures(figures.overhead, figures.memory, figures.boundary, error=figures.error)


def _backbone(strategy: Strategy) -> str:
    return strategy.backbone if strategy.kind == "mirror" else strategy.kind


class Proposer:
    """Finds strategies for proxies and trainings in what the book knows."""

    def __init__(self, book: Book, evaluator: Evaluator, budget: Budget, *, seed: int, sampler: str = "nsga2") -> None:
        if sampler not in SAMPLERS:
            raise SearchError(f"there is no sampler {sampler!r}", f"choose one of {', '.join(SAMPLERS)}")
        self._book, self._evaluator, self._space, self._budget = book, evaluator, evaluator.space, budget
        self._seed, self._sampler = seed, sampler
        self._encoder = Encoder(evaluator.space)
        self._estimates: dict[Strategy, Record] = {}
        self._seen = 0
        #: As of the last :meth:`refresh`.
        self.proxies: list[Record] = []
        self.trainings: list[Record] = []

    def refresh(self) -> None:
        """Take in what this and other workers have found."""
        records = self._book.records(Stage.ESTIMATE)
        for record in records[self._seen :]:
            self._estimates.setdefault(record.strategy, record)
        self._seen = len(records)
        self.proxies, self.trainings = self._book.records(Stage.PROXY), self._book.records(Stage.TRAINING)

    def estimate(self, point: Point, turn: int = 0) -> Record:
        """The estimate of a point: the one that is known of its strategy, or a new one, which is kept."""
        strategy = self._space.build(point)
        if strategy not in self._estimates:
            began = time.monotonic()
            found: Figures | str
            try:
                found = self._evaluator.estimate(strategy)
                found.check([objective.key for objective in COSTS])
            except (SearchError, PassingError):
                raise
            except CloisterError as error:
                found = error.message
            self._estimates[strategy] = self._book.add_estimate(
                point, strategy, found, seconds=time.monotonic() - began, turn=turn
            )
        return self._estimates[strategy]

    @property
    def estimates(self) -> int:
        """How many strategies were estimated."""
        return len(self._estimates)

    def forecast(self) -> Forecast | None:
        """What can be learned from all proxies and trainings; None before there are three."""
        samples: dict[Strategy, Sample] = {}
        for stage, records in ((Stage.PROXY, self.proxies), (Stage.TRAINING, self.trainings)):
            for record in records:
                if record.figures is None:
                    continue
                before = samples.get(record.strategy)
                estimate = before.estimate if before else self.estimate(record.point).figures
                if estimate is None:
                    continue
                proxy = record.figures if stage is Stage.PROXY else before.proxy if before else None
                training = record.figures if stage is Stage.TRAINING else None
                samples[record.strategy] = Sample(record.strategy, estimate, proxy, training)
        return Forecast(list(samples.values()), self._encoder) if len(samples) >= 3 else None

    def candidates(self, forecast: Forecast | None, records: Sequence[Record]) -> list[Candidate]:
        """Those of the records that could be estimated, with their forecasts."""
        known = [(record, self.estimate(record.point).figures) for record in records]
        pairs = [(record, figures) for record, figures in known if figures is not None]
        if forecast is None or not pairs:
            return [Candidate(record.point, record.strategy, figures) for record, figures in pairs]
        rows = [(record.strategy, figures) for record, figures in pairs]
        lost, gains = forecast("lost", rows), forecast("gain", rows)
        return [
            Candidate(
                record.point, record.strategy, figures, (float(lost[0][i]), float(lost[1][i])),
                (float(gains[0][i]), float(gains[1][i])),
            )
            for i, (record, figures) in enumerate(pairs)
        ]  # fmt: skip

    def seek(self, forecast: Forecast | None, target: int, turn: int, late: Callable[[], bool]) -> None:
        """Estimate strategies until so many are: where the sampler, on what is forecast, expects the front.

        The sampler works on a study in memory, which follows from the seed, the turn, and what was estimated in
        earlier turns. So a search that was interrupted in the midst of it proposes the same again, and only estimates
        need be kept.
        """
        if turn == 0:
            for ladder in self._space.ladders:
                self._step(ladder)
        earlier = [record for record in self._estimates.values() if record.turn < turn]
        count = target - len(earlier)
        with quiet():
            study = optuna.create_study(
                directions=["minimize"] * (2 if forecast is None else 5), sampler=self._make_sampler(turn)
            )
        for point in self._seeds(forecast, turn, earlier):
            study.enqueue_trial(dict(point))

        def objective(trial: optuna.trial.Trial) -> list[float]:
            record = self.estimate(self._space.suggest(trial), turn)
            if record.figures is None:
                raise optuna.TrialPruned(record.reason)
            return self._values(trial, forecast, record)

        with quiet():
            for _ in range(PATIENCE * count):
                if self.estimates >= target or late():
                    break
                study.optimize(objective, n_trials=1)

    def _step(self, ladder: Sequence[Point]) -> Strategy | None:
        """The first of a ladder that keeps the budget's costs; None where none does. Those before it are estimated."""
        for point in ladder:
            record = self.estimate(point)
            if record.figures is not None and self._budget.fits(_without_accuracy(record.figures), doubt=True):
                return record.strategy
        return None

    def _make_sampler(self, turn: int) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self._seed, turn]).generate_state(1)[0])
        if self._sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if self._sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=POPULATION)
        return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)

    def _seeds(self, forecast: Forecast | None, turn: int, earlier: Sequence[Record]) -> list[Point]:
        """What the sampler begins from: half of it known to be good, half that with one or two things changed."""
        if forecast is None:
            return []
        known = self.candidates(forecast, earlier)
        best = self._best_aim(forecast)
        worth = {item.strategy: item.likely(self._budget) * item.improvement(best) for item in known}
        known.sort(key=lambda item: -worth[item.strategy])
        tried = {record.strategy for record in (*self.proxies, *self.trainings)}
        mine = [item for item in known if item.strategy in tried]
        # what achieves most, whatever it costs: something cheaper may lie beside it
        achieved = sorted(mine, key=self._achieved)[: POPULATION // 6]
        models = [*mine[: POPULATION // 6], *achieved, *known[: POPULATION // 6]]
        draw = np.random.default_rng([self._seed, turn, 1])
        changed = [self._changed(models[place % len(models)].point, draw) for place in range(POPULATION // 2)]
        return [*(item.point for item in known[: POPULATION // 2]), *changed]

    def _achieved(self, item: Candidate) -> tuple[float, float, float]:
        """Accuracy that it is forecast to lose beyond the budget, the attacker's gain, and the overhead."""
        assert item.lost is not None and item.gain is not None
        limit = 0.0 if self._budget.accuracy is None else bend(self._budget.accuracy)
        return max(0.0, item.lost[0] - limit), max(bend(1.0), item.gain[0]), item.estimate.overhead

    def _changed(self, point: Point, draw: np.random.Generator) -> Point:
        """The point with one or two parameters drawn anew, until it is another strategy."""
        changed = dict(point)
        for _ in range(PATIENCE):
            for name in draw.choice(sorted(self._space.choices), size=int(draw.integers(1, 3)), replace=False):
                values = self._space.choices[name]
                changed[name] = values[int(draw.integers(len(values)))]
            if self._space.build(changed) != self._space.build(point):
                break
        return changed

    def _values(self, trial: optuna.trial.Trial, forecast: Forecast | None, record: Record) -> list[float]:
        figures = record.figures
        assert figures is not None
        price = costs(figures)
        for key, value in self._budget.excess(_without_accuracy(figures), doubt=True).items():
            trial.set_constraint(key, value)
        if forecast is None:
            # nothing is known of what they achieve: every strategy within the budget is as good, cheap or dear
            return [price[0], -price[0]]
        candidate = self.candidates(forecast, [record])[0]
        assert candidate.lost is not None and candidate.gain is not None
        lost, gained = (mean - HOPE * deviation for mean, deviation in (candidate.lost, candidate.gain))
        if self._budget.accuracy is not None:
            trial.set_constraint("accuracy", lost - bend(self._budget.accuracy))
        return [lost, *price, aim(max(bend(1.0), gained), figures)]

    def next_proxy(self, forecast: Forecast | None, turn: int, start: int, opening: int) -> Point | None:
        """The strategy that is most worth a proxy; None where none is left that could keep the budget.

        Args:
            forecast: from what is known.
            turn: number of proxies so far.
            start: as many proxies are spread over the space before forecasts are trusted.
            opening: as many of the first may be spent on the space's ladders.
        """
        taken = {record.strategy for record in self.proxies}
        free = [record for record in self._estimates.values() if record.strategy not in taken]
        known = self.candidates(forecast, free)
        likely = {candidate.strategy: candidate.likely(self._budget) for candidate in known}
        known = [candidate for candidate in known if likely[candidate.strategy] > 0]
        if not known:
            return None
        if turn < opening:
            by_strategy = {candidate.strategy: candidate.point for candidate in known}
            for ladder in self._space.ladders:
                rung = self._step(ladder)
                if rung in by_strategy:
                    return by_strategy[rung]
        if turn < start or forecast is None:
            return self._spread(known, taken).point
        if turn % FRONT_EVERY == 0:
            return self._towards_front(known, likely, turn).point
        best = self._best_aim(forecast)
        return max(known, key=lambda item: likely[item.strategy] * item.improvement(best)).point

    def _spread(self, known: Sequence[Candidate], taken: set[Strategy]) -> Candidate:
        """Of the backbone that was tried least.

        Of a backbone that was not tried at all the most ordinary strategy, since ends of scales are seldom good; of
        others the one that is least like anything that was tried.
        """
        tried = Counter(_backbone(strategy) for strategy in taken)
        least = min(tried[_backbone(candidate.strategy)] for candidate in known)
        known = [candidate for candidate in known if tried[_backbone(candidate.strategy)] == least]
        own = np.hstack(self._encoder([(candidate.strategy, candidate.estimate) for candidate in known]))
        past = [self._estimates[strategy] for strategy in taken if strategy in self._estimates]
        there = [(record.strategy, record.figures) for record in past if record.figures is not None]
        if not least or not there:
            return known[int(((own - own.mean(0, keepdims=True)) ** 2).sum(1).argmin())]
        theirs = np.hstack(self._encoder(there))
        nearest = ((own[:, None, :] - theirs[None, :, :]) ** 2).sum(2).min(1)
        return known[int(nearest.argmax())]

    def _towards_front(self, known: Sequence[Candidate], likely: dict[Strategy, float], turn: int) -> Candidate:
        """The best for weights of the objectives that are drawn (J. Knowles, "ParEGO", 2006)."""
        weights = np.random.default_rng([self._seed, turn]).dirichlet(np.ones(5))
        rows: list[list[float]] = []
        for candidate in known:
            assert candidate.lost is not None and candidate.gain is not None
            lost, gained = (mean - HOPE * deviation for mean, deviation in (candidate.lost, candidate.gain))
            rows.append([lost, *costs(candidate.estimate), gained])
        values: Array = np.array(rows)
        values = (values - values.min(0)) / np.maximum(1e-9, values.max(0) - values.min(0))
        worth = (weights * values).max(1) + 0.05 * (values @ weights)
        chances = np.array([likely[candidate.strategy] for candidate in known])
        return known[int((worth + np.where(chances < 0.5 * chances.max(), 10.0, 0.0)).argmin())]

    def _trained_aim(self) -> list[float]:
        """Of the trainings within the budget."""
        return [
            aim(bend(gain(record.figures)), record.figures)
            for record in self.trainings
            if record.figures is not None and self._budget.fits(record.figures)
        ]

    def _best_aim(self, forecast: Forecast) -> float:
        """The least aim of a training within the budget, or of a proxy that is forecast to become one."""
        hoped = [
            aim(max(bend(1.0), candidate.gain[0]), candidate.estimate)
            for candidate in self._proxied(forecast)
            if candidate.gain is not None and candidate.likely(self._budget) >= 0.5
        ]
        return min([*self._trained_aim(), *hoped], default=NO_AIM)

    def next_training(self, forecast: Forecast | None) -> Point | None:
        """Of the strategies with a proxy the one most worth a training; None where none is left.

        The best expected improvement on what was trained, times the chance to keep the budget; now and then the best
        chance to among backbones of another kind than those that were trained.
        """
        taken = {record.strategy for record in self.trainings}
        known = [item for item in self._proxied(forecast) if item.strategy not in taken]
        if not known:
            return None
        likely = {item.strategy: item.likely(self._budget) for item in known}
        if len(taken) % KIND_EVERY == KIND_EVERY - 1:
            kinds = {_backbone(strategy) for strategy in taken}
            new = [item for item in known if _backbone(item.strategy) not in kinds]
            if new and max(likely[item.strategy] for item in new) >= KIND_CHANCE:
                return max(new, key=lambda item: likely[item.strategy]).point
        best = min(self._trained_aim(), default=NO_AIM)
        worth = {item.strategy: likely[item.strategy] * item.improvement(best) for item in known}
        return max(known, key=lambda item: (worth[item.strategy], likely[item.strategy])).point

    def _proxied(self, forecast: Forecast | None) -> list[Candidate]:
        """The strategies with a proxy: with its costs, and what it tells of a training instead of what others do."""
        found = []
        for record in self.proxies:
            if record.figures is None or record.figures.lost is None or record.figures.gain is None:
                continue
            known = (bend(record.figures.lost), ERRORS["lost"]), (bend(record.figures.gain), ERRORS["gain"])
            if forecast is not None:
                known = forecast.of_proxy("lost", record.figures), forecast.of_proxy("gain", record.figures)
            found.append(Candidate(record.point, record.strategy, record.figures, *known))
        return found

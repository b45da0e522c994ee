# SPDX-License-Identifier: BSD-2-Clause
"""Forecasts of what only training tells, learned from the strategies that were trained so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cloister.protect.strategy import IMAGE, Strategy
from cloister.search.figures import Figures
from cloister.search.space import Space

Array = NDArray[np.float64]

#: Length scales of the strategy's features and of its costs, and shares of noise, of which the likelihood chooses.
LENGTHS, COST_LENGTHS, NOISES = (1.0, 2.0, 4.0), (0.3, 1.0, 3.0), (1e-3, 3e-2, 0.3)
#: Shares of a linear trend.
TRENDS = (0.0, 0.5)


def bend(value: float) -> float:
    """A figure on a scale on which differences of large values count less; keeps order, sign and 0."""
    return math.copysign(math.log1p(abs(value)), value)


def unbend(value: float) -> float:
    """The inverse of :func:`bend`."""
    return math.copysign(math.expm1(abs(value)), value)


def describe(strategy: Strategy) -> dict[str, float]:
    """A strategy as named numbers of about the same size; names that are missing are 0."""
    if strategy.kind == "whole":
        found = {"whole": 1.0}
    else:
        found = {f"tap {name}": 1.0 for name in strategy.taps}
        found |= {
            f"{key} {getattr(strategy, key)}": 0.7
            for key in ("backbone", "tail", "operator", "merge", "head", "pool_kind", "select")
        }
        found |= {
            "backbone_width": strategy.backbone_width,
            "taps": len(strategy.taps) / 4,
            "cpm_width": math.log2(strategy.cpm_width) / 4,
            "cpm_depth": strategy.cpm_depth / 2,
            "pool": math.log2(strategy.pool) / 3,
            "channels": math.log2(strategy.channels) / 3,
        }
    found[f"precision {strategy.precision}"] = 0.7
    found["pruned"] = 0.0 if strategy.pruned is None else -math.log2(strategy.pruned) / 2
    for key, share in zip(("turned", "constant"), strategy.lock or (0.0, 0.0), strict=True):
        found[key] = share
    return found


#: Points that a pair loses, bent, and what its features (:func:`describe`) change them by. Learned by ridge regression
#: from 188 short trainings on digits, seeds 0 and 1 of the comparison with the grid, and rounded: half of their
#: variance. Pruning is a guess.
PAIR_LOSES = 4.2
LOSES = {
    "cpm_width": -0.7, "backbone_width": -1.8, "taps": -0.7, "channels": -0.5, "pool": 0.2, "head average": 1.0,
    "operator conv1x1": 0.8, "operator separable": 0.9, "backbone random": 0.7, "pruned": 1.2,
}  # fmt: skip


def expected_loss(strategy: Strategy) -> float:
    """A guess at the points that a strategy loses, bent, before anything is trained: what is thrown away is lost."""
    row = describe(strategy)
    if strategy.taps == (IMAGE,):
        row.pop("backbone random", None)  # it has none
    found = sum(LOSES.get(name, 0.0) * value for name, value in row.items())
    return max(0.0, found + (PAIR_LOSES if strategy.kind == "mirror" else 0.0))


def costs(figures: Figures) -> list[float]:
    """What it costs, on scales on which a factor is a difference."""
    return [
        math.asinh(figures.overhead / 0.01) / 3,
        math.log2(max(1, figures.memory)) / 4,
        math.log2(1 + max(0, figures.boundary)) / 4,
    ]


class Encoder:
    """Strategies and their estimated costs as rows of numbers."""

    def __init__(self, space: Space) -> None:
        """Names everything that strategies of the space can have, by changing one parameter after the other."""
        plain = {name: values[0] for name, values in space.choices.items()}
        near = [
            space.build({**point, name: value})
            for point in (*space.anchors, plain)
            for name, values in space.choices.items()
            for value in values
        ]
        self._names = sorted({name for strategy in near for name in describe(strategy)})

    def __call__(self, pairs: Sequence[tuple[Strategy, Figures]]) -> tuple[Array, Array]:
        """Features (n, number of names) and costs (n, 3)."""
        rows = [describe(strategy) for strategy, _ in pairs]
        features = np.array([[row.get(name, 0.0) for name in self._names] for row in rows])
        return features.reshape(len(pairs), len(self._names)), np.array([costs(f) for _, f in pairs]).reshape(-1, 3)


def _squares(left: Array, right: Array) -> Array:
    found: Array = np.maximum(0.0, (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * (left @ right.T))
    return found


def _matern(squares: Array) -> Array:
    distance = np.sqrt(5 * squares)
    found: Array = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return found


class Process:
    """A Gaussian process (C. Rasmussen and C. Williams, "Gaussian Processes for Machine Learning", 2006).

    Its kernel is a Matern 5/2 one beside a linear one; its lengths, noise and trend are those of a few that make what
    was seen most likely.
    """

    def __init__(self, rows: tuple[Array, Array], values: Array) -> None:
        self._rows = rows
        self._middle = np.hstack(rows).mean(0)
        self._mean, self._scale = float(values.mean()), float(values.std()) or 1.0
        seen = (values - self._mean) / self._scale
        features, prices = _squares(rows[0], rows[0]), _squares(rows[1], rows[1])
        linear = self._linear(rows, rows)
        best = -math.inf
        for length, price, noise, trend in product(LENGTHS, COST_LENGTHS, NOISES, TRENDS):
            kernel = (1 - trend) * _matern(features / length**2 + prices / price**2) + trend * linear
            try:
                lower = np.linalg.cholesky((1 - noise) * kernel + (noise + 1e-8) * np.eye(len(seen)))
            except np.linalg.LinAlgError:
                continue
            weights = np.linalg.solve(lower.T, np.linalg.solve(lower, seen))
            likelihood = -0.5 * float(seen @ weights) - float(np.log(np.diag(lower)).sum())
            if likelihood > best:
                best, self._lower, self._weights = likelihood, lower, weights
                self._lengths, self._noise, self._trend = (length, price), noise, trend

    def _linear(self, left: tuple[Array, Array], right: tuple[Array, Array]) -> Array:
        """So that a row as far from the middle as those that were seen has a variance of about 1."""
        spread = ((np.hstack(self._rows) - self._middle) ** 2).sum(1).mean() or 1.0
        found: Array = (np.hstack(left) - self._middle) @ (np.hstack(right) - self._middle).T / spread
        return found

    def __call__(self, rows: tuple[Array, Array]) -> tuple[Array, Array]:
        """Mean and standard deviation (n,) of what the function is at ``rows``, without the noise of a measurement."""
        pairs = zip(rows, self._rows, self._lengths, strict=True)
        squares = np.asarray(sum(_squares(new, old) / length**2 for new, old, length in pairs))
        own = ((np.hstack(rows) - self._middle) ** 2).sum(1)
        spread = ((np.hstack(self._rows) - self._middle) ** 2).sum(1).mean() or 1.0
        prior = (1 - self._noise) * ((1 - self._trend) + self._trend * own / spread)
        cross = (1 - self._noise) * (
            (1 - self._trend) * _matern(squares) + self._trend * self._linear(rows, self._rows)
        )
        solved = np.linalg.solve(self._lower, cross.T)
        variance = np.maximum(1e-6, prior - (solved**2).sum(0))
        return self._mean + self._scale * (cross @ self._weights), self._scale * np.sqrt(variance)


@dataclass(frozen=True)
class Sample:
    """A strategy that was trained: its estimate, and what a proxy and a training found of it, where there was one."""

    strategy: Strategy
    estimate: Figures
    proxy: Figures | None = None
    training: Figures | None = None


#: How strongly a proxy's figures are believed to differ from a training's by the same everywhere, in squares of theirs.
STEADY = {"lost": 1.0, "gain": 0.1}
#: What such a translation is usually wrong by, bent.
ERRORS = {"lost": 0.5, "gain": 0.05}


@dataclass(frozen=True)
class Translation:
    """What a training finds from what a proxy found: a line through the strategies that were trained in both ways.

    A short training loses more accuracy than a full one, and the more the harder a strategy is to train. With few
    pairs the slope stays near 1 (ridge regression), with none nothing is changed.

    Attributes:
        slope, proxy, training: of the line, and a point on it.
        error: standard deviation of trainings from the line.
    """

    slope: float = 1.0
    proxy: float = 0.0
    training: float = 0.0
    error: float = 1.0

    @classmethod
    def of(cls, key: str, samples: Sequence[Sample]) -> Translation:
        """Learned from the samples that have both."""
        pairs = [
            (getattr(sample.proxy, key), getattr(sample.training, key))
            for sample in samples
            if sample.proxy is not None and sample.training is not None
        ]
        if not pairs:
            return cls(error=ERRORS[key])
        short, long = np.array(pairs).T
        x, y = short - short.mean(), long - long.mean()
        slope = min(2.0, max(0.1, float((x @ y + STEADY[key]) / (x @ x + STEADY[key]))))
        made = cls(slope, float(short.mean()), float(long.mean()))
        # as if two pairs more had been as far from the line as is usual
        squares = sum((made(before) - bend(after)) ** 2 for before, after in pairs) + 2 * ERRORS[key] ** 2
        return replace(made, error=math.sqrt(squares / (len(pairs) + 2)))

    def __call__(self, value: float) -> float:
        """The training's figure, bent, from the proxy's."""
        return bend(self.training + self.slope * (value - self.proxy))


class Forecast:
    """What full trainings would find, from estimates, proxies and trainings; on the bent scale."""

    def __init__(self, samples: Sequence[Sample], encoder: Encoder) -> None:
        self._encoder = encoder
        self._processes = {}
        self._translations = {key: Translation.of(key, samples) for key in ("lost", "gain")}
        #: The estimates have a guess of their own for these: only what it misses is learned.
        self._guessed = {
            key: all(getattr(sample.estimate, key) is not None for sample in samples) for key in ("lost", "gain")
        }
        for key in ("lost", "gain"):
            translate = self._translations[key]
            pairs, values = [], []
            for sample in samples:
                known = bend(getattr(sample.training, key)) if sample.training is not None else None
                if known is None and sample.proxy is not None:
                    known = translate(getattr(sample.proxy, key))
                if known is not None:
                    pairs.append((sample.strategy, sample.estimate))
                    values.append(known - self._guess(key, sample.strategy, sample.estimate))
            self._processes[key] = Process(self._encoder(pairs), np.array(values))

    def _guess(self, key: str, strategy: Strategy, estimate: Figures) -> float:
        value = getattr(estimate, key)
        if self._guessed[key] and value is not None:
            return bend(value)
        return expected_loss(strategy) if key == "lost" else 0.0

    def of_proxy(self, key: str, proxy: Figures) -> tuple[float, float]:
        """Mean and standard deviation of what a full training finds of a strategy with that proxy, bent."""
        translate = self._translations[key]
        return translate(getattr(proxy, key)), translate.error

    def __call__(self, key: str, pairs: Sequence[tuple[Strategy, Figures]]) -> tuple[Array, Array]:
        """Mean and standard deviation (n,) of ``lost`` or ``gain``, bent, of strategies with their estimates."""
        mean, deviation = self._processes[key](self._encoder(pairs))
        return mean + np.array([self._guess(key, *pair) for pair in pairs]), deviation

# SPDX-License-Identifier: BSD-2-Clause
"""Guesses and forecasts of what only training tells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from analytic import TAPS, Analytic

from cloister.protect.strategy import Strategy
from cloister.search import Figures
from cloister.search.strategies import strategy_space
from cloister.search.surrogate import Encoder, Forecast, Sample, bend, expected_loss, unbend

PAIR = Strategy(taps=("block1", "block3"), backbone="tampered", cpm_width=8, cpm_depth=1, precision="int8")
SEVERAL = [replace(PAIR, cpm_width=width, cpm_depth=depth) for width in (2, 4, 8, 16) for depth in (0, 1)]


def samples(worse: float, trained: int) -> list[Sample]:
    """Proxies that lose so much more than trainings, which only some had."""
    found = []
    for place, strategy in enumerate(SEVERAL):
        full = replace(Analytic().truth(strategy), lost=1.0 + place)
        proxy = replace(full, lost=1.0 + place + worse)
        found.append(Sample(strategy, Analytic().estimate(strategy), proxy, full if place < trained else None))
    return found


def test_what_is_thrown_away_is_expected_to_be_lost() -> None:
    assert expected_loss(Strategy(kind="whole")) == 0 < expected_loss(Strategy(kind="whole", pruned=0.5))
    for poorer in (
        replace(PAIR, cpm_width=2), replace(PAIR, taps=("block3",)), replace(PAIR, channels=0.25),
        replace(PAIR, backbone_width=0.5), replace(PAIR, head="average"), replace(PAIR, pool=8),
        replace(PAIR, backbone="random", tail="short"),
    ):  # fmt: skip
        assert expected_loss(poorer) > expected_loss(PAIR), poorer
    # a monitor of the image alone has no backbone that could be random
    alone = replace(PAIR, taps=("image",), backbone="random", tail="short")
    assert expected_loss(alone) < expected_loss(replace(alone, taps=("block1",)))
    assert expected_loss(replace(alone, backbone="tampered")) == expected_loss(alone)


@pytest.mark.parametrize("worse", [0.0, 3.0])
def test_a_proxy_is_read_as_trainings_have_shown(worse: float) -> None:
    forecast = Forecast(samples(worse, trained=4), Encoder(strategy_space(TAPS)))
    proxy = replace(Analytic().truth(PAIR), lost=5.0 + worse)
    mean, deviation = forecast.of_proxy("lost", proxy)
    assert unbend(mean) == pytest.approx(5.0, abs=0.2)
    assert 0 < deviation < Forecast(samples(worse, trained=0), Encoder(strategy_space(TAPS))).of_proxy("lost", proxy)[1]


def test_an_estimate_s_own_guess_is_taken() -> None:
    def guessed(strategy: Strategy) -> Figures:
        return replace(Analytic().estimate(strategy), lost=7.0, gain=1.5)

    known = [replace(sample, estimate=guessed(sample.strategy)) for sample in samples(0.0, trained=8)]
    exact = [replace(sample, training=replace(sample.estimate, lost=7.0, gain=1.5)) for sample in known]
    far = Strategy(kind="whole")
    mean, _ = Forecast(exact, Encoder(strategy_space(TAPS)))("lost", [(far, guessed(far))])
    assert mean[0] == pytest.approx(bend(7.0), abs=1e-6)

# SPDX-License-Identifier: BSD-2-Clause
"""An evaluator whose figures follow from formulas, so that what a search should find is known."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

from cloister.errors import CloisterError
from cloister.protect.strategy import Strategy
from cloister.search import Figures, Space
from cloister.search.strategies import strategy_space

TAPS = ("image", "block1", "block2", "block3", "logits")
_EXPOSED = {"trained": 1.0, "tampered": 0.35, "truncated": 0.5, "random": 0.0}


class Analytic:
    """Costs grow with the monitor and what crosses; accuracy needs both; exposure is what the backbone tells.

    Args:
        space: instead of all strategies.
        pause: seconds that proxies and trainings take.
        log: file to which a line is added for each evaluation, by all processes.
        pause: called in each proxy and training.
    """

    name = "analytic"
    proxy_share = 0.2

    def __init__(self, log: Path | None = None, space: Space | None = None, pause: float = 0.0) -> None:
        self.pause = pause
        self.space = space or strategy_space(TAPS)
        self.log = log
        self.calls: list[tuple[str, Strategy]] = []

    def note(self, stage: str, strategy: Strategy) -> None:
        self.calls.append((stage, strategy))
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps([stage, strategy.digest, os.getpid()]) + "\n")
        if stage != "estimate":
            time.sleep(self.pause)

    def costs(self, strategy: Strategy) -> tuple[float, int, int]:
        small = 0.6 if strategy.precision == "int8" else 1.0
        left = 1.0 if strategy.pruned is None else strategy.pruned
        if strategy.kind == "whole":
            return 0.06 * small * left + 0.02, int(3e6 * small * left) + 100_000, 3072
        crossing = sum(
            3072 if tap == "image" else 16384 / strategy.pool**2 * strategy.channels for tap in strategy.taps
        )
        work = strategy.cpm_width ** (1.2 if strategy.operator != "conv3x3" else 1.5) * (1 + strategy.cpm_depth)
        overhead = 0.00003 * work * small * len(strategy.taps) ** 0.5 + 1e-7 * crossing * small + 0.0005
        return overhead, int(80_000 + 1500 * work * small + 2 * crossing * small), int(crossing * small)

    def estimate(self, strategy: Strategy) -> Figures:
        self.note("estimate", strategy)
        if strategy.merge == "concat" and strategy.head == "average" and strategy.cpm_depth == 2:
            raise CloisterError("this cannot be lowered", "none")
        overhead, memory, boundary = self.costs(strategy)
        return Figures(overhead, memory, boundary, error=0.03 * overhead)

    def truth(self, strategy: Strategy) -> Figures:
        overhead, memory, boundary = self.costs(strategy)
        left = 1.0 if strategy.pruned is None else strategy.pruned
        lost = 0.3 * max(0.0, -math.log2(left)) ** 2
        if strategy.kind == "whole":
            gain = 1.0
        else:
            seen = sum(
                {"image": 1.0, "block1": 0.9, "block2": 1.0, "block3": 1.2, "logits": 0.5}[t] for t in strategy.taps
            )
            seen *= (0.6 + 0.4 * strategy.channels) / (1 + 0.08 * math.log2(strategy.pool))
            strength = math.log2(strategy.cpm_width) * (1 + 0.5 * strategy.cpm_depth)
            usable = 0.4 + 0.6 * _EXPOSED[strategy.backbone]
            lost += 12 * math.exp(-0.35 * strength * usable * (0.5 + seen)) - 0.2
            gain = 1 + 1.5 * _EXPOSED[strategy.backbone] * (0.4 + 0.6 * strategy.backbone_width)
            gain -= 0.2 * (strategy.tail == "short") * _EXPOSED[strategy.backbone]
        if strategy.lock is not None:
            lost, gain = lost + 0.2, 1 + (gain - 1) * (1 - 0.3 * sum(strategy.lock))
        return Figures(overhead * 1.01, memory, boundary, lost=lost, gain=gain, accuracy=0.92 - lost / 100)

    def proxy(self, strategy: Strategy) -> Figures:
        self.note("proxy", strategy)
        found = self.truth(strategy)
        assert found.lost is not None
        return Figures(
            found.overhead, found.memory, found.boundary, lost=1.3 * found.lost + 1.0, gain=found.gain, accuracy=0.9
        )

    def train(self, strategy: Strategy) -> Figures:
        self.note("train", strategy)
        return self.truth(strategy)


def make() -> Analytic:
    """For ``--evaluator``."""
    return Analytic()


def logged() -> Analytic:
    """For ``--evaluator`` in processes of their own, of which none begins before all are there."""
    log = Path(os.environ["ANALYTIC_LOG"])
    log.with_suffix(f".{os.getpid()}").touch()
    deadline = time.monotonic() + 120
    while len(list(log.parent.glob(f"{log.stem}.*"))) < int(os.environ["ANALYTIC_WORKERS"]):
        assert time.monotonic() < deadline, "the other workers have not come"
        time.sleep(0.02)
    return Analytic(log, pause=float(os.environ["ANALYTIC_PAUSE"]))

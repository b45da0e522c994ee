# SPDX-License-Identifier: BSD-2-Clause
"""Records over seeds: mean and spread, what was aimed at, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloister.protect.results.cases import MODELS, SEEDS
from cloister.protect.results.context import Record

#: Keys whose text tells records of one experiment and network apart, other than the seed.
NAMES = ("variant", "target")


@dataclass(frozen=True)
class Goal:
    """What was aimed at for a network, and what came out.

    Attributes:
        aim: in words.
        model: the network.
        figure: what was measured, as text; empty where nothing was.
        met: for each seed, whether it reached the aim.
        verdict: what to say in place of how many seeds reached it.
        note: what the figure must not be read without, such as how hard attackers tried.
    """

    aim: str
    model: str
    figure: str = ""
    met: Sequence[bool] = ()
    verdict: str = ""
    note: str = ""

    def cell(self) -> str:
        """As in the page's first table."""
        if self.verdict:
            return self.verdict
        if not self.met:
            return "not run"
        if len(self.met) == 1:
            told = f"{self.figure}: {'reached' if self.met[0] else 'missed'}, one seed"
        else:
            told = f"{self.figure}: reached by {sum(self.met)} of {len(self.met)} seeds"
        return told + (f" ({self.note})" if self.note else "")


def aims(goals: Sequence[Goal]) -> list[list[str]]:
    """Rows of the page's first table: an aim, and a cell for each network of :data:`MODELS`."""
    found: dict[str, dict[str, str]] = {}
    for goal in goals:
        found.setdefault(goal.aim, {})[goal.model] = goal.cell()
    return [[aim, *(cells.get(model, "") for model in MODELS)] for aim, cells in found.items()]


def name_of(record: Record) -> str:
    """The lock, criterion or target of a record; empty for a victim."""
    return next((record[key] for key in NAMES if isinstance(record.get(key), str)), "")


def grouped(records: Iterable[Record], names: Sequence[str] = ()) -> dict[tuple[str, str], list[Record]]:
    """Records of one experiment by network and name, seeds in order.

    Args:
        records: of that experiment.
        names: the order of names; others come behind them.
    """
    found: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: int(record["seed"])):
        found.setdefault((record["model"], name_of(record)), []).append(record)
    models, places = ({key: place for place, key in enumerate(keys)} for keys in (MODELS, names))
    return dict(sorted(found.items(), key=lambda item: (models.get(item[0][0], -1), places.get(item[0][1], 99))))


def seeds_of(records: Sequence[Record]) -> str:
    """The records' seeds: ``0, 1, 2``."""
    return ", ".join(str(record["seed"]) for record in records)


def summaries(experiment: str, records: Iterable[Record], figures: Any) -> list[Record]:
    """For each network and name the seeds, and of every figure mean, least and most.

    Args:
        experiment: its name.
        records: of that experiment.
        figures: from a record to its numbers by name.
    """
    lines = []
    for (model, name), own in grouped(records).items():
        values: dict[str, list[float]] = {}
        for record in own:
            for key, value in figures(record).items():
                values.setdefault(key, []).append(float(value))
        lines.append({
            "experiment": experiment, "model": model, "name": name, "seeds": [record["seed"] for record in own],
            "figures": {key: {"mean": sum(found) / len(found), "min": min(found), "max": max(found)}
                        for key, found in values.items()},
        })  # fmt: skip
    return lines


def missing(records: Iterable[Record], wanted: Mapping[str, Any]) -> list[Record]:
    """What a plain run would make and there is no record of: experiment, network, name and seeds.

    Args:
        records: all that there are.
        wanted: by experiment, a function from a network's name to the names of what is run on it.
    """
    there = {(r["experiment"], r["model"], name_of(r), r["seed"]) for r in records}
    lines = []
    for experiment, names in wanted.items():
        for model in MODELS:
            for name in names(model):
                seeds = [seed for seed in SEEDS if (experiment, model, name, seed) not in there]
                if seeds:
                    lines.append({"experiment": experiment, "model": model, "name": name, "seeds": seeds})
    return lines

# SPDX-License-Identifier: BSD-2-Clause
"""How far predictions of strategies were off, from the records of the suite `strategies`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cloister_bench.calibrate import table_text
from cloister_bench.records import Record, write_text

SUITE, PREDICTED = "strategies", ", predicted"
#: What errors are told of, in the order of tables: metrics that are added up, and what they are called.
COMPARED: dict[str, tuple[str, ...]] = {
    "total": ("total",),
    "total, taps one by one": ("staged",),
    "normal world": ("normal",),
    "secure world": ("secure",),
    "boundary": ("boundary",),
    "secure world and boundary": ("secure", "boundary"),
    "unprotected model": ("unprotected",),
    "peak of secure memory": ("peak",),
    "crossings": ("crossings",),
    "crossings, taps one by one": ("staged crossings",),
    "bytes in": ("bytes",),
}


@dataclass(frozen=True)
class Row:
    """One strategy: its name, precision, and all its figures by metric."""

    name: str
    precision: str
    values: dict[str, float]

    def both(self, metrics: Iterable[str]) -> tuple[float, float] | None:
        """Measured and predicted, of all the metrics together; None where one was not measured."""
        names = list(metrics)
        if not all({name, name + PREDICTED} <= self.values.keys() for name in names):
            return None
        return sum(self.values[name] for name in names), sum(self.values[name + PREDICTED] for name in names)

    def error(self, metrics: Iterable[str]) -> float | None:
        """Predicted over measured, less one; None where nothing was measured, or there is nothing to predict."""
        found = self.both(metrics)
        if found is None or max(map(abs, found)) < 0.5:  # differences of counts are not zero to the last digit
            return None
        return found[1] / found[0] - 1 if found[0] else float("inf")


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Strategies in the order in which they were measured."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for record in records:
        if record.suite == SUITE:
            found.setdefault((record.name, record.precision), {})[record.metric] = record.value
    return [Row(*key, values) for key, values in found.items()]


def summary(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """By COMPARED: number of strategies, median and worst of the errors' magnitudes, and the errors' mean."""
    made: dict[str, dict[str, float]] = {}
    for name, metrics in COMPARED.items():
        errors = [error for row in rows if (error := row.error(metrics)) is not None]
        if errors:
            sizes = [abs(error) for error in errors]
            made[name] = {
                "strategies": len(errors),
                "median": float(f"{median(sizes):.4g}"),
                "worst": float(f"{max(sizes):.4g}"),
                "mean": float(f"{sum(errors) / len(errors):.4g}"),
            }
    return made


def keep_evaluation(path: Path, rows: Sequence[Row], source: dict[str, Any]) -> None:
    """Write the errors into the table of constants that the predictions were made with, which tells them from then on.

    Raises:
        CloisterError: the table cannot be written.
    """
    table: dict[str, Any] = json.loads(path.read_text("utf-8"))
    kernels = table.pop("kernels")
    table["evaluation"] = {**source, **summary(rows)}
    write_text(path, table_text({**table, "kernels": kernels}))

# SPDX-License-Identifier: BSD-2-Clause
"""What is kept of a benchmark: records, their file, the history, and the comparison of two runs."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cloister.errors import CloisterError, FormatError

#: A suite of which a run replaces all that an earlier one measured: its members are one list.
TOGETHER = "strategies"
#: Where something ran; "" for what belongs to no place, such as a network's number of multiply-accumulates.
PLACES = ("ta", "normal", "onnxruntime", "")


@dataclass(frozen=True)
class Record:
    """One figure.

    Attributes:
        suite: name of the suite.
        name: network, or kernel and shape.
        where: `ta`, `normal` (the same engine in the normal world), `onnxruntime` (in the normal world), or empty.
        precision: `fp32` or `int8`; empty where it has no meaning.
        metric: what was measured, such as `instructions` or `per_mac`.
        value: the median of the repeats, or what follows from medians.
        unit: of the value.
        spread: largest minus smallest repeat, divided by the median; None for what was not repeated.
    """

    suite: str
    name: str
    where: str
    precision: str
    metric: str
    value: float
    unit: str
    spread: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What names the same figure in another run."""
        return (self.suite, self.name, self.where, self.precision, self.metric)


@dataclass(frozen=True)
class Samples:
    """Repeats of one measurement, each in instructions for one call."""

    calls: Sequence[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.calls)

    @property
    def spread(self) -> float:
        """Largest minus smallest, relative to the median; 0 where nothing was counted."""
        return (max(self.calls) - min(self.calls)) / self.median if self.median else 0.0


def to_json(records: Sequence[Record]) -> str:
    """A JSON list of records, one on each line."""
    rows = [
        json.dumps({name: value for name, value in asdict(record).items() if value is not None}) for record in records
    ]
    return "[\n" + ",\n".join(f"  {row}" for row in rows) + "\n]\n"


def from_json(data: Any, source: str) -> list[Record]:
    """Records from a parsed JSON list; `source` names it in errors.

    Raises:
        FormatError: it is no list of records.
    """
    names = {field.name for field in fields(Record)}
    required = names - {"spread"}
    if not isinstance(data, list):
        raise FormatError(f"{source} holds no list of records", "give a file that build/bench --json wrote")
    records = []
    for index, row in enumerate(data):
        if not isinstance(row, dict) or not required <= row.keys() <= names:
            raise FormatError(
                f"{source}: entry {index} is no record: it needs the keys {', '.join(sorted(required))}",
                "give a file that build/bench --json wrote",
            )
        value, spread = row["value"], row.get("spread")
        numbers = [value] if spread is None else [value, spread]
        if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
            raise FormatError(f"{source}: entry {index} has a value that is no number", "write the file again")
        if not all(isinstance(row[name], str) for name in required - {"value"}):
            raise FormatError(f"{source}: entry {index} has a field that is no text", "write the file again")
        records.append(Record(**row))
    return records


def read_records(path: Path) -> list[Record]:
    """Records of a file: a JSON list, or the last run of a history (`.jsonl`).

    Raises:
        CloisterError: the file cannot be read; FormatError: it holds no records.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CloisterError(f"cannot read {path}: {error}", "give a file that build/bench --json wrote") from error
    try:
        if path.suffix == ".jsonl":
            lines = text.splitlines()
            data = json.loads(lines[-1])["records"] if lines else []
        else:
            data = json.loads(text)
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is not JSON: {error}", "give a file that build/bench --json wrote") from error
    return from_json(data, str(path))


def read_history(path: Path) -> list[Record]:
    """The latest of each figure in a history (`.jsonl`), or the records of a JSON list.

    Raises:
        CloisterError: the file cannot be read; FormatError: it holds no records.
    """
    if path.suffix != ".jsonl":
        return read_records(path)
    latest: dict[tuple[str, str, str, str, str], Record] = {}
    try:
        for line in path.read_text("utf-8").splitlines():
            run = json.loads(line)
            if not run["quick"]:
                if any(record["suite"] == TOGETHER for record in run["records"]):
                    latest = {key: record for key, record in latest.items() if key[0] != TOGETHER}
                latest |= {record.key: record for record in from_json(run["records"], str(path))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is no history: {error}", "give out/bench/history.jsonl, or a JSON file") from error
    return list(latest.values())


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it into place.

    Raises:
        CloisterError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, "utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise CloisterError(f"cannot write {path}: {error.strerror}", "choose another place, or free space") from error


def append_history(path: Path, run: dict[str, Any], records: Sequence[Record]) -> None:
    """Add a run to the history, one JSON object in a line.

    Args:
        run: what describes the run: time, commit, suites.

    Raises:
        CloisterError: the file cannot be written.
    """
    line = json.dumps({**run, "records": [asdict(record) for record in records]}) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise CloisterError(f"cannot write {path}: {error.strerror}", "free space, or make it writable") from error


@dataclass(frozen=True)
class Difference:
    """One figure in two runs; None where a run lacks it."""

    key: tuple[str, str, str, str, str]
    unit: str
    before: float | None
    after: float | None

    @property
    def change(self) -> float:
        """Relative change: 0.1 is a tenth more; NaN where a run lacks it or it was zero."""
        if self.before is None or self.after is None or self.before == 0:
            return math.nan
        return self.after / self.before - 1.0


def compare(before: Sequence[Record], after: Sequence[Record], threshold: float = 0.0) -> list[Difference]:
    """What differs by more than `threshold` (relative) between two runs, in the order of the second.

    Figures of suites that the second run did not measure are left out.
    """
    old = {record.key: record for record in before}
    new = {record.key: record for record in after}
    suites = {record.suite for record in after}
    found = []
    for key, record in new.items():
        earlier = old.get(key)
        difference = Difference(key, record.unit, earlier.value if earlier else None, record.value)
        if earlier is None or (abs(difference.change) > threshold if earlier.value else record.value != 0):
            found.append(difference)
    for key, record in old.items():
        if key not in new and record.suite in suites:
            found.append(Difference(key, record.unit, record.value, None))
    return found

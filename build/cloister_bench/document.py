# SPDX-License-Identifier: BSD-2-Clause
"""Tables of the documentation, written from the benchmark's records between markers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from cloister_bench.errors import BenchError
from cloister_bench.evaluation import rows_of, summary
from cloister_bench.records import Record, write_text
from cloister_bench.tables import number

_SHARE = re.compile(r"(.*) at (\d\.\d\d)")


def _values(records: Sequence[Record], suites: Sequence[str]) -> dict[tuple[str, str, str], dict[str, float]]:
    """By suite, name and precision: values by place and metric, as `ta.instructions`."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for record in records:
        if record.suite in suites:
            row = found.setdefault((record.suite, record.name, record.precision), {})
            row[f"{record.where}.{record.metric}"] = record.value
    return found


def _ratio(row: dict[str, float], above: str, below: str) -> str:
    return f"{row[above] / row[below]:.3f}" if row.get(below) and above in row else ""


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] if rows else []


def size_table(records: Sequence[Record]) -> list[str]:
    """One architecture in several widths."""
    rows = []
    for (_, name, _), row in _values(records, ["sizes"]).items():
        if ".macs" not in row:
            continue
        places = [number(row.get(f"{where}.instructions")) for where in ("ta", "normal", "onnxruntime")]
        rows.append([
            name, number(row[".macs"]), *places, _ratio(row, "ta.instructions", "normal.instructions"),
            _ratio(row, "ta.instructions", "onnxruntime.instructions"), _ratio(row, "ta.instructions", ".macs"),
        ])  # fmt: skip
    head = ("network", "multiply-accumulates", "TA", "normal world", "onnxruntime", "TA / normal", "TA / onnxruntime")
    return _markdown((*head, "TA per multiply-accumulate"), rows)


def stream_table(records: Sequence[Record]) -> list[str]:
    """Instructions relative to the resident model by share of its memory."""
    networks: dict[tuple[str, str], dict[str, str]] = {}
    for (_, name, precision), row in _values(records, ["stream"]).items():
        found = _SHARE.fullmatch(name)
        if found and "ta.ratio" in row:
            peak = f"{row['ta.peak'] / 1024:,.0f} KiB" if "ta.peak" in row else ""
            networks.setdefault((found[1], precision), {})[found[2]] = f"{row['ta.ratio']:.3f} ({peak})"
    shares = sorted({share for row in networks.values() for share in row}, reverse=True)
    # A network whose least lies between two shares has that one besides.
    usual = [share for share in shares if share in ("1.00", "0.75", "0.50", "0.25")]
    rows = []
    for (name, precision), cells in networks.items():
        least = ", ".join(f"{share}: {cells[share]}" for share in shares if share in cells and share not in usual)
        rows.append([name, precision, *(cells.get(share, "") for share in usual), least])
    head = ("network", "precision", *(f"{float(share):.0%} of its memory (TA's peak)" for share in usual))
    return _markdown((*head, "the least it runs in"), rows)


def estimate_table(records: Sequence[Record]) -> list[str]:
    """The estimate against the measurement."""
    rows = []
    for (suite, name, precision), row in _values(records, ["models", "sizes", "stream"]).items():
        if "ta.estimate" in row and row.get("ta.instructions"):
            told = f"{100 * row['ta.estimate_error']:.1f} %" if "ta.estimate_error" in row else ""
            ratio = _ratio(row, "ta.estimate", "ta.instructions")
            values = (number(row["ta.instructions"]), number(row["ta.estimate"]))
            rows.append([suite, name, precision, *values, ratio, told])
    head = ("suite", "network", "precision", "measured", "estimated", "estimated / measured", "error that it told")
    return _markdown(head, rows)


def strategy_table(records: Sequence[Record]) -> list[str]:
    """Predictions of strategies against measurements, one by one."""
    rows = []
    for row in rows_of(records):
        cells = [row.name + (" (drawn)" if row.values.get("drawn") else "")]
        for metrics in (("total",), ("secure",), ("boundary",)):
            both, error = row.both(metrics), row.error(metrics)
            cells += [number(both[0]) if both else "", "" if error is None else f"{100 * error:+.1f} %"]
        for metric, tell in (
            ("peak", _kibibytes),
            ("bytes", number),
            ("crossings", number),
            ("staged crossings", number),
        ):
            both = row.both((metric,))
            same = both is not None and both[0] == both[1]
            cells.append("" if both is None else tell(both[0]) if same else f"{tell(both[0])}, not {tell(both[1])}")
        told = row.values.get("told error", 0.0)
        extrapolated = row.values.get("extrapolated", 0.0)
        cells.append(f"{100 * told:.1f} %" + (f", {100 * extrapolated:.0f} % not measured" if extrapolated else ""))
        rows.append(cells)
    head = ("strategy", "total", "error", "secure world", "error", "boundary", "error", "peak beside the TA")
    return _markdown((*head, "bytes in", "crossings", "one by one", "error that it told"), rows)


def _kibibytes(value: float) -> str:
    return f"{value / 1024:,.0f} KiB"


def evaluation_table(records: Sequence[Record]) -> list[str]:
    """How far predictions of strategies are off."""
    every = rows_of(records)
    if not every:
        return []
    groups = (every, *([row for row in every if bool(row.values.get("drawn")) == drawn] for drawn in (False, True)))
    made = [summary(rows) for rows in groups]
    rows = []
    for name, found in made[0].items():
        cells = [name, f"{found['strategies']:.0f}", f"{100 * found['median']:.1f} %", f"{100 * found['worst']:.1f} %"]
        cells.append(f"{100 * found['mean']:+.1f} %")
        cells += [
            f"{100 * other[name]['median']:.1f} %, {100 * other[name]['worst']:.1f} %" if name in other else ""
            for other in made[1:]
        ]
        rows.append(cells)
    head = ("of", "strategies", "median error", "worst", "mean, with its sign", "those chosen: median, worst")
    return _markdown((*head, "those drawn: median, worst"), rows)


TABLES: dict[str, tuple[str, Callable[[Sequence[Record]], list[str]]]] = {
    "sizes": ("performance.md", size_table),
    "stream": ("performance.md", stream_table),
    "estimates": ("estimate.md", estimate_table),
    "evaluation": ("estimate.md", evaluation_table),
    "strategies": ("estimate.md", strategy_table),
}


def write_tables(records: Sequence[Record], docs: Path) -> list[Path]:
    """Fills the tables for which there are records, between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.

    Raises:
        BenchError: a document lacks the markers.
        CloisterError: a file cannot be written.
    """
    written = []
    for name, (document, make) in TABLES.items():
        lines = make(records)
        if not lines:
            continue
        path = docs / document
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found, rest = path.read_text("utf-8").partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise BenchError(f"{path} has no place for the table {name}", f"put {begin} and {end} where it belongs")
        write_text(path, before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + after)
        written.append(path)
    return list(dict.fromkeys(written))

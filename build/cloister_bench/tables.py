# SPDX-License-Identifier: BSD-2-Clause
"""Records as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from cloister_bench.evaluation import COMPARED, rows_of, summary
from cloister_bench.records import Difference, Record


def number(value: float | None) -> str:
    """A figure with three or four digits that count, large ones in k, M or G."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    for factor, letter in ((1e9, " G"), (1e6, " M"), (1e5, " k")):
        if abs(value) >= factor:
            return f"{value / (1e3 if letter == ' k' else factor):.4g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share as percent."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:+.2f} %"


def _spread(records: Iterable[Record | None]) -> str:
    """The worst of them."""
    known = [record.spread for record in records if record is not None and record.spread is not None]
    return f"{100 * max(known):.2f} %" if known else "-"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


class _Index:
    """Records of one suite by name, precision, place and metric."""

    def __init__(self, records: Sequence[Record], suite: str) -> None:
        self.records = [record for record in records if record.suite == suite]
        self._found = {(r.name, r.precision, r.where, r.metric): r for r in self.records}
        self.rows = list(dict.fromkeys((r.name, r.precision) for r in self.records))

    def get(self, row: tuple[str, str], where: str, metric: str) -> Record | None:
        return self._found.get((*row, where, metric))

    def value(self, row: tuple[str, str], where: str, metric: str) -> float | None:
        record = self.get(row, where, metric)
        return record.value if record else None


def _ratio(a: float | None, b: float | None) -> str:
    return f"{a / b:.3f}" if a is not None and b else "-"


def tee_table(records: Sequence[Record]) -> Table:
    """What the boundary costs."""
    table = _table("tee: what the boundary costs", ("what", "value", "unit", "spread"))
    for record in _Index(records, "tee").records:
        table.add_row(escape(record.name), number(record.value), record.unit, _spread([record]))
    return table


def model_table(records: Sequence[Record], suite: str = "models") -> Table:
    """Whole networks in the three places."""
    columns = ("network", "precision", "MACs", "TA", "normal", "onnxruntime", "TA/normal", "TA/ort", "TA per MAC")
    table = _table(
        "models: instructions of one inference", (*columns, "TA peak", "streamed", "error", "estimated", "spread")
    )
    index = _Index(records, suite)
    for row in index.rows:
        ta, normal, ort = (index.get(row, where, "instructions") for where in ("ta", "normal", "onnxruntime"))
        a, b, c = (record.value if record else None for record in (ta, normal, ort))
        macs, peak, error = (index.value(row, *key) for key in (("", "macs"), ("ta", "peak"), ("ta", "error")))
        parts = [index.value(row, "ta", metric) for metric in ("decrypted", "partitions")]
        table.add_row(
            *(escape(row[0]), row[1], number(macs), number(a), number(b), number(c), _ratio(a, b), _ratio(a, c)),
            *(_ratio(a, macs), f"{peak / 1024:,.0f} KiB" if peak else "-"),
            *(
                f"{number(parts[0])} of {number(parts[1])}" if parts[1] else "-",
                "-" if error is None else f"{error:.1e}",
                _ratio(index.value(row, "ta", "estimate"), a),
            ),
            _spread([ta, normal, ort]),
        )
    return table


def kernel_table(records: Sequence[Record]) -> Table:
    """Kernels in both worlds."""
    columns = ("kernel and shape", "precision", "MACs", "TA", "normal", "TA/normal", "spread")
    table = _table("kernels: instructions per multiply-accumulate", columns)
    index = _Index(records, "kernels")
    for row in index.rows:
        ta, normal = (index.get(row, where, "per_mac") for where in ("ta", "normal"))
        a, b = (record.value if record else None for record in (ta, normal))
        cells = ("-" if value is None else f"{value:.4f}" for value in (a, b))
        macs = number(index.value(row, "", "macs"))
        table.add_row(escape(row[0]), row[1], macs, *cells, _ratio(a, b), _spread([ta, normal]))
    return table


def stream_table(records: Sequence[Record]) -> Table:
    """Networks in less and less memory."""
    columns = ("network, share of its memory", "precision", "instructions", "of resident", "peak", "decrypted")
    table = _table("stream: less memory than the model needs", (*columns, "estimated", "spread"))
    index = _Index(records, "stream")
    for row in index.rows:
        ta, peak = index.get(row, "ta", "instructions"), index.value(row, "ta", "peak")
        parts = [number(index.value(row, "ta", metric)) for metric in ("decrypted", "partitions")]
        ratio = index.value(row, "ta", "ratio")
        table.add_row(
            *(escape(row[0]), row[1], number(ta.value if ta else None), "-" if ratio is None else f"{ratio:.3f}"),
            *(f"{peak / 1024:,.0f} KiB" if peak else "-", f"{parts[0]} of {parts[1]}"),
            _ratio(index.value(row, "ta", "estimate"), ta.value if ta else None),
            _spread([ta]),
        )
    return table


def lock_table(records: Sequence[Record]) -> Table:
    """What passwords cost."""
    columns = ("network", "precision", "instructions", "added by the password", "decrypted", "spread")
    table = _table("locks: a password for 60 % of the channels", columns)
    index = _Index(records, "locks")
    for row in index.rows:
        ta, added = index.get(row, "ta", "instructions"), index.value(row, "ta", "added")
        parts = [number(index.value(row, "ta", metric)) for metric in ("decrypted", "partitions")]
        table.add_row(
            *(escape(row[0]), row[1], number(ta.value if ta else None), percent(added)),
            *(f"{parts[0]} of {parts[1]}", _spread([ta])),
        )
    return table


def mirror_table(records: Sequence[Record]) -> Table:
    """What pairs take, and what of it in which world."""
    columns = ("pair", "precision", "unprotected", "backbone", "CPM", "boundary", "pair", "added", "taps", "TA peak")
    table = _table("mirror: instructions of one inference", (*columns, "in stages", "longer world", "spread"))
    index = _Index(records, "mirror")
    for row in index.rows:
        victim, backbone = (index.get(row, "normal", metric) for metric in ("victim", "backbone"))
        boundary, pair = (index.get(row, "", metric) for metric in ("boundary", "pair"))
        figures = (record.value if record else None for record in (victim, backbone))
        peak, taps = index.value(row, "", "peak"), index.value(row, "", "taps")
        table.add_row(
            *(escape(row[0]), row[1], *(number(value) for value in figures), number(index.value(row, "ta", "cpm"))),
            *(number(record.value if record else None) for record in (boundary, pair)),
            percent(index.value(row, "", "overhead")),
            *(f"{number(taps)} B", f"{peak / 1024:,.0f} KiB" if peak else "-"),
            *(number(index.value(row, "", metric)) for metric in ("staged", "path")),
            _spread([victim, backbone, boundary, pair]),
        )
    return table


def strategy_table(records: Sequence[Record]) -> Table:
    """Predictions of strategies, over what was measured."""
    columns = ("strategy", *COMPARED, "told error")
    table = _table("strategies: prediction over measurement, less one", columns)
    rows = rows_of(records)
    for row in rows:
        errors = (row.error(metrics) for metrics in COMPARED.values())
        table.add_row(escape(row.name), *(percent(error) for error in errors), percent(row.values.get("told error")))
    found = summary(rows)
    for what in ("median", "worst"):
        table.add_row(what, *(percent(found[name][what]) if name in found else "-" for name in COMPARED), "")
    return table


def size_table(records: Sequence[Record]) -> Table:
    """One architecture in several widths."""
    return model_table(records, "sizes")


TABLES = {
    "tee": tee_table,
    "kernels": kernel_table,
    "models": model_table,
    "stream": stream_table,
    "sizes": size_table,
    "locks": lock_table,
    "mirror": mirror_table,
    "strategies": strategy_table,
}


def compare_table(differences: Sequence[Difference], source: str) -> Table:
    """What differs from another run."""
    table = _table(f"compared with {source}", ("figure", "place", "metric", "before", "now", "change"))
    for difference in differences:
        suite, name, where, precision, metric = difference.key
        figure = escape(f"{suite}: {name}{f' ({precision})' if precision else ''}")
        change = difference.change
        style = "" if not math.isfinite(change) else "red" if change > 0 else "green"
        cells = (number(difference.before), number(difference.after), percent(change))
        table.add_row(figure, where, metric, *cells, style=style)
    return table

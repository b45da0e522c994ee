# SPDX-License-Identifier: BSD-2-Clause
"""Plots of what the benchmark measured, as SVG written here: no library is needed, and a picture stays small."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from cloister.svg import document
from cloister_bench.errors import BenchError
from cloister_bench.evaluation import rows_of
from cloister_bench.records import Record, write_text
from cloister_bench.tables import number

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 190, 40, 56
COLOURS = ("#3f7fbf", "#c0504d", "#4f9d52", "#e0913a", "#7a5aa6", "#2b8f96", "#9a6b3f", "#c05a9d", "#5b6770")
_NAMES = {"ta": "Cloister, TA", "normal": "Cloister, normal world", "onnxruntime": "onnxruntime"}


@dataclass
class Line:
    """Points that belong together, by their x; ``dots``: no line joins them; ``bare``: a line without points."""

    name: str
    points: list[tuple[float, float]] = field(default_factory=list)
    dashed: bool = False
    dots: bool = False
    bare: bool = False


@dataclass(frozen=True)
class Axis:
    """What an axis shows: from `low` to `high`, with a mark at each of `marks`; logarithmic or not."""

    title: str
    low: float
    high: float
    marks: Sequence[float]
    tell: Callable[[float], str]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """From 0 at the low end to 1 at the high one."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def decades(title: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis of whole powers of ten around some values."""
    found = [value for value in values if value > 0]
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    marks = [10.0**power for power in range(low, max(high, low + 1) + 1)]
    return Axis(title, marks[0], marks[-1], marks, number, logarithmic=True)


def draw(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """A plot as SVG text: lines with a point at each figure, which tells its values when it is pointed at."""

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x.place(point[0]),
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y.place(point[1]),
        )

    body = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    body.append(f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>')
    for mark in x.marks:
        place, bottom = at((mark, y.low))
        body.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{bottom:.1f}" stroke="#e3e6e8"/>')
        body.append(f'<text x="{place:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{escape(x.tell(mark))}</text>')
    for mark in y.marks:
        _, place = at((x.low, mark))
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}" stroke="#e3e6e8"/>')
        body.append(f'<text x="{LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{escape(y.tell(mark))}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    body.append(f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x.title)}</text>')
    turned = f"translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    body.append(f'<text transform="{turned}" text-anchor="middle">{escape(y.title)}</text>')
    for index, line in enumerate(lines):
        colour, dash = COLOURS[index % len(COLOURS)], ' stroke-dasharray="5 4"' if line.dashed else ""
        points = [(point, at(point)) for point in sorted(line.points)]
        path = " L".join(f"{left:.1f},{top:.1f}" for _, (left, top) in points)
        if not line.dots:
            body.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for (first, second), (left, top) in [] if line.bare else points:
            text = escape(f"{line.name}: {x.tell(first)}, {y.tell(second)}")
            body.append(
                f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3.5" fill="{colour}"><title>{text}</title></circle>'
            )
        down = TOP + 14 + 20 * index
        if line.dots:
            body.append(f'<rect x="{WIDTH - RIGHT + 20}" y="{down - 3}" width="7" height="7" fill="{colour}"/>')
        else:
            body.append(
                f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 34}" y1="{down}" y2="{down}" '
                f'stroke="{colour}" stroke-width="2"{dash}/>'
            )
        body.append(f'<text x="{WIDTH - RIGHT + 40}" y="{down + 4}">{escape(line.name)}</text>')
    return document(WIDTH, HEIGHT, body)


def size_plot(records: Sequence[Record]) -> str | None:
    """Cost by model size: one architecture in several widths, in the three places."""
    own = [record for record in records if record.suite == "sizes"]
    macs = {record.name: record.value for record in own if record.metric == "macs"}
    lines = [Line(_NAMES[where]) for where in _NAMES]
    for line, where in zip(lines, _NAMES, strict=True):
        line.points = [
            (macs[record.name], record.value)
            for record in own
            if record.where == where and record.metric == "instructions" and record.name in macs
        ]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    points = [point for line in lines for point in line.points]
    x = decades("multiply-accumulates of one inference", (point[0] for point in points))
    y = decades("instructions of one inference", (point[1] for point in points))
    return draw("ResNet-20 in five widths, fp32", x, y, lines)


def memory_plot(records: Sequence[Record]) -> str | None:
    """Cost by memory: networks in less and less of what they need when they are resident."""
    lines: dict[str, Line] = {}
    for record in records:
        network, _, share = record.name.rpartition(" at ")
        if record.suite == "stream" and record.metric == "ratio" and network:
            line = lines.setdefault(f"{network} {record.precision}", Line(f"{network}, {record.precision}"))
            line.points.append((float(share), record.value))
    if not lines:
        return None
    values = [value for line in lines.values() for _, value in line.points]
    low, high = min(0.9, *values), max(1.1, *values)
    step = next(step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 100) if (high - low) / step <= 8)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    marks = [low + step * index for index in range(round((high - low) / step) + 1)]
    x = Axis(
        "secure memory, share of what the resident model takes", 0.2, 1.05, [0.25, 0.5, 0.75, 1.0],
        lambda value: f"{100 * value:.0f} %",
    )  # fmt: skip
    y = Axis("instructions, of the resident model's", low, high, marks, lambda value: f"{value:.2f}")
    return draw("One inference with falling memory", x, y, list(lines.values()))


def estimate_plot(records: Sequence[Record]) -> str | None:
    """What `cloister plan` estimates, held against what was measured."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for record in records:
        if record.where == "ta" and record.metric in ("estimate", "instructions"):
            found.setdefault((record.suite, record.name, record.precision), {})[record.metric] = record.value
    line = Line("a network, a budget", dots=True)
    line.points = [
        (both["instructions"], both["estimate"] / both["instructions"]) for both in found.values() if len(both) == 2
    ]
    if not line.points:
        return None
    spread = max(0.1, *(abs(ratio - 1) for _, ratio in line.points))
    limit = math.ceil(spread * 10) / 10
    marks = [1 - limit, 1 - limit / 2, 1, 1 + limit / 2, 1 + limit]
    x = decades("measured instructions of one inference in the TA", (point[0] for point in line.points))
    y = Axis("estimated, of measured", 1 - limit, 1 + limit, marks, lambda value: f"{value:.2f}")
    return draw("The estimate of cloister plan against the measurement", x, y, [line])


def strategy_plot(records: Sequence[Record]) -> str | None:
    """What strategies were predicted to take, held against what they take."""
    rows = rows_of(records)
    lines = [
        Line(name, [both for row in rows if (both := row.both(metrics)) and min(both) > 0], dots=True)
        for name, metrics in (("all of it", ("total",)), ("secure world", ("secure",)), ("boundary", ("boundary",)))
    ]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    values = [value for line in lines for point in line.points for value in point]
    x = decades("measured instructions of one inference", values)
    y = decades("predicted instructions", values)
    exact = Line("as measured", [(x.low, x.low), (x.high, x.high)], dashed=True, bare=True)
    return draw("Strategies: the prediction against the measurement", x, y, [*lines, exact])


PLOTS = {
    "cost-by-size.svg": size_plot,
    "cost-by-memory.svg": memory_plot,
    "estimate.svg": estimate_plot,
    "strategies.svg": strategy_plot,
}


def write_plots(records: Sequence[Record], directory: Path) -> list[Path]:
    """Writes the plots for which there are records.

    Raises:
        BenchError: there are none for any.
        CloisterError: a file cannot be written.
    """
    written = []
    for name, make in PLOTS.items():
        text = make(records)
        if text is not None:
            write_text(directory / name, text)
            written.append(directory / name)
    if not written:
        raise BenchError("the records hold nothing to plot", "measure first: build/bench --suite stream --suite sizes")
    return written

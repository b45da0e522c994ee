# SPDX-License-Identifier: BSD-2-Clause
"""The steps of a pruning as SVG: accuracy above, costs relative to the unpruned network below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from cloister.svg import document

WIDTH, LEFT, RIGHT, TOP = 760, 70, 190, 44
PANEL, GAP, BOTTOM = 190, 34, 60
COSTS = (
    ("macs", "multiply-accumulates", "#3f7fbf"),
    ("parameters", "parameters", "#4f9d52"),
    ("peak_memory", "peak secure memory", "#e0913a"),
    ("instructions", "instructions, estimated", "#c0504d"),
    ("measured", "instructions, measured", "#7a5aa6"),
)


def draw(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """The picture as SVG text.

    Args:
        title: stands above.
        rows: as ``full_report`` makes them; those of fp32 are drawn, refused steps as rings.
    """
    shown = [row for row in rows if row["precision"] == "fp32"]
    places = [LEFT + (WIDTH - LEFT - RIGHT) * (index + 0.5) / len(shown) for index in range(len(shown))]
    height = TOP + 2 * PANEL + GAP + BOTTOM
    body = [f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">{escape(title)}</text>']  # fmt: skip
    accuracies = [100 * row["validation"] for row in shown] + [100 * row["test"] for row in shown if "test" in row]
    low, high = min(accuracies), max(accuracies)
    margin = max(0.5, 0.1 * (high - low))
    marks = _round_marks(low - margin, min(100.0, high + margin))
    upper = _scale(marks[0], marks[-1], TOP)
    body += _frame([(upper(mark), f"{mark:g} %") for mark in marks])
    allowed = [index for index, row in enumerate(shown) if "validation" in row]
    body += _line([(places[i], upper(100 * shown[i]["validation"]), shown[i], "validation") for i in allowed],
                  "validation images", "#3f7fbf", 0, TOP)  # fmt: skip
    tested = [index for index, row in enumerate(shown) if "test" in row]
    body += _line([(places[i], upper(100 * shown[i]["test"]), shown[i], "test") for i in tested],
                  "test images", "#5b6770", 1, TOP)  # fmt: skip
    below = TOP + PANEL + GAP
    least = min(row[key] / shown[0][key] for row in shown for key, _, _ in COSTS if key in row)
    decade = min(-1, math.floor(math.log10(least)))
    lower = _scale(float(decade), 0.0, below)
    body += _frame([(lower(math.log10(mark)), f"{mark:g}") for mark in
                           (factor * 10.0**power for power in range(decade, 1) for factor in (1, 2, 5))
                           if mark <= 1])  # fmt: skip
    drawn = [cost for cost in COSTS if all(cost[0] in row for row in shown)]
    for place, (key, name, colour) in enumerate(drawn):
        points = [(x, lower(math.log10(row[key] / shown[0][key])), row, key)
                  for x, row in zip(places, shown, strict=True)]  # fmt: skip
        body += _line(points, name, colour, place, below)
    bottom = below + PANEL + 18
    for x, row in zip(places, shown, strict=True):
        body.append(f'<text x="{x:.1f}" y="{bottom}" text-anchor="end" transform="rotate(-30 {x:.1f} {bottom})">'
                    f'{escape(row["step"])}</text>')  # fmt: skip
    if not all(row["accepted"] for row in shown):
        level = bottom + BOTTOM - 22
        body.append(f'<circle cx="{WIDTH - RIGHT + 23}" cy="{level - 4}" r="3.5" fill="white" stroke="#5b6770"/>'
                    f'<text x="{WIDTH - RIGHT + 40}" y="{level}">refused: lost too much</text>')  # fmt: skip
    for top, text in ((TOP, "accuracy"), (below, "of the unpruned network")):
        turned = f"translate(16 {top + PANEL / 2}) rotate(-90)"
        body.append(f'<text transform="{turned}" text-anchor="middle">{text}</text>')
    return document(WIDTH, height, body)


def _round_marks(low: float, high: float) -> list[float]:
    """Three to seven round numbers around a range, as 91, 91.5, 92: steps are 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 4
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 6) for number in range(first, last + 1)]


def _scale(low: float, high: float, top: float) -> Callable[[float], float]:
    return lambda value: top + PANEL * (high - value) / (high - low)


def _frame(marks: Sequence[tuple[float, str]]) -> list[str]:
    lines = []
    for y, text in marks:
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6e8"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    return lines


def _line(
    points: Sequence[tuple[float, float, dict[str, Any], str]], name: str, colour: str, place: int, top: float
) -> list[str]:
    """A line through the steps that were kept, a point for every step, and its name to the right."""
    kept = [(x, y) for x, y, row, _ in points if row["accepted"]]
    path = " L".join(f"{x:.1f},{y:.1f}" for x, y in kept)
    lines = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for x, y, row, key in points:
        value = f"{row[key]:.2%}" if key in ("validation", "test") else f"{row[key]:,.0f}"
        fill = colour if row["accepted"] else "white"
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{fill}" stroke="{colour}">'
                     f"<title>{escape(row['step'])}: {escape(name)} {value}</title></circle>")  # fmt: skip
    down = top + 14 + 20 * place
    lines.append(f'<line x1="{WIDTH - RIGHT + 12}" x2="{WIDTH - RIGHT + 34}" y1="{down}" y2="{down}" '
                 f'stroke="{colour}" stroke-width="2"/><text x="{WIDTH - RIGHT + 40}" y="{down + 4}">'
                 f"{escape(name)}</text>")  # fmt: skip
    return lines

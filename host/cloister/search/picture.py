# SPDX-License-Identifier: BSD-2-Clause
"""A picture of the front, as SVG: what the attacker gains over what a strategy adds; no library is needed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from cloister.search.book import Record
from cloister.search.budget import Budget
from cloister.search.choose import tell
from cloister.search.errors import SearchError
from cloister.search.figures import Figures, Stage

WIDTH, HEIGHT = 900, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 56, 92
#: Overhead in percent around which the axis goes over from even to logarithmic steps: it may also be below 0.
EVEN = 0.3
TICKS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
#: Where fewer than so many of them are in sight, finer ones are taken.
FEWEST = 4
FINER = tuple(sorted({size * step for size in (0.1, 1, 10, 100) for step in (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)}))
FITS, EXCEEDS, LINE = "#2c7fb8", "#bdbdbd", "#d95f02"


def save(text: str, path: Path) -> None:
    """Write a picture aside, then put it in place.

    Raises:
        SearchError: the file's name does not end in .svg, or it cannot be written.
    """
    if path.suffix.lower() != ".svg":
        raise SearchError(f"{path}: pictures are written as SVG", "give a name that ends in .svg")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise SearchError(f"cannot write {path}: {error.strerror}", "check the path and free space") from error
    finally:
        aside.unlink(missing_ok=True)


def draw(records: Sequence[Record], budget: Budget, chosen: Record | None, title: str) -> str:
    """The picture as SVG text.

    Args:
        records: trainings are drawn filled, proxies hollow; those without figures are left out.
        budget: its overhead is a line; strategies that exceed it in anything are grey.
        chosen: marked by a ring.
        title: above the picture.
    """
    known = [(record, record.figures) for record in records if record.figures is not None and record.figures.gain]
    across = [_percent(figures) for _, figures in known] + ([100 * budget.overhead] if budget.overhead else [])
    low, high = _scale(min(across, default=0.0)), _scale(max(across, default=1.0))
    margin = 0.05 * max(0.5, high - low)
    low, high = low - margin, high + margin
    top = max([figures.gain or 1.0 for _, figures in known], default=1.0)
    bottom = min([1.0, *(figures.gain or 1.0 for _, figures in known)])
    room = 0.08 * max(0.1, top - bottom)
    bottom, top = bottom - room, top + room

    def x(percent: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (_scale(percent) - low) / (high - low)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - bottom) / (top - bottom)

    body = _axes(low, high, bottom, top, x, y, _unit([figures for _, figures in known]))
    if budget.overhead:
        at = x(100 * budget.overhead)
        body.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="black" '
            f'stroke-dasharray="6 4"/><text x="{at - 4:.1f}" y="{TOP + 12}" text-anchor="end">budget</text>'
        )
    steps = _stairs([figures for record, figures in known if record.stage is Stage.TRAINING and budget.fits(figures)])
    if steps:
        path = " ".join(f"{'M' if place == 0 else 'L'}{x(a):.1f},{y(b):.1f}" for place, (a, b) in enumerate(steps))
        body.append(f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"/>')
    # proxies first, so that trainings lie on top of them
    for record, figures in sorted(known, key=lambda pair: pair[0].stage is Stage.TRAINING):
        body.append(_dot(record, figures, budget, x(_percent(figures)), y(figures.gain or 1.0)))
    if chosen is not None and chosen.figures is not None and chosen.figures.gain:
        at, up = x(_percent(chosen.figures)), y(chosen.figures.gain)
        body.append(f'<circle cx="{at:.1f}" cy="{up:.1f}" r="10" fill="none" stroke="{LINE}" stroke-width="2.5"/>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">{escape(title)}</text>'
        f'<text x="{LEFT}" y="42">budget: {escape(str(budget))}</text>'
    )
    return "\n".join([head, *body, *_legend(), "</svg>", ""])


def _unit(known: Sequence[Figures]) -> str:
    """Of costs: instructions, unless predictions were made with constants of another device."""
    told = (figures.details.get("prediction", {}).get("unit") for figures in known)
    return next((str(unit) for unit in told if unit), "instructions")


def _percent(figures: Figures) -> float:
    return 100 * figures.overhead


def _scale(percent: float) -> float:
    return math.asinh(percent / EVEN)


def _stairs(known: Sequence[Figures]) -> list[tuple[float, float]]:
    """Corners of the least gain that is to be had for an overhead."""
    corners: list[tuple[float, float]] = []
    for figures in sorted(known, key=lambda figures: (figures.overhead, figures.gain or 1.0)):
        value = figures.gain or 1.0
        if not corners or value < corners[-1][1]:
            if corners:
                corners.append((_percent(figures), corners[-1][1]))
            corners.append((_percent(figures), value))
    return corners


def _dot(record: Record, figures: Figures, budget: Budget, x: float, y: float) -> str:
    colour = FITS if budget.fits(figures) else EXCEEDS
    fill = colour if record.stage is Stage.TRAINING else "none"
    note = f"{record.stage.value} {record.number}: {record.strategy}: {tell(figures)}"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if record.stage is Stage.TRAINING else 4}" fill="{fill}" '
        f'stroke="{colour}" stroke-width="1.5" pointer-events="all"><title>{escape(note)}</title></circle>'
    )


def _axes(low: float, high: float, bottom: float, top: float, x: object, y: object, unit: str) -> list[str]:
    assert callable(x) and callable(y)
    lines = [
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" fill="none" '
        'stroke="#888888"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - BOTTOM + 36}" text-anchor="middle">{escape(unit)} added, '
        "in % of the unprotected model's</text>",
        f'<text transform="translate(20 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">attacker\'s '
        "accuracy, as a ratio to the black box</text>",
    ]
    for value in _ticks(low, high):
        at = f"{x(value):.1f}"
        lines.append(
            f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#eeeeee"/>'
            f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )
    step = next(size for size in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 1e9) if (top - bottom) / size <= 9)
    for count in range(math.ceil(bottom / step), math.floor(top / step) + 1):
        value = count * step
        lines.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#eeeeee"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    lines.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(1):.1f}" y2="{y(1):.1f}" stroke="black" '
        f'stroke-dasharray="2 3"/><text x="{LEFT + 4}" y="{y(1) - 4:.1f}">black box</text>'
    )
    return lines


def _ticks(low: float, high: float) -> list[float]:
    """Percents to be written beneath the axis, between two places on it."""
    found: list[float] = []
    for ticks in (TICKS, FINER):
        found = [value for value in (*(-tick for tick in reversed(ticks)), 0, *ticks) if low <= _scale(value) <= high]
        if len(found) >= FEWEST:
            break
    # none nearer to the one before than a label is wide
    apart = (high - low) / 16
    kept: list[float] = []
    for value in found:
        if not kept or _scale(value) - _scale(kept[-1]) >= apart:
            kept.append(value)
    return kept


def _legend() -> list[str]:
    y = HEIGHT - 22
    entries = (
        (f'fill="{FITS}" stroke="{FITS}"', "trained, within the budget"),
        (f'fill="{EXCEEDS}" stroke="{EXCEEDS}"', "exceeds it"),
        (f'fill="none" stroke="{FITS}"', "trained briefly"),
        (f'fill="none" stroke="{LINE}" stroke-width="2.5"', "chosen"),
    )
    return [
        f'<circle cx="{LEFT + 8 + 210 * place}" cy="{y - 4}" r="5" {style}/>'
        f'<text x="{LEFT + 20 + 210 * place}" y="{y}">{text}</text>'
        for place, (style, text) in enumerate(entries)
    ]

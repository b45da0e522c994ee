# SPDX-License-Identifier: BSD-2-Clause
"""What strategies cost against what attackers gain, in SVG: a point for each, and the front between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cloister.svg import document

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 460, 70, 190, 60, 64
COLOURS = ("#c0504d", "#3f7fbf", "#4f9d52", "#e0913a", "#7a5aa6", "#2b8f96", "#9a6b3f", "#5b6770", "#b5478f")


@dataclass(frozen=True)
class Point:
    """A strategy, means over seeds.

    Attributes:
        name: beside the point.
        x: overhead, as a share of the unprotected model.
        y: the strongest attack's accuracy as a ratio to the black box's.
        spread: least and most of ``y``.
        kept: whether at most the points are lost that may be lost; others are drawn hollow and are not on the front.
        note: shown where the pointer rests.
    """

    name: str
    x: float
    y: float
    spread: tuple[float, float]
    kept: bool
    note: str


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other is at least as good as in both and better in one; least overhead first."""
    able = [point for point in points if point.kept]
    return sorted(
        (a for a in able if not any((b.x, b.y) != (a.x, a.y) and b.x <= a.x and b.y <= a.y for b in able)),
        key=lambda point: (point.x, -point.y),
    )


def _ticks(low: float, high: float, most: int = 8) -> list[float]:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if (high - low) / step <= most)
    return [count * step for count in range(round(low / step + 0.4999), int(high / step + 1e-9) + 1)]


def draw(heading: str, points: Sequence[Point], names: Sequence[str], limits: tuple[float, float]) -> str:
    """The plot as SVG text.

    Args:
        heading: stands above.
        points: at least one.
        names: of all strategies, in the order of colours, so that several plots use the same ones.
        limits: overhead and ratio that are aimed at, dashed.
    """
    across = [*(point.x for point in points), 0.0, limits[0]]
    ratios = [*(value for point in points for value in point.spread), 1.0, limits[1]]
    margin, above = 0.08 * (max(across) - min(across)), 0.08 * (max(ratios) - min(ratios))
    low, high = min(across) - margin, max(across) + margin
    least, most = min(ratios) - above, max(ratios) + above

    def column(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def row(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - least) / (most - least)

    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    body: list[str] = []
    for value in _ticks(low, high):
        x = column(value)
        body += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="#e3e6e8"/>',
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{100 * value:+.0f} %</text>',
        ]
    for value in _ticks(least, most):
        y = row(value)
        body.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e6e8"/>'
                    f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')  # fmt: skip
    x, y = column(limits[0]), row(limits[1])
    body.append(f'<path d="M{x:.1f},{TOP}V{bottom}M{LEFT},{y:.1f}H{right}" stroke="black" stroke-dasharray="3 2"/>')
    steps = front(points)
    if steps:
        path = f"M{column(steps[0].x):.1f},{row(steps[0].y):.1f}"
        path += "".join(f"H{column(step.x):.1f}V{row(step.y):.1f}" for step in steps[1:])
        body.append(f'<path d="{path}" stroke="#5b6770" stroke-width="1.5" fill="none"/>')
    for point in points:
        colour = COLOURS[list(names).index(point.name) % len(COLOURS)]
        x, y = column(point.x), row(point.y)
        ends = [row(value) for value in point.spread]
        if ends[0] != ends[1]:
            body.append(f'<path d="M{x:.1f},{ends[0]:.1f}V{ends[1]:.1f}" stroke="{colour}"/>')
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" stroke="{colour}" stroke-width="2" '
                    f'fill="{colour if point.kept else "white"}"><title>{escape(point.note)}</title></circle>'
                    f'<text x="{x + 10:.1f}" y="{y - 8:.1f}">{escape(point.name)}</text>')  # fmt: skip
    body += [
        f'<text x="{(LEFT + right) / 2:.1f}" y="{bottom + 36}" text-anchor="middle">instructions added to the '
        "unprotected model, measured or else predicted</text>",
        f'<text x="16" y="{(TOP + bottom) / 2:.1f}" text-anchor="middle" transform="rotate(-90 16 '
        f'{(TOP + bottom) / 2:.1f})">strongest attack / black box</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 8}">dashed: {100 * limits[0]:g} % and {limits[1]:g}, what was aimed at; '
        "hollow: loses more than 1 point; line: the front</text>",
    ]
    return document(WIDTH, HEIGHT, body, heading)

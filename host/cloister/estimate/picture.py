# SPDX-License-Identifier: BSD-2-Clause
"""A picture of secure memory over time, as SVG: no library is needed, and it stays small for thousands of kernels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from cloister.errors import CloisterError
from cloister.estimate.plan import MemoryPlan, Moment
from cloister.svg import document

WIDTH, HEIGHT = 960, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 44, 54
#: Most steps drawn; more kernels than that share one, which shows their largest.
STEPS = 600
MIB = 1 << 20
LAYERS = (
    ("TA and table", "#9aa0a6"),
    ("resident weights", "#3f7fbf"),
    ("activations alive", "#e0913a"),
    ("streamed partition", "#c0504d"),
)


class PictureError(CloisterError):
    """The picture cannot be written."""


def save_picture(plan: MemoryPlan, title: str, path: Path) -> None:
    """Writes the picture of a plan that fits.

    Raises:
        PictureError: the file's name does not end in .svg, or it cannot be written.
    """
    if path.suffix.lower() != ".svg":
        raise PictureError(f"{path}: pictures are written as SVG", "give a name that ends in .svg")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(draw(plan, title), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise PictureError(f"cannot write {path}: {error.strerror}", "check the path and free space") from error
    finally:
        aside.unlink(missing_ok=True)


def draw(plan: MemoryPlan, title: str) -> str:
    """The picture as SVG text: stacked layers over the kernels in order, the arena's plan, and the budget."""
    steps = _steps(plan.moments)
    fixed = plan.own + plan.table
    top = max(plan.budget, fixed + plan.resident_bytes + plan.arena + plan.largest)
    layers = [
        [(fixed, plan.resident_bytes, alive, streamed)[place] for alive, streamed in steps]
        for place in range(len(LAYERS))
    ]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / max(1, len(steps))

    def y(size: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * size / top

    body = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    body.append(f'<text x="{LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>')
    base = [0] * len(steps)
    for (name, colour), layer in zip(LAYERS, layers, strict=True):
        upper = [low + size for low, size in zip(base, layer, strict=True)]
        body.append(f'<path d="{_band(base, upper, x, y)}" fill="{colour}"><title>{name}</title></path>')
        base = upper
    for size, name, colour in (
        (plan.budget, f"budget {plan.budget / MIB:.2f} MiB", "#000000"),
        (fixed + plan.resident_bytes + plan.arena, f"planned arena {plan.arena / MIB:.2f} MiB", "#7a4a12"),
    ):
        body.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(size):.1f}" y2="{y(size):.1f}" stroke="{colour}" '
            f'stroke-dasharray="6 4"/><text x="{WIDTH - RIGHT - 4}" y="{y(size) - 4:.1f}" text-anchor="end" '
            f'fill="{colour}">{name}</text>'
        )
    body += _axes(top, len(plan.moments), y)
    for place, (name, colour) in enumerate(LAYERS):
        at = LEFT + 170 * place
        body.append(f'<rect x="{at}" y="{HEIGHT - 18}" width="12" height="12" fill="{colour}"/>')
        body.append(f'<text x="{at + 18}" y="{HEIGHT - 8}">{name}</text>')
    return document(WIDTH, HEIGHT, body)


def _steps(moments: Sequence[Moment]) -> list[tuple[int, int]]:
    """(alive, streamed) of each step, the largest sum of the kernels that share it."""
    count = min(STEPS, len(moments))
    steps = []
    for step in range(count):
        shared = moments[step * len(moments) // count : (step + 1) * len(moments) // count]
        most = max(shared, key=lambda moment: moment.alive + moment.streamed)
        steps.append((most.alive, most.streamed))
    return steps or [(0, 0)]


def _band(low: Sequence[int], high: Sequence[int], x: object, y: object) -> str:
    assert callable(x) and callable(y)
    points = []
    for step, size in enumerate(high):
        points += [f"{x(step):.1f},{y(size):.1f}", f"{x(step + 1):.1f},{y(size):.1f}"]
    for step in reversed(range(len(low))):
        points += [f"{x(step + 1):.1f},{y(low[step]):.1f}", f"{x(step):.1f},{y(low[step]):.1f}"]
    return "M" + " L".join(points) + "Z"


def _axes(top: int, kernels: int, y: object) -> list[str]:
    assert callable(y)
    step = next(
        size for size in (MIB // 16, MIB // 8, MIB // 4, MIB // 2, MIB, 2 * MIB, 4 * MIB, 1 << 40) if top / size <= 10
    )
    lines = [f'<text x="{LEFT}" y="{HEIGHT - 30}">kernels 1 to {kernels}, in the order in which they run</text>']
    for size in range(0, top + 1, step):
        lines.append(
            f'<line x1="{LEFT - 5}" x2="{LEFT}" y1="{y(size):.1f}" y2="{y(size):.1f}" stroke="black"/>'
            f'<text x="{LEFT - 8}" y="{y(size) + 4:.1f}" text-anchor="end">{size / MIB:g} MiB</text>'
        )
    return lines

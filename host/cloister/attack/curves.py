# SPDX-License-Identifier: BSD-2-Clause
"""How accuracy grows with what an attacker has, in SVG: a panel for each attack, a curve for each target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from cloister.attack.picture import COLOURS
from cloister.attack.table import asked, budget_label, labels, rows_of, title
from cloister.svg import document

#: Sizes in pixels: of a panel's axes, what lies left of and above them, and between panels.
WIDTH, HEIGHT, LEFT, TOP, BETWEEN = 250, 190, 60, 70, 60


def draw(records: Sequence[dict[str, Any]], about: dict[str, Any], heading: str) -> str:
    """The plot as SVG text: accuracy over the share of the data, or the number of queries, on a logarithmic scale.

    The black box's curve is dashed, the white box's grey; a protection's lies between them. Attacks that take no data
    have no panel, nor have those that were tried with one budget where others were with several. With several seeds,
    means.

    Args:
        records: as the bench makes them.
        about: as of the bench's report: names both bounds.
        heading: stands above.
    """
    panels: dict[str, list[str]] = {}
    for attack, budget in rows_of(records):
        if amount(budget) is not None:
            panels.setdefault(attack, []).append(budget)
    if any(len(budgets) > 1 for budgets in panels.values()):
        panels = {attack: budgets for attack, budgets in panels.items() if len(budgets) > 1}
    black, white = about["black_box"], about["white_box"]
    targets = list(dict.fromkeys(record["target"] for record in records if record["target"] not in (black, white)))
    known = labels((white, *targets, black))
    colours = {target: COLOURS[place % len(COLOURS)] for place, target in enumerate(targets)}
    body = []
    for place, (attack, budgets) in enumerate(panels.items()):
        left = LEFT + place * (WIDTH + BETWEEN)
        # where a budget is more images than there are, what was asked
        amounts = [max(asked(records, attack, budget), default=amount(budget) or 1.0) for budget in budgets]
        told = [budget_label(records, attack, budget) for budget in budgets]
        places = _places(left, amounts)
        body += _axes(left, title(attack), places, amounts, budgets[0].split(maxsplit=1)[-1])
        for target in (white, *targets, black):
            own = [_mean(records, target, attack, budget, black) for budget in budgets]
            look = 'stroke="#8a9299"' if target == white else f'stroke="{colours.get(target, "black")}"'
            look += ' stroke-dasharray="5 3"' if target == black else ""
            body += _curve(places, told, own, look, known[target])
    at = TOP + HEIGHT + 60
    for place, target in enumerate((white, *targets, black)):
        y = at + 18 * place
        look = "#8a9299" if target == white else colours.get(target, "black")
        dashes = ' stroke-dasharray="5 3"' if target == black else ""
        body.append(f'<path d="M{LEFT},{y - 4}h26" stroke="{look}" stroke-width="2"{dashes}/>')
        body.append(f'<text x="{LEFT + 34}" y="{y}">{escape(known[target])}</text>')
    width = max(LEFT + len(panels) * (WIDTH + BETWEEN), 480)
    return document(width, at + 18 * (len(targets) + 2), body, heading)


def amount(budget: str) -> float | None:
    """The number that a budget begins with; None: it takes no data."""
    try:
        return float(budget.split()[0].replace(",", ""))
    except ValueError:
        return None


def _mean(records: Sequence[dict[str, Any]], target: str, attack: str, budget: str, black: str) -> float | None:
    """Mean accuracy over seeds. Where the black box has no such attack, what it has with the same budget."""
    same = [r for r in records if (r["attack"], r["budget"]) == (attack, budget)]
    own = [r["accuracy"] for r in same if r["target"] == target]
    if not own and target == black:
        own = list({r.get("seed"): r["black_box"] for r in same if "black_box" in r}.values())
    return sum(own) / len(own) if own else None


def _places(left: float, amounts: Sequence[float]) -> list[float]:
    logs = [math.log(number) for number in amounts]
    low, high = min(logs), max(logs)
    return [left + (WIDTH / 2 if high == low else 20 + (WIDTH - 40) * (log - low) / (high - low)) for log in logs]


def _axes(left: float, name: str, places: Sequence[float], amounts: Sequence[float], unit: str) -> list[str]:
    bottom = TOP + HEIGHT
    found = [f'<text x="{left}" y="{TOP - 14}" font-weight="bold">{escape(name)}</text>']
    for fifth in range(6):
        y = bottom - HEIGHT * fifth / 5
        found.append(f'<path d="M{left},{y:.1f}h{WIDTH}" stroke="#e3e6e8"/>')
        found.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{20 * fifth} %</text>')
    for x, number in dict(zip(places, amounts, strict=True)).items():
        found.append(f'<path d="M{x:.1f},{bottom}v5" stroke="black"/>')
        found.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{number:.10g}</text>')
    found.append(f'<text x="{left + WIDTH / 2}" y="{bottom + 32}" text-anchor="middle">{escape(unit)}</text>')
    return found


def _curve(
    places: Sequence[float], budgets: Sequence[str], values: Sequence[float | None], look: str, name: str
) -> list[str]:
    points = [
        (x, TOP + HEIGHT * (1 - value), budget, value)
        for x, budget, value in zip(places, budgets, values, strict=True)
        if value is not None
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    found = [f'<polyline points="{line}" fill="none" stroke-width="2" {look}/>'] if points else []
    return found + [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="white" stroke-width="2" {look.partition(" stroke-d")[0]}>'
        f"<title>{escape(f'{name}, {budget}: {value:.1%}')}</title></circle>"
        for x, y, budget, value in points
    ]

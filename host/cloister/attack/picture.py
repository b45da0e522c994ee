# SPDX-License-Identifier: BSD-2-Clause
"""The report as a plot, in SVG: a group of bars for each attack and budget, a bar for each target."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from cloister.attack.table import budget_label, labels, rows_of, title
from cloister.svg import document

LEFT, RIGHT, TOP = 390, 30, 56
BAR, GAP, WIDTH = 11, 10, 960
COLOURS = ("#c0504d", "#3f7fbf", "#4f9d52", "#e0913a", "#7a5aa6", "#2b8f96", "#9a6b3f", "#5b6770")


def draw(records: Sequence[dict[str, Any]], heading: str, colours: Sequence[str] = ()) -> str:
    """The plot as SVG text. Bars are accuracies, ticks on them fidelities; means over seeds.

    A line at a bar's end goes from the least to the most of the seeds. A dashed line in each group marks the black box
    with the same budget.

    Args:
        records: as the bench makes them.
        heading: stands above.
        colours: names of targets in the order of :data:`COLOURS`, so that several plots use the same ones; default:
            those of the records.
    """
    targets = list(dict.fromkeys(record["target"] for record in records))
    order, known = list(dict.fromkeys((*colours, *targets))), labels(targets)
    several = False  # whether anything was attacked with several seeds that differ
    colour = {target: COLOURS[order.index(target) % len(COLOURS)] for target in targets}
    span = WIDTH - LEFT - RIGHT
    body: list[str] = []
    top = TOP + 18 * len(targets)
    for place, target in enumerate(targets):
        at = TOP - 18 + 18 * place
        body.append(f'<rect x="{LEFT}" y="{at}" width="12" height="12" fill="{colour[target]}"/>')
        body.append(f'<text x="{LEFT + 18}" y="{at + 10}">{escape(known[target])}</text>')
    at = top
    for attack, budget in rows_of(records):
        own = [record for record in records if (record["attack"], record["budget"]) == (attack, budget)]
        shown = [target for target in targets if any(record["target"] == target for record in own)]
        height = BAR * len(shown)
        middle = at + height / 2 + 4
        text = escape(f"{title(attack)}, {budget_label(own, attack, budget)}")
        body.append(f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{text}</text>')
        for place, target in enumerate(shown):
            these = [record for record in own if record["target"] == target]
            accuracy, fidelity = (sum(record[key] for record in these) / len(these) for key in ("accuracy", "fidelity"))
            y, x = at + BAR * place, LEFT + span * fidelity
            note = f"{known[target]}: accuracy {accuracy:.1%}, fidelity {fidelity:.1%}"
            body.append(
                f'<rect x="{LEFT}" y="{y}" width="{span * accuracy:.1f}" height="{BAR - 1}" '
                f'fill="{colour[target]}"><title>{escape(note)}</title></rect>'
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + BAR - 1}" stroke="black" stroke-width="2"/>'
            )
            low, high = (LEFT + span * found([record["accuracy"] for record in these]) for found in (min, max))
            if high > low:
                several = True
                body.append(f'<path d="M{low:.1f},{y + BAR / 2 - 0.5}H{high:.1f}" stroke="black"/>')
        bounds = [record["black_box"] for record in own if "black_box" in record]
        if bounds:
            x = LEFT + span * sum(bounds) / len(bounds)
            body.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{at - 3}" y2="{at + height + 2}" stroke="black" '
                'stroke-dasharray="3 2"/>'
            )
        at += height + GAP
    for tenth in range(0, 11, 2):
        x = LEFT + span * tenth / 10
        body.insert(0, f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{at}" stroke="#e3e6e8"/>')
        body.append(f'<text x="{x:.1f}" y="{at + 14}" text-anchor="middle">{10 * tenth} %</text>')
    spread = " (thin line: least to most of the seeds)" if several else ""
    key = f"bar: accuracy{spread}; tick: agreement; dashed: black box"
    body.append(f'<text x="{LEFT}" y="{at + 34}">{key}</text>')
    height = at + 46
    return document(WIDTH, height, body, heading)

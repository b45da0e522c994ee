# SPDX-License-Identifier: BSD-2-Clause
"""Accuracies as bars, in SVG: means, with a line from the least to the most of the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from cloister.svg import document

WIDTH, LEFT, RIGHT, TOP = 900, 190, 150, 66
BAR, GAP = 13, 10
COLOURS = ("#9aa0a6", "#3f7fbf", "#c0504d", "#4f9d52")


def draw(heading: str, groups: Mapping[str, Mapping[str, Sequence[float]]], mark: float, says: str) -> str:
    """The plot as SVG text.

    Args:
        heading: stands above.
        groups: by its name to the left, the values of each bar (0 to 1, one of each seed) by the bar's name.
        mark: where a dashed line stands, 0 to 1.
        says: what that line is.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    span = WIDTH - LEFT - RIGHT
    body: list[str] = []
    for place, name in enumerate(names):
        x = LEFT + 170 * place
        body.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{COLOURS[place % len(COLOURS)]}"/>'
                    f'<text x="{x + 18}" y="46">{escape(name)}</text>')  # fmt: skip
    at = TOP
    for label, group in groups.items():
        height = BAR * len(group)
        body.append(f'<text x="{LEFT - 8}" y="{at + height / 2 + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        for place, (name, values) in enumerate(group.items()):
            colour = COLOURS[names.index(name) % len(COLOURS)]
            mean, low, high = sum(values) / len(values), min(values), max(values)
            y = at + BAR * place
            told = f"{mean:.2%}" + (f" ({low:.2%} to {high:.2%})" if high > low else "")
            body.append(f'<rect x="{LEFT}" y="{y}" width="{span * mean:.1f}" height="{BAR - 1}" '
                        f'fill="{colour}"><title>{escape(f"{label}, {name}: {told}")}</title></rect>'
                        f'<text x="{LEFT + span * high + 5:.1f}" y="{y + 10}" font-size="10">{told}'
                        "</text>")  # fmt: skip
            if high > low:
                body.append(f'<path d="M{LEFT + span * low:.1f},{y + BAR / 2 - 0.5}H{LEFT + span * high:.1f}" '
                            'stroke="black"/>')  # fmt: skip
        at += height + GAP
    dashed = LEFT + span * mark
    body.append(f'<line x1="{dashed:.1f}" x2="{dashed:.1f}" y1="{TOP - 6}" y2="{at}" stroke="black" '
                'stroke-dasharray="3 2"/>')  # fmt: skip
    for tenth in range(0, 11, 2):
        line = LEFT + span * tenth / 10
        body.insert(0, f'<line x1="{line:.1f}" x2="{line:.1f}" y1="{TOP - 4}" y2="{at}" stroke="#e3e6e8"/>')
        body.append(f'<text x="{line:.1f}" y="{at + 14}" text-anchor="middle">{10 * tenth} %</text>')
    body.append(f'<text x="{LEFT}" y="{at + 34}">{escape(f"dashed: {says}; thin lines: least to most of the seeds")}'
                "</text>")  # fmt: skip
    height = at + 46
    return document(WIDTH, height, body, heading)

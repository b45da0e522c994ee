# SPDX-License-Identifier: BSD-2-Clause
"""A drawing of the protected network, as SVG: which part of it lies in which world, and what crosses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import prod
from typing import Any

from cloister.protect.automatic.costs import needs_backbone
from cloister.protect.strategy import IMAGE, LOGITS, Strategy

WIDTH, LANE, GAP, LEFT = 960, 120, 56, 20
#: Boxes of less have no room for most names.
NARROW = 60
NORMAL, SECURE, BOX, INNER, LINE = "#fdf1e3", "#e4eef7", "#ffffff", "#2c7fb8", "#5b6770"


def draw(tensors: Mapping[str, Sequence[int]], crossing: Sequence[Mapping[str, Any]], strategy: Strategy) -> str:
    """The drawing.

    Args:
        tensors: shapes of what can be tapped, in order: the victim's course.
        crossing: the CPM's inputs: ``tap``, and ``shape`` as it crosses.
        strategy: the chosen one.
    """
    top, bottom = 40, 40 + LANE + GAP
    height = bottom + LANE + 20
    body = [
        _lane(top, NORMAL, "normal world: anybody may read this", LANE),
        _lane(bottom, SECURE, "secure world: inside the TA, sealed elsewhere", LANE),
    ]
    whole = strategy.kind == "whole"
    if strategy.lock is not None:
        body.append(
            f'<text x="{WIDTH - LEFT - 10}" y="{bottom + LANE - 10}" text-anchor="end" fill="{LINE}">'
            "locked: answers with the licence's password alone</text>"
        )
    course = [IMAGE, *(name for name in tensors if name not in (IMAGE, LOGITS))]
    step = (WIDTH - 2 * LEFT - 150) / max(1, len(course))
    side = min(92.0, step - 14)
    places = {name: LEFT + 16 + step * place for place, name in enumerate(course)}
    places[LOGITS] = WIDTH - LEFT - 132.0
    shipped = _shipped(course, strategy)
    before: str | None = None
    for name in [*course, LOGITS]:
        low = whole and name != IMAGE
        at, up = places[name], (bottom if low else top) + 46
        there = name in shipped or whole
        if before == IMAGE and low:  # down into the other world
            path = f"M{places[before] + side / 2:.1f},{top + 98}V{up + 16}H{at:.1f}"
            body.append(f'<path d="{path}" stroke="{INNER}" fill="none"/>')
            body.append(_arrow(at - 1, up + 16, at, up + 16, colour=INNER))
        elif before is not None:
            start = (bottom if whole else top) + 62
            body.append(_arrow(places[before] + side, start, at, up + 16, dashed=not there))
        shape = "x".join(map(str, tensors.get(name, ())))
        wide = 112.0 if name == LOGITS else side
        title = {IMAGE: "image", LOGITS: "answer" if whole else "own answer"}.get(name, name)
        body.append(_box(at, up, wide, title, shape, dashed=not there, strong=low))
        before = name
    if not whole:
        body += _monitor(crossing, places, side, bottom, top)
    note = {
        "tampered": "trained until it is of little use by itself", "trained": "the victim's own layers, as they are",
        "truncated": "the victim's first layers; dashed ones are in no file", "random": "drawn, never trained",
    }.get(strategy.backbone, "")  # fmt: skip
    if whole or not needs_backbone(strategy):
        note = "nothing of the model lies here"
    if strategy.pruned is not None:
        note = f"pruned to {strategy.pruned:.1%} first; {note}" if note else f"pruned to {strategy.pruned:.1%} first"
    body.append(f'<text x="{WIDTH - LEFT - 10}" y="{top + 20}" text-anchor="end" fill="{LINE}">{escape(note)}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="sans-serif" font-size="12" role="img" '
            'aria-label="which part of the network lies in which world">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">What lies in which world</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _shipped(course: Sequence[str], strategy: Strategy) -> set[str]:
    """Tensors that the normal world computes."""
    if strategy.kind == "whole" or not needs_backbone(strategy):
        return {IMAGE}
    if strategy.tail == "whole" and strategy.backbone in ("tampered", "trained"):
        return {*course, LOGITS}
    if LOGITS in strategy.taps:
        return {*course, LOGITS}
    last = max((course.index(tap) for tap in strategy.taps if tap in course), default=0)
    return {*course[: last + 1], LOGITS}


def _monitor(
    crossing: Sequence[Mapping[str, Any]], places: Mapping[str, float], side: float, bottom: int, top: int
) -> list[str]:
    """The CPM: a stage beneath each tap, and the answer."""
    body, before = [], None
    up = bottom + 50
    for number, entry in enumerate(crossing):
        at = places[entry["tap"]] - (side if entry["tap"] == LOGITS else 0)
        middle = at + side / 2
        tapped = places[entry["tap"]] + (56 if entry["tap"] == LOGITS else side / 2)
        body.append(_arrow(tapped, top + 98, middle, up, colour=INNER))
        shape = "x".join(map(str, entry["shape"]))
        text = f"{shape} = {prod(entry['shape']):,}" if len(entry["shape"]) > 1 else shape
        lines = [text] if side >= NARROW else [entry["tap"], text]  # its box is too narrow for the name
        for place, line in enumerate(lines):
            height = bottom - GAP / 2 + 4 + 14 * (place - (len(lines) - 1) / 2)
            body.append(f'<text x="{middle + 5:.1f}" y="{height:.1f}" fill="{INNER}">{escape(line)}</text>')
        stage = f"stage {number + 1}" if side >= NARROW else str(number + 1)
        body.append(_box(at, up, side, stage, "", dashed=False, strong=True))
        if before is not None:
            body.append(_arrow(before, up + 16, at, up + 16, colour=INNER))
        before = at + side
    end = WIDTH - LEFT - 132.0
    if before is not None and before < end:
        body.append(_arrow(before, up + 16, end + 20, up + 16, colour=INNER))
    body.append(_box(end + 20, up, 100, "the answer", "all that leaves", dashed=False, strong=True))
    return body


def _lane(top: int, colour: str, title: str, height: int) -> str:
    return (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH - 2 * LEFT}" height="{height}" rx="6" fill="{colour}"/>'
        f'<text x="{LEFT + 10}" y="{top + (20 if colour == NORMAL else height - 10)}" font-weight="bold">'
        f"{escape(title)}</text>"
    )


def _box(x: float, y: float, width: float, title: str, below: str, *, dashed: bool, strong: bool) -> str:
    style = 'stroke-dasharray="4 3" fill="none"' if dashed else f'fill="{INNER if strong else BOX}"'
    ink = "white" if strong and not dashed else "black"
    room = max(2, int(width / 7))
    small = len(title) > room and 5.6 * len(title) <= width - 4
    font = 10 if small else 12
    shown = title if small or len(title) <= room else f"…{title[1 - room :]}" if room > 5 else ""
    found = (
        f'<rect x="{x:.1f}" y="{y}" width="{max(4.0, width):.1f}" height="32" rx="4" stroke="{LINE}" {style}>'
        f"<title>{escape(f'{title} {below}'.strip())}</title></rect>"
        f'<text x="{x + width / 2:.1f}" y="{y + 20}" text-anchor="middle" fill="{ink}" font-size="{font}">'
        f"{escape(shown)}</text>"
    )
    if below and len(below) <= width / 6 + 2:
        found += (
            f'<text x="{x + width / 2:.1f}" y="{y + 48}" text-anchor="middle" font-size="10" fill="{LINE}">'
            f"{escape(below)}</text>"
        )
    return found


def _arrow(x: float, y: float, to_x: float, to_y: float, *, dashed: bool = False, colour: str = LINE) -> str:
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    down = abs(to_y - y) > abs(to_x - x)
    head = (
        f"M{to_x - 4:.1f},{to_y - 7:.1f}L{to_x:.1f},{to_y:.1f}L{to_x + 4:.1f},{to_y - 7:.1f}"
        if down
        else f"M{to_x - 7:.1f},{to_y - 4:.1f}L{to_x:.1f},{to_y:.1f}L{to_x - 7:.1f},{to_y + 4:.1f}"
    )
    return (
        f'<path d="M{x:.1f},{y:.1f}L{to_x:.1f},{to_y:.1f}" stroke="{colour}" fill="none"{dash}/>'
        f'<path d="{head}" stroke="{colour}" fill="none"/>'
    )

# SPDX-License-Identifier: BSD-2-Clause
"""The curves of attacks: every budget has its place, both bounds are there."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

from cloister.attack.curves import HEIGHT, TOP, draw

ABOUT = {"black_box": "black box", "white_box": "white box"}


def record(target: str, attack: str, budget: str, accuracy: float, seed: int = 0) -> dict[str, Any]:
    return {
        "target": target, "attack": attack, "budget": budget, "accuracy": accuracy, "black_box": 0.4, "seed": seed,
    }  # fmt: skip


STEAL = [
    record(target, "steal", f"{count} queries", accuracy + 0.1 * place)
    for target, accuracy in (("white box", 0.7), ("mine & yours", 0.5), ("black box", 0.2))
    for place, count in enumerate((50, 500, 5000))
]


def circles(text: str) -> dict[str, tuple[float, float]]:
    found = {}
    for part in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}circle"):
        found[part[0].text or ""] = (float(part.get("cx", 0)), float(part.get("cy", 0)))
    return found


def test_a_curve_goes_through_every_budget_on_a_logarithmic_scale() -> None:
    places = circles(draw(STEAL, ABOUT, "heading"))
    assert len(places) == 9
    x = [places[f"mine & yours, {count} queries: {value}"][0] for count, value in
         ((50, "50.0%"), (500, "60.0%"), (5000, "70.0%"))]  # fmt: skip
    assert x[1] - x[0] == x[2] - x[1] > 0
    assert places["mine & yours, 50 queries: 50.0%"][1] == TOP + HEIGHT / 2
    assert places["white box, 50 queries: 70.0%"][1] < places["black box, 50 queries: 20.0%"][1]


def test_seeds_are_averaged_and_the_black_box_stands_in_where_it_has_no_such_attack() -> None:
    heads = [record("mine", "head", "10 % of the data", value, seed) for seed, value in ((0, 0.5), (1, 0.7))]
    assert set(circles(draw(heads, ABOUT, ""))) == {
        "mine, 10 % of the data: 60.0%", "black box, 10 % of the data: 40.0%",
    }  # fmt: skip


def test_attacks_without_a_scale_have_no_panel() -> None:
    more = [record("mine & yours", "direct", "no data", 0.1), record("mine & yours", "mask", "10 % of the data", 0.2)]
    text = draw([*STEAL, *more], ABOUT, "")
    assert len(circles(text)) == 9 and len(re.findall('font-weight="bold">[^<]', text)) == 1
    assert circles(draw(more[:1], ABOUT, "")) == {}

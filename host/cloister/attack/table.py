# SPDX-License-Identifier: BSD-2-Clause
"""The report as a markdown table: attacks and budgets down, targets across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloister.attack.attacks import ATTACKS

#: A dictionary for each attack, target and budget.
Record = dict[str, Any]


def rows_of(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Attacks and budgets in the order of the report."""
    found: dict[tuple[str, str], None] = {}
    for name in ATTACKS:
        for record in records:
            if record["attack"].partition(",")[0] == name:
                found[record["attack"], record["budget"]] = None
    return list(found)


def title(attack: str) -> str:
    """An attack's name in words."""
    name, comma, more = attack.partition(",")
    return f"{ATTACKS[name].TITLE}{comma}{more}"


def cells(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: in each cell accuracy, fidelity and ratio to the black box, means over seeds."""
    targets = list(dict.fromkeys(record["target"] for record in records))
    rows = []
    for attack, budget in rows_of(records):
        row = [title(attack), budget]
        for target in targets:
            own = [r for r in records if (r["target"], r["attack"], r["budget"]) == (target, attack, budget)]
            row.append(_cell(own))
        rows.append(row)
    return ["attack", "budget", *targets], rows


def _cell(own: Sequence[Record]) -> str:
    if not own:
        return ""
    accuracy, fidelity = (sum(record[key] for record in own) / len(own) for key in ("accuracy", "fidelity"))
    ratios = [record["ratio"] for record in own if "ratio" in record]
    ratio = f" / {sum(ratios) / len(ratios):.2f}" if ratios else ""
    return f"{accuracy:.1%} / {fidelity:.1%}{ratio}"


def markdown(records: Sequence[Record], about: dict[str, Any]) -> str:
    """The report's page."""
    heads, rows = cells(records)
    lines = [
        f"# Attacks, {about['data']}", "",
        "Each cell: accuracy / agreement with the authorised model / accuracy as a ratio to the black box's with the",
        "same budget. Figures are of the test images; everything was chosen on validation images. Seed "
        f"{about['seed']}, {about['training_images']} training images.",
        "", "![attacks](attacks.svg)", "",
        "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows), "",
    ]  # fmt: skip
    return "\n".join(lines)

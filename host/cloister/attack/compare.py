# SPDX-License-Identifier: BSD-2-Clause
"""Every record's accuracy beside that of the black box."""

from __future__ import annotations

from collections.abc import Sequence

from cloister.attack.attacker import Record


def compare(records: Sequence[Record], black: str) -> None:
    """Add to each record ``ratio`` and ``above``: accuracy over the black box's, and less it, with the same budget.

    Where the black box has no such budget (no data, one run), it guesses.
    """
    bounds: dict[str, float] = {}
    for record in records:
        if record["target"] == black:
            bounds[record["budget"]] = record["accuracy"]
    for record in records:
        bound = bounds.get(record["budget"], bounds.get("no data"))
        if bound is not None:
            record["black_box"] = bound
            record["ratio"] = record["accuracy"] / bound if bound else float("inf")
            record["above"] = record["accuracy"] - bound

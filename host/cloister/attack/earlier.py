# SPDX-License-Identifier: BSD-2-Clause
"""An earlier report in the same folder: what it has of other targets and attacks stays in the new one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloister.attack.attacker import METHOD, Record, digest_of
from cloister.attack.attacks import ATTACKS
from cloister.attack.compare import compare
from cloister.attack.kept import OWN, Identity


def identities_of(identities: dict[str, Identity], *more: object) -> dict[str, str]:
    """A digest for each target, by its name, of what its records depend on: a report has it as ``about["identity"]``.

    Args:
        identities: as :func:`~cloister.attack.kept.identity_of` gives them, by targets' names.
        *more: what the records of all targets depend on beyond that.
    """
    return {name: digest_of(repr((identity, METHOD, OWN, more))) for name, identity in identities.items()}


def beside(path: Path, records: Sequence[Record], about: dict[str, Any]) -> tuple[list[Record], dict[str, Any]]:
    """Records of an earlier report that the new one has not, and the earlier report's ``about``; [] and {}: none.

    They are taken where both have the same black box, so one victim, data and effort, and where the target is the same
    or is not in the new report.

    Args:
        path: of the earlier report, JSON; it need not be there.
        records, about: of the new report.
    """
    try:
        former = json.loads(path.read_text(encoding="utf-8"))
        before, theirs, found = former["about"], former["about"]["identity"], former["records"]
        ours, black = about.get("identity", {}), about["black_box"]
        if before["black_box"] != black or black not in ours or theirs[black] != ours[black]:
            return [], {}
        made = {_cell(record) for record in records}
        same = {name for name, digest in theirs.items() if ours.get(name, digest) == digest}
        more = [record for record in found if record["target"] in same and _cell(record) not in made]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [], {}  # none, or one of before this was kept: it is replaced
    return more, before


def joined(path: Path, records: Sequence[Record], about: dict[str, Any]) -> tuple[list[Record], dict[str, Any]]:
    """The new report with what :func:`beside` finds in the earlier one, targets in the earlier one's order.

    Args:
        path, records, about: as for :func:`beside`.
    """
    more, before = beside(path, records, about)
    if not more:
        return list(records), about
    black = about["black_box"]
    names = list(dict.fromkeys(record["target"] for record in (*more, *records)))
    first = [name for name in (about["white_box"], before["white_box"]) if name]
    names.sort(key=lambda name: (name == black, name not in first))  # both bounds stand where they always do
    attacks = list(ATTACKS)
    every = sorted(
        (*more, *records), key=lambda record: (names.index(record["target"]), attacks.index(_cell(record)[1]))
    )
    compare(every, black)  # with the black box as it is now
    chosen = {*about["attacks"], *before["attacks"]}
    return every, {
        **about,
        "attacks": [name for name in ATTACKS if name in chosen],
        "white_box": about["white_box"] or before["white_box"],
        "identity": {**before["identity"], **about["identity"]},
    }


def _cell(record: Record) -> tuple[str, str]:
    """Target and attack; what is trained on from an attack belongs to it."""
    return record["target"], record["attack"].partition(",")[0]

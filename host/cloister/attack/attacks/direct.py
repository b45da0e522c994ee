# SPDX-License-Identifier: BSD-2-Clause
"""Use what is exposed as it is."""

from __future__ import annotations

import time

from cloister.attack.attacker import Attacker, Outcome, Record

TITLE = "direct use"
SOURCE = "the bound that any exposure has: nothing is trained"
#: Attackers who have neither data nor queries.
BUDGET = "no data"


def run(attacker: Attacker) -> list[Record]:
    """One record. Where no network is exposed, the attacker guesses at equal chances, and figures are expectations."""
    began = time.monotonic()
    module = attacker.target.module()
    if module is None:
        chance = 1 / len(attacker.splits.classes)
        return [
            {"target": attacker.target.name, "attack": "direct", "budget": BUDGET, "start": "guess",
             "accuracy": chance, "fidelity": chance, "validation": chance, "rate": 0.0, "tried": {},
             "seed": attacker.seed, "seconds": 0.0}
        ]  # fmt: skip
    score = attacker.validate(module.cpu())
    return [attacker.record("direct", BUDGET, Outcome(module, "exposed", 0.0, score, {}), began)]

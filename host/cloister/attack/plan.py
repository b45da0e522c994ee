# SPDX-License-Identifier: BSD-2-Clause
"""About how much work an attack on a target is, before it begins."""

from __future__ import annotations

from cloister.attack.attacker import DRAWS, FINALISTS, NORMALISED, Attacker
from cloister.attack.attacks.mask import KINDS
from cloister.attack.attacks.signs import TELLS
from cloister.attack.progress import Plan

#: Starts of most networks: new heads on exposed parts, ways to begin a mask, guesses of turned channels.
HEADS, MASKS, GUESSES = 6, len(KINDS), 2 * len(TELLS)


def planned(attacker: Attacker, attack: str) -> Plan:
    """What an attack takes of which nothing is there yet; nothing where it trains nothing, or does not apply.

    Args:
        attacker: of one target.
        attack: a name of :data:`~cloister.attack.attacks.ATTACKS`.
    """
    effort, target = attacker.effort, attacker.target
    whole = target.module() is not None
    exposed = whole or hasattr(target, "features")
    locked = whole and getattr(target, "lock", True)
    rates, usual = len(effort.rates), (DRAWS + NORMALISED) * len(effort.rates)
    pairs: list[int] = []  # starts and rates of each call of Attacker.train
    if attack == "finetune":
        pairs = [usual] * len(effort.shares)
    elif attack == "steal":
        pairs = [usual] * len(effort.queries) * (2 if exposed else 1)
    elif attack == "head" and exposed:
        pairs = [HEADS * rates] * len(effort.shares)
    elif attack == "mask" and locked:
        pairs = [MASKS * len(effort.mask_rates), rates]
    elif attack == "prune" and locked and effort.pruned:
        pairs = [usual]
    elif attack == "signs" and locked:
        pairs = [GUESSES * rates]
    trials = sum(count for count in pairs if count > FINALISTS)
    full = sum(min(count, FINALISTS) for count in pairs)
    return Plan(trials + full, trials * effort.trial + full * effort.steps)

# SPDX-License-Identifier: BSD-2-Clause
"""The attacks, one module each: TITLE, SOURCE, and ``run(attacker) -> list[Record]``."""

from __future__ import annotations

from types import ModuleType

from cloister.attack.attacks import direct, finetune, head, mask, observe, prune, signs, steal

#: Attacks by name, in the order of the report.
ATTACKS: dict[str, ModuleType] = {
    "direct": direct,
    "finetune": finetune,
    "steal": steal,
    "head": head,
    "mask": mask,
    "prune": prune,
    "signs": signs,
    "observe": observe,
}

__all__ = ["ATTACKS"]

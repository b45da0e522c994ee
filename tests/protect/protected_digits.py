# SPDX-License-Identifier: BSD-2-Clause
"""A network for the digits, and cloister protect on it with little effort."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from digits_data import digits_splits
from torch import nn

from cloister.attack import Effort
from cloister.protect.automatic import (
    Depth,
    Protected,
    ProtectSettings,
    protect_model,
)
from cloister.protect.training import Augmentation, Recipe, fit, network
from cloister.seal import VendorKey
from cloister.search import Budget
from cloister.search import Effort as SearchEffort

CROP = Augmentation(crop=1)
ATTACKS = ("direct", "finetune", "steal")
TINY = Effort(
    shares=(0.1,), queries=(100,), rates=(0.05,), mask_rates=(0.1,), epochs=2, steps=20, trial=5, validation=200
)
SETTINGS = ProtectSettings(
    full=Depth(4, 1, ATTACKS[1:], TINY), proxy=Depth(1, 0, ATTACKS, TINY), batch=64, rate=0.1,
    search=SearchEffort(estimates=8, proxies=2, trainings=1, start=1), forms=("tampered",),
)  # fmt: skip
#: Digits are so small that the boundary alone is a third of the unprotected model.
BUDGET = Budget.parse("1MiB", "150%", "40")


@cache
def victim() -> nn.Module:
    recipe = Recipe(epochs=10, batch=64, rate=0.1, augmentation=CROP, seed=3)
    return fit(network("digits", 1, 10, 5), digits_splits(), recipe, device="cpu", quiet=True).module


def protect(folder: Path, budget: Budget = BUDGET, settings: ProtectSettings = SETTINGS, **given: Any) -> Protected:
    given = {"keys": folder.parent / "keys", "device": "cpu", "quiet": True, **given}
    VendorKey.load_or_generate(given["keys"])
    return protect_model(victim(), digits_splits(), budget, folder, settings=settings, **given)

# SPDX-License-Identifier: BSD-2-Clause
"""EdgePro: what is lost with the password, what is left without it."""

from __future__ import annotations

from dataclasses import replace

import torch

from cloister.protect.edgepro import Locked, LockSettings, lock_model
from cloister.protect.results.cases import Case
from cloister.protect.results.context import Context, Record

TITLE = "EdgePro: accuracy with and without the password"

#: What is compared. "published" is what the published code does; "turned" this project's locks alone; "mixed" both.
VARIANTS: dict[str, LockSettings] = {
    "published": LockSettings.published(),
    "constants": LockSettings(turned_share=0.0),
    "turned": LockSettings(constant_share=0.0),
    "mixed": LockSettings(),
}
#: Those that a plain run makes.
DEFAULT = ("turned", "mixed", "published")


def locked(context: Context, case: Case, seed: int, variant: str) -> Locked:
    """The locked model of that variant; trained now, or loaded if it was before."""
    settings = VARIANTS[variant]
    recipe = replace(
        settings.recipe, epochs=case.lock.epochs, batch=case.lock.batch, rate=case.lock.rate,
        augmentation=case.lock.augmentation, precision=case.lock.precision, seed=seed,
    )  # fmt: skip
    return lock_model(
        context.victim(case, seed), context.splits(case), replace(settings, recipe=context.scaled(recipe), seed=seed),
        folder=context.work / f"edgepro-{variant}-{case.name}-{seed}", device=context.device,
        name=f"locking {case.name} ({variant}), seed {seed}", quiet=context.quiet,
    )  # fmt: skip


def run(context: Context, case: Case, seed: int, variants: tuple[str, ...] = DEFAULT) -> list[Record]:
    """A record for each variant: accuracies (0 to 1), locked channels, seconds; files lie in the folder of work."""
    records = []
    for variant in variants:

        def measure(variant: str = variant) -> Record:
            made = locked(context, case, seed, variant)
            folder = context.work / f"edgepro-{variant}-{case.name}-{seed}"
            made.save(folder, f"{case.name}-{variant}")
            torch.save(made.module.state_dict(), folder / "locked.pt")
            report = made.report
            return {
                "test": report["test"],
                "validation": report["validation"],
                "constants": sum(len(layer["constants"]) for layer in report["layers"]),
                "turned": sum(len(layer["turned"]) for layer in report["layers"]),
                "channels": sum(layer["channels"] for layer in report["layers"]),
                "training_s": round(report["training_s"], 1),
            }

        records.append(context.once("edgepro", case, seed, measure, variant=variant))
    return records


def table(records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: test accuracy of each locked network."""
    rows = []
    for record in records:
        test = record["test"]
        lost, left = test["unlocked"] - test["with_password"], test["without_password"]
        rows.append(
            [record["model"], record["variant"], str(record["seed"]), f"{test['unlocked']:.2%}",
             f"{test['with_password']:.2%}", f"{100 * lost:.2f}", f"{left:.2%}",
             "yes" if lost < 0.01 and left <= 0.12 else "no",
             f"{record['constants']} + {record['turned']} of {record['channels']}", f"{record['training_s']:.0f}"]
        )  # fmt: skip
    heads = ["network", "lock", "seed", "unlocked", "with password", "points lost", "without", "reached",
             "channels: constant + turned", "seconds"]  # fmt: skip
    return heads, rows

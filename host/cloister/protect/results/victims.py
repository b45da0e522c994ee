# SPDX-License-Identifier: BSD-2-Clause
"""The victims, trained plainly: how accurate they are."""

from __future__ import annotations

from cloister.protect.results.cases import Case
from cloister.protect.results.context import Context, Record
from cloister.protect.training import accuracy

TITLE = "Victims, trained plainly"


def run(context: Context, case: Case, seed: int) -> list[Record]:
    """One record: validation and test accuracy (0 to 1), parameters, epochs."""

    def measure() -> Record:
        fitted, splits = context.fitted(case, seed), context.splits(case)
        module = fitted.module.cpu()
        return {
            "validation": accuracy(module, splits.validation, splits),
            "test": accuracy(module, splits.test, splits),
            "target": case.target,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "training_s": round(fitted.seconds, 1),
            "epochs": context.scaled(case.recipe).epochs,
            "training_images": len(splits.train),
        }

    return [context.once("victim", case, seed, measure)]


def table(records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: each network's accuracy on the test images, for all seeds."""
    rows = []
    for record in records:
        met = "yes" if record["test"] >= record["target"] else "no"
        rows.append(
            [record["model"], str(record["seed"]), f"{record['validation']:.2%}", f"{record['test']:.2%}",
             f"{record['target']:.0%}", met, str(record["epochs"]), f"{record['training_s']:.0f}"]
        )  # fmt: skip
    return ["network", "seed", "validation", "test", "wanted", "reached", "epochs", "seconds"], rows

# SPDX-License-Identifier: BSD-2-Clause
"""Progressive pruning: what is left of the multiply-accumulates, and what that costs in accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloister.protect.prune import Pruned, PruneSettings, prune_model
from cloister.protect.prune.report import full_report
from cloister.protect.results.cases import Case
from cloister.protect.results.context import Context, Record

TITLE = "Progressive pruning within one point of the validation accuracy"

#: How each network is pruned; recipes take batch and augmentation from its case.
SETTINGS: dict[str, PruneSettings] = {
    "digits": PruneSettings(steps=2, target=0.3, final=3, images=500),
    "lenet5": PruneSettings(steps=6, target=0.2, final=8, round_to=1, least=2),
    "vgg7": PruneSettings(steps=8, target=0.12, final=40),
    "resnet20": PruneSettings(steps=5, target=0.38, final=40),
}
#: Epochs after each step, and the highest rate of the fine-tuning.
TUNING: dict[str, tuple[int, float]] = {
    "digits": (3, 0.05), "lenet5": (2, 0.02), "vgg7": (6, 0.05), "resnet20": (6, 0.05),
}  # fmt: skip
#: Share of the multiply-accumulates that is wanted at no more than one point lost.
WANTED = {"vgg7": 1 / 8, "resnet20": 1 / 2.5}

#: What is compared: changes to the settings of the case.
VARIANTS: dict[str, dict[str, object]] = {
    "taylor": {},
    "l2": {"criterion": "l2"},
    "bn": {"criterion": "bn"},
    "median": {"criterion": "median"},
    "random": {"criterion": "random"},
    "layer by layer": {"scope": "layer"},
    "by instructions": {"weigh": "instructions"},
    "not weighed": {"weigh": "none"},
    "labels alone": {"distil": 0.0},
}
DEFAULT = ("taylor",)
#: Networks that have more than the default: LeNet-5 is small enough for all.
COMPARED = {"digits": ("taylor", "labels alone"), "lenet5": tuple(VARIANTS)}


def settings_of(context: Context, case: Case, seed: int, variant: str) -> PruneSettings:
    """How the network is pruned in that variant."""
    settings = SETTINGS[case.name]
    epochs, rate = TUNING[case.name]
    recipe = replace(settings.recipe, epochs=epochs, rate=rate, batch=case.lock.batch,
                     augmentation=case.lock.augmentation, precision=case.lock.precision, seed=seed)  # fmt: skip
    final = max(1, round(settings.final * context.epochs))
    changes: dict[str, object] = {"recipe": context.scaled(recipe), "final": final, "seed": seed, **VARIANTS[variant]}
    return replace(settings, **changes)  # type: ignore[arg-type]


def pruned(context: Context, case: Case, seed: int, variant: str = "taylor") -> Pruned:
    """The pruned network of that variant; made now, or loaded if it was before."""
    return prune_model(
        context.victim(case, seed), context.splits(case), settings_of(context, case, seed, variant),
        folder=_folder(context, case, seed, variant) / "training", device=context.device,
        name=f"pruning {case.name} ({variant}), seed {seed}", quiet=context.quiet,
    )  # fmt: skip


def _folder(context: Context, case: Case, seed: int, variant: str) -> Path:
    return context.work / f"prune-{variant.replace(' ', '-')}-{case.name}-{seed}"


def run(context: Context, case: Case, seed: int, variants: tuple[str, ...] = ()) -> list[Record]:
    """A record for each variant: accuracies (0 to 1), multiply-accumulates, widths; costs and steps of the default."""
    records = []
    for variant in variants or COMPARED.get(case.name, DEFAULT):

        def measure(variant: str = variant) -> Record:
            made, folder = pruned(context, case, seed, variant), _folder(context, case, seed, variant)
            made.save(folder)
            report = made.report
            figures: Record = {
                "test": report["test"], "validation": report["validation"], "macs": report["macs"],
                "parameters": report["parameters"], "wanted": WANTED.get(case.name),
                "widths": report["final"]["widths"], "steps": len(made.steps) - 1,
                "training_s": round(report["training_s"], 1),
            }  # fmt: skip
            if variant in DEFAULT:
                figures["rows"] = full_report(made, context.splits(case), folder)["rows"]
            return figures

        records.append(context.once("prune", case, seed, measure, variant=variant))
    return records


def table(records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: each pruned network, in fp32 and in 8 bits."""
    rows = []
    for record in records:
        lost = 100 * (record["test"]["unpruned"] - record["test"]["pruned"])
        share = record["macs"]["pruned"] / record["macs"]["unpruned"]
        wanted = record["wanted"]
        reached = "" if wanted is None else ("yes" if share <= wanted and lost <= 1 else "no")
        costs = {row["precision"]: row for row in record.get("rows", []) if row["step"] == "pruned"}
        rows.append(
            [record["model"], record["variant"], str(record["seed"]), f"{record['test']['unpruned']:.2%}",
             f"{record['test']['pruned']:.2%}", f"{lost:.2f}", f"1/{1 / share:.2f}",
             "" if wanted is None else f"1/{1 / wanted:g}", reached,
             f"{record['parameters']['pruned'] / record['parameters']['unpruned']:.1%}",
             _both(costs, "test", lambda value: f"{value:.2%}"),
             _both(costs, "peak_memory", lambda value: f"{value / 1024:,.0f} KiB"),
             _both(costs, "instructions", lambda value: f"{value:,}"), f"{record['training_s']:.0f}"]
        )  # fmt: skip
    heads = ["network", "criterion", "seed", "unpruned", "pruned", "points lost", "multiply-accumulates", "wanted",
             "reached", "parameters", "8 bits, test", "peak secure memory, fp32 and 8 bits",
             "instructions, estimated, fp32 and 8 bits", "seconds"]  # fmt: skip
    return heads, rows


def _both(costs: Mapping[str, Record], key: str, tell: Callable[[Any], str]) -> str:
    if key == "test":
        return tell(costs["int8"][key]) if "int8" in costs else ""
    return ", ".join(tell(costs[precision][key]) for precision in ("fp32", "int8") if precision in costs)

# SPDX-License-Identifier: BSD-2-Clause
"""EdgePro: what is lost with the password, what is left without it."""

from __future__ import annotations

from dataclasses import replace

import torch

from cloister.attack.table import Table, spread
from cloister.protect.edgepro import Locked, LockSettings, lock_model
from cloister.protect.edgepro.chance import SeededChance
from cloister.protect.results.bars import draw
from cloister.protect.results.cases import CASES, MODELS, Case
from cloister.protect.results.context import PLOTS, Context, Record
from cloister.protect.results.summary import Goal, grouped, seeds_of

TITLE = "EdgePro: accuracy with and without the password"

#: What is compared. "published" has the published code's locks; "turned" this project's alone; "mixed" both.
VARIANTS: dict[str, LockSettings] = {
    "published": LockSettings.published(),
    "constants": LockSettings(constant_share=0.1, turned_share=0.0),
    "turned": LockSettings(),
    "mixed": LockSettings(constant_share=0.1),
}
#: Those that a plain run makes, and those of them that are this project's.
DEFAULT = ("turned", "mixed", "published")
OWN = ("turned", "mixed")
#: Aims: points lost with the password, accuracy without it.
LOST, LEFT = 1.0, 0.12
#: To be raised where this project's locks are made otherwise: records of other locks are made anew.
LOCKS = 4
#: How locks are drawn here; records without it are of a version that drew from the same distributions otherwise.
DRAWN = "SeededChance"
#: How "published" is trained, and how the published code does it.
TRAINED = (
    "the whole batch with the password and true labels, and half of the same images without it and with random labels; "
    "the published code takes a random half of each batch with the password and true labels, the other half without "
    "it and with random labels, under one cross-entropy"
)
#: The plot's file.
PICTURE = "edgepro.svg"
#: Accuracies in a record's "test".
SHOWN = {"unlocked": "unlocked", "with_password": "with the password", "without_password": "without"}


def wanted(_model: str) -> tuple[str, ...]:
    """Names of what a plain run makes."""
    return DEFAULT


def settings_of(case: Case, variant: str, seed: int = 0) -> LockSettings:
    """How that network is locked in full."""
    settings = VARIANTS[variant]
    if variant in OWN:
        settings = replace(settings, without_uniform=case.without_uniform)
    recipe = replace(
        settings.recipe, epochs=case.lock.epochs, batch=case.lock.batch, rate=case.lock.rate,
        augmentation=case.lock.augmentation, precision=case.lock.precision, seed=seed,
    )  # fmt: skip
    return replace(settings, recipe=recipe, seed=seed)


def locked(context: Context, case: Case, seed: int, variant: str) -> Locked:
    """The locked model of that variant; trained now, or loaded if it was before."""
    settings = settings_of(case, variant, seed)
    return lock_model(
        context.victim(case, seed), context.splits(case), replace(settings, recipe=context.scaled(settings.recipe)),
        folder=context.work / f"edgepro-{variant}-{case.name}-{seed}", device=context.device,
        name=f"locking {case.name} ({variant}), seed {seed}", quiet=context.quiet, chance=SeededChance(seed),
    )  # fmt: skip


def outdated(record: Record) -> bool:
    """Whether it is about one of this project's locks as they were made before."""
    return record.get("variant", record.get("target")) in (*OWN, "runs seen") and record.get("locks") != LOCKS


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
                "constants": sum(layer["constants"] for layer in report["layers"]),
                "turned": sum(layer["turned"] for layer in report["layers"]),
                "channels": sum(layer["channels"] for layer in report["layers"]),
                "training_s": round(report["training_s"], 1),
                "drawn": DRAWN,
                "locks": LOCKS,
            }

        records.append(context.once("edgepro", case, seed, measure, outdated, variant=variant))
    return records


def figures(record: Record) -> dict[str, float]:
    """A record's numbers."""
    return {**record["test"], "points_lost": _lost(record), "training_s": record["training_s"]}


def _lost(record: Record) -> float:
    """Points of the test images that the lock costs with the password."""
    return 100 * float(record["test"]["unlocked"] - record["test"]["with_password"])


def _reached(record: Record) -> bool:
    return _lost(record) < LOST and record["test"]["without_password"] <= LEFT


def goals(records: list[Record]) -> list[Goal]:
    """What was aimed at, for this project's locks."""
    found = grouped(records)
    lines = []
    for variant in OWN:
        for model in MODELS:
            own = found.get((model, variant), [])
            lost = [_lost(record) for record in own]
            left = [record["test"]["without_password"] for record in own]
            for aim, values, tell, met in (
                (f"less than {LOST:g} point lost with the password", lost, "{:.2f}".format, [v < LOST for v in lost]),
                (f"at most {LEFT:.0%} without the password", left, "{:.2%}".format, [v <= LEFT for v in left]),
            ):
                told = spread(values, tell) if values else ""
                lines.append(Goal(f"EdgePro ({variant}): {aim}", model, told, met))
    return lines


def parts(records: list[Record]) -> list[str | Table]:
    """The section: means over seeds, the plot, and each seed."""
    heads = ["network", "lock", "seeds", "unlocked", "with password", "points lost", "without password", "reached"]
    means, each = [], []
    for (model, variant), own in grouped(records, tuple(VARIANTS)).items():
        told = [spread([record["test"][key] for record in own], lambda value: f"{value:.2%}") for key in SHOWN]
        lost = spread([_lost(record) for record in own], lambda value: f"{value:.2f}")
        met = f"{sum(map(_reached, own))} of {len(own)}"
        means.append([model, variant, seeds_of(own), *told[:2], lost, told[2], met])
        each += [
            [model, variant, str(record["seed"]), *(f"{record['test'][key]:.2%}" for key in tuple(SHOWN)[:2]),
             f"{_lost(record):.2f}", f"{record['test']['without_password']:.2%}",
             f"{record['constants']} + {record['turned']} of {record['channels']}", f"{record['training_s']:.0f}"]
            for record in own
        ]  # fmt: skip
    return [
        "`turned` (channels as `cloister edgepro` locks them by default) and `mixed` are this project's locks, "
        "`constants` its constants alone; how each network is trained stands below the figures. `published` "
        "locks what the published code locks, and to the same value ([edgepro.md](edgepro.md)), but is trained with "
        f"this project's two losses: {TRAINED}. `reached` counts the seeds that lose less than "
        f"{LOST:g} point with the password and have at most {LEFT:.0%} without it. Here locks are drawn by a seed, so "
        "that they can be had again; `cloister edgepro` asks the operating system." + _older(records),
        Table("", heads, means), f"![accuracy with and without the password]({PLOTS}/{PICTURE})",
        "### EdgePro, each seed",
        Table("", ["network", "lock", "seed", *heads[3:7], "channels: constant + turned", "seconds of training"], each),
        "### EdgePro, how locks are trained",
        "`cloister edgepro` takes these by `--epochs`, `--rate`, `--without-uniform`, `--precision`, `--crop` and "
        "`--flip`; its own are in the last row.",
        Table("", ["network", "epochs", "rate", "weight of equal chances without the password", "precision", "images"],
              [*(_trained(model, settings_of(CASES[model], "turned")) for model in dict.fromkeys(r[0] for r in means)),
               _trained("default", LockSettings())]),
    ]  # fmt: skip


def _trained(name: str, settings: LockSettings) -> list[str]:
    """A row of how locks are trained."""
    recipe, moved = settings.recipe, settings.recipe.augmentation
    images = [f"moved by {moved.crop}"] * (moved.crop > 0) + ["mirrored"] * moved.flip
    return [name, str(recipe.epochs), f"{recipe.rate:g}", f"{settings.without_uniform:g}", recipe.precision,
            ", ".join(images) or "as they are"]  # fmt: skip


def _older(records: list[Record]) -> str:
    """A sentence on records that would be drawn otherwise now."""
    older = sum(record.get("drawn") != DRAWN for record in records)
    return (
        f" {older} of the {len(records)} records are of a version that drew from the same distributions by another "
        "generator: made again, they have other locks."
        if older
        else ""
    )


def pictures(records: list[Record]) -> dict[str, str]:
    """Accuracy with and without the password: SVG text by file name."""
    groups = {
        f"{model}, {variant}": {title: [record["test"][key] for record in own] for key, title in SHOWN.items()}
        for (model, variant), own in grouped(records, tuple(VARIANTS)).items()
    }
    heading = "EdgePro: accuracy on the test images with and without the password"
    return {PICTURE: draw(heading, groups, LEFT, f"{LEFT:.0%}, what was aimed at without")} if groups else {}

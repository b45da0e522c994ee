# SPDX-License-Identifier: BSD-2-Clause
"""The attack bench on each protection, between the victim as white box and as black box."""

from __future__ import annotations

from dataclasses import replace

from cloister.attack import Effort, Exposed, SeenRun, bench
from cloister.attack.picture import draw
from cloister.attack.table import cells
from cloister.protect.edgepro.exposed import LeakedLock
from cloister.protect.prune import PrunedInClear
from cloister.protect.results import edgepro, pruning
from cloister.protect.results.cases import Case
from cloister.protect.results.context import Context, Record
from cloister.protect.training import network

TITLE = "Attacks: accuracy / agreement with the authorised model / ratio to the black box with the same budget"

#: What is attacked: locks as ``edgepro`` names them, and the pruned network in clear.
DEFAULT = ("turned", "mixed", "published", "pruned")
#: The lock that is also attacked by reading an authorised run, which the compiler would have to show.
SEEN = "mixed"


def effort(context: Context, case: Case) -> Effort:
    """What attackers have: the owner's augmentation, and steps as the context's shares say.

    On the digits, which only try the scripts out, they hardly try.
    """
    if case.network == "digits":
        return Effort((0.1,), (50,), (0.05,), (0.1,), epochs=3, steps=60, trial=20, pruned=(0.1,),
                      augmentation=case.recipe.augmentation)  # fmt: skip
    full = Effort(augmentation=case.recipe.augmentation, precision=case.recipe.precision)
    steps, trial = (max(20, round(count * context.epochs * context.effort)) for count in (full.steps, full.trial))
    return replace(full, steps=steps, trial=trial)


def target(context: Context, case: Case, seed: int, variant: str) -> Exposed:
    """What is attacked under that name; "runs seen" is :data:`SEEN` with all locked tensors of authorised runs."""
    splits = context.splits(case)
    if variant == "pruned":
        return PrunedInClear(pruning.pruned(context, case, seed).module, splits, variant)
    if variant == "runs seen":
        return SeenRun(edgepro.locked(context, case, seed, SEEN), splits, name=f"{SEEN}, runs seen")
    return LeakedLock(edgepro.locked(context, case, seed, variant), splits, variant)


def run(context: Context, case: Case, seed: int, variants: tuple[str, ...] = DEFAULT) -> list[Record]:
    """A record for each target and both bounds; under ``attacks`` the bench's records."""
    splits = context.splits(case)
    if case.network == "digits" and variants == DEFAULT:
        variants = ("turned", "pruned")

    def attack(*targets: Exposed, attacks: tuple[str, ...] | None = None) -> list[Record]:
        return bench(
            targets, splits, context.victim(case, seed), attacks=attacks, effort=effort(context, case), seed=seed,
            architecture=lambda number: network(case.network, splits.shape[0], len(splits.classes), number),
            folder=context.work / f"attacks-{case.name}-{seed}", device=context.device, quiet=context.quiet,
        ).records  # fmt: skip

    records = []
    seen = ("runs seen",) if SEEN in variants or case.network == "digits" else ()
    for name in ("white box", *variants, *seen, "black box"):

        def measure(name: str = name) -> Record:
            if name.endswith("box"):  # the bench always runs both; what is there is not computed again
                return {"attacks": [record for record in attack() if record["target"].startswith(name)]}
            if name == "runs seen":
                return {"attacks": [r for r in attack(target(context, case, seed, name), attacks=("observe",))
                                    if r["target"].endswith(name)]}  # fmt: skip
            return {"attacks": [r for r in attack(target(context, case, seed, name)) if r["target"] == name]}

        records.append(context.once("attacks", case, seed, measure, target=name))
    return records


def _of(records: list[Record], model: str) -> list[Record]:
    """The bench's records of a network: white box first, black box last."""
    place = {"white box": 0, "black box": 2}
    own = sorted((r for r in records if r["model"] == model), key=lambda r: place.get(r["target"], 1))
    return [line for record in own for line in record["attacks"]]


def table(records: list[Record]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: an attack with a budget in a row, a target in a column; means over seeds."""
    models = list(dict.fromkeys(record["model"] for record in records))
    columns: dict[str, None] = {}
    rows: list[dict[str, str]] = []
    for model in models:
        heads, lines = cells(_of(records, model))
        columns |= dict.fromkeys(heads[2:])
        rows += [{"network": model, **dict(zip(heads, line, strict=True))} for line in lines]
    order = sorted(columns, key=lambda name: (name.startswith("black box"), not name.startswith("white box")))
    every = ["network", "attack", "budget", *order]
    return every, [[row.get(head, "") for head in every] for row in rows]


def pictures(records: list[Record]) -> dict[str, str]:
    """A plot for each network: SVG text by file name."""
    models = dict.fromkeys(record["model"] for record in records)
    return {f"attacks-{model}.svg": draw(_of(records, model), f"Attacks on {model}") for model in models}

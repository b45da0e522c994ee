# SPDX-License-Identifier: BSD-2-Clause
"""Locks and attackers with a tenth of the data: what the aim is about, and no more, so that they can try in full.

With all steps VGG-7 took 42 minutes on a busy processor; the whole bench has five budgets more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cloister.attack import Effort, bench
from cloister.attack.attacker import METHOD
from cloister.attack.table import Table, spread, title
from cloister.protect.results import attacks, edgepro
from cloister.protect.results.cases import MODELS, Case
from cloister.protect.results.context import Context, Record
from cloister.protect.results.summary import Goal, grouped, seeds_of
from cloister.protect.training import network

TITLE = "Locks, attacked with a tenth of the data alone"

DEFAULT = ("turned",)
#: What can be done with labelled images and locked weights.
ATTACKS = ("finetune", "head", "mask", "prune", "signs")
#: Of the labelled training images.
SHARE = 0.1


def wanted(model: str) -> tuple[str, ...]:
    """Names of what a plain run makes."""
    return DEFAULT if model in MODELS or model == "digits" else ()


def effort(case: Case, share: float) -> Effort:
    """As on the whole bench, with a tenth of the data alone."""
    return replace(attacks.effort(case, share), shares=(SHARE,))


def run(context: Context, case: Case, seed: int, variants: Sequence[str] = DEFAULT) -> list[Record]:
    """A record for each lock: under ``attacks`` the bench's, under ``method`` what attackers did."""
    splits = context.splits(case)
    records = []
    for variant in variants:

        def measure(variant: str = variant) -> Record:
            found = bench(
                (attacks.target(context, case, seed, variant),), splits, context.victim(case, seed), attacks=ATTACKS,
                seed=seed, effort=effort(case, context.epochs * context.effort),
                architecture=lambda number: network(case.network, splits.shape[0], len(splits.classes), number),
                folder=context.work / f"tenth-{case.name}-{seed}", device=context.device, quiet=context.quiet,
                white=False,
            ).records  # fmt: skip
            return {"attacks": [line for line in found if line["target"] == variant], "method": METHOD,
                    "locks": edgepro.LOCKS}  # fmt: skip

        records.append(context.once("tenth", case, seed, measure, attacks.outdated, target=variant))
    return records


figures = attacks.figures


def goals(records: list[Record]) -> list[Goal]:
    """What was aimed at, by attackers who do nothing else."""
    found = grouped(records)
    aim = (f"the best of {len(ATTACKS)} attacks with {attacks.MOST} at most {attacks.ABOVE:g} points above training "
           "from scratch, as tried apart from the whole bench")  # fmt: skip
    lines = []
    for model in MODELS:
        own = found.get((model, DEFAULT[0]), [])
        above = [100 * line["above"] for record in own if (line := attacks.strongest(record)) is not None]
        told = f"{spread(above, '{:+.2f}'.format)} points" if above else ""
        met = [value <= attacks.ABOVE for value in above]
        lines.append(Goal(f"EdgePro ({DEFAULT[0]}): {aim}", model, told, met, note=attacks.how(own)))
    return lines


def parts(records: list[Record]) -> list[str | Table]:
    """The section: the best attacker, and all of them."""
    rows = []
    for (model, name), own in grouped(records).items():
        by_attack: dict[str, list[Record]] = {}
        for record in own:
            for line in record["attacks"]:
                if "above" in line:
                    by_attack.setdefault(line["attack"], []).append(line)
        ordered = sorted(by_attack.items(), key=lambda item: -max(line["above"] for line in item[1]))
        rows += [
            [model, name, seeds_of(own), attacks.steps_of(own).removeprefix("attackers with "), title(attack),
             *(spread([line[key] for line in lines], "{:.1%}".format) for key in ("black_box", "accuracy")),
             spread([100 * line["above"] for line in lines], "{:+.2f}".format)]
            for attack, lines in ordered
        ]  # fmt: skip
    return [
        "The attacks on locks that labelled images help with, with all rates and beginnings that the bench has. The "
        "black box trains fresh networks on the same images for as long.",
        *attacks.older(records, "these attacks on"),
        Table(
            "", ["network", "lock", "seeds", "steps", "attack", "black box", "attack's accuracy", "points above"], rows
        ),
    ]


def pictures(_records: list[Record]) -> dict[str, str]:
    """None."""
    return {}

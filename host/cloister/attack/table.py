# SPDX-License-Identifier: BSD-2-Clause
"""The report as markdown tables: a table for each group of attacks, targets down, attacks and budgets across."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from cloister.attack.attacks import ATTACKS

#: A dictionary for each attack, target and budget.
Record = dict[str, Any]
#: Attacks that share a table and a plot, by its title.
GROUPS = {
    "Direct use and fine-tuning": ("direct", "finetune"),
    "Model stealing, labels only": ("steal",),
    "New heads on exposed features": ("head",),
    "Against locks: a mask, pruning": ("mask", "prune"),
    "Against locks: signs, authorised runs": ("signs", "observe"),
}
#: What a cell tells.
CELL = "accuracy / agreement with the authorised model / accuracy as a ratio to the black box's with the same budget"


class Table(NamedTuple):
    """A table as text."""

    title: str
    heads: list[str]
    rows: list[list[str]]

    def lines(self) -> list[str]:
        """In markdown, without the title; columns that are empty are left out."""
        kept = [place for place in range(len(self.heads)) if not self.rows or any(row[place] for row in self.rows)]
        table = [self.heads, ["---"] * len(self.heads), *self.rows]
        return ["| " + " | ".join(row[place] for place in kept) + " |" for row in table]


def spread(values: Sequence[float], tell: Callable[[float], str]) -> str:
    """The mean, and behind it the least and the most where they differ: ``91.2% (90.9% to 91.5%)``."""
    mean, low, high = (_unsigned(tell(value)) for value in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def _unsigned(number: str) -> str:
    """Without a sign where nothing is left behind it: ``-0.00`` would tell of a loss that rounding took away."""
    return re.sub(r"^[-+](?=0(\.0*)?(?![\d.,]))", "", number)


def rows_of(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Attacks and budgets in the order of the report."""
    found: dict[tuple[str, str], None] = {}
    for name in ATTACKS:
        for record in records:
            if record["attack"].partition(",")[0] == name:
                found[record["attack"], record["budget"]] = None
    return list(found)


def title(attack: str) -> str:
    """An attack's name in words."""
    name, comma, more = attack.partition(",")
    return f"{ATTACKS[name].TITLE}{comma}{more}"


def labels(targets: Iterable[str]) -> dict[str, str]:
    """Targets' names as people read them, by the names that records have.

    A target from a file is named by what it is and by the file, and ``cloister edgepro`` and ``cloister prune`` call
    their files by what they are: of ``locked locked`` one word is enough, unless another target has that name.
    """
    names = list(dict.fromkeys(targets))
    short = {name: re.sub(r"^(locked|pruned) \1(?=,|$)", r"\1", name) for name in names}
    return {name: name if label in names else label for name, label in short.items()}


def asked(records: Sequence[Record], attack: str, budget: str) -> list[int]:
    """How many images were asked about with a budget, where it was more than there are: the least and the most."""
    counts = [r["asked"] for r in records if (r["attack"], r["budget"]) == (attack, budget) and "asked" in r]
    fewer = bool(counts) and max(counts) < int(budget.split()[0])
    return sorted({min(counts), max(counts)}) if fewer else []


def budget_label(records: Sequence[Record], attack: str, budget: str) -> str:
    """A budget, and what became of it where it was more than there is: ``5000 queries (all 1,434 images)``."""
    counts = " to ".join(f"{count:,}" for count in asked(records, attack, budget))
    return f"{budget} (all {counts} images)" if counts else budget


def group(records: Sequence[Record], name: str) -> list[Record]:
    """The records of a group of :data:`GROUPS`."""
    return [record for record in records if record["attack"].partition(",")[0] in GROUPS[name]]


def tables(records: Sequence[Record], baseline: str = "") -> list[Table]:
    """A table for each group that there are records of; in each cell what :data:`CELL` tells, means over seeds.

    Args:
        records: of any number of targets and seeds.
        baseline: name of the black box. Where it has no such attack, its accuracy with the same budget stands in its
            row, as far as the records tell it.
    """
    found, known = [], labels(record["target"] for record in records)
    for name in GROUPS:
        own = group(records, name)
        columns = rows_of(own)
        if not columns:
            continue
        targets = list(dict.fromkeys(record["target"] for record in own if record["target"] != baseline))
        rows = [[known[target], *(_cell(_chosen(own, target, *column)) for column in columns)] for target in targets]
        if baseline:
            rows.append([baseline, *(_bound(own, baseline, *column) for column in columns)])
        several = len({attack for attack, _ in columns}) > 1
        told = {column: budget_label(own, *column) for column in columns}
        heads = [f"{title(column[0])}, {text}" if several else text for column, text in told.items()]
        found.append(Table(name, ["target", *heads], rows))
    return found


def titled(records: Sequence[Record], baseline: str = "") -> list[Table]:
    """As :func:`tables`, for one report: where it has one attack of a group, the title names no other."""
    found = []
    for table in tables(records, baseline):
        there = {record["attack"].partition(",")[0] for record in group(records, table.title)}
        if len(there) < len(GROUPS[table.title]):
            before, colon, _ = table.title.rpartition(": ")
            (only,) = (ATTACKS[name].TITLE for name in there)
            table = table._replace(title=f"{before}{colon}{only}" if colon else f"{only[0].upper()}{only[1:]}")
        found.append(table)
    return found


def _chosen(records: Sequence[Record], target: str, attack: str, budget: str) -> list[Record]:
    return [r for r in records if (r["target"], r["attack"], r["budget"]) == (target, attack, budget)]


def _bound(records: Sequence[Record], baseline: str, attack: str, budget: str) -> str:
    """The black box's cell: its own attack, or else the accuracy that others of that budget are compared with."""
    own = _chosen(records, baseline, attack, budget)
    if own:
        return _cell(own)
    bounds = {r.get("seed"): r["black_box"] for r in records
              if (r["attack"], r["budget"]) == (attack, budget) and "black_box" in r}  # fmt: skip
    return spread(list(bounds.values()), lambda value: f"{value:.1%}") if bounds else ""


def _cell(own: Sequence[Record]) -> str:
    if not own:
        return ""
    accuracy = spread([record["accuracy"] for record in own], lambda value: f"{value:.1%}")
    fidelity = sum(record["fidelity"] for record in own) / len(own)
    ratios = [record["ratio"] for record in own if "ratio" in record]
    ratio = f" / {sum(ratios) / len(ratios):.2f}" if ratios else ""
    return f"{accuracy} / {fidelity:.1%}{ratio}"


def notes(records: Sequence[Record]) -> list[str]:
    """What records note beside their figures, a line for each target and attack."""
    known = labels(record["target"] for record in records)
    told = {(r["target"], r["attack"], r["note"]): None for r in records if "note" in r}
    return [f"{known[target]}, {title(attack)}: {note}." for target, attack, note in told]


def heading(about: dict[str, Any]) -> str:
    """A plot's heading: the data, and how hard attackers tried, without which their figures tell little."""
    effort = about["effort"]
    return (
        f"Attacks, {about['data']}: {effort['steps']:,} steps at rates {_listed(effort['rates'])}, {_precision(about)}"
    )


def _tried(about: dict[str, Any]) -> str:
    """The same in full, as a sentence."""
    effort = about["effort"]
    return (
        f"Attackers trained {effort['steps']:,} steps of {effort['batch']} images, {effort['trial']:,} in short "
        f"trials, at learning rates {_listed(effort['rates'])} ({_listed(effort['mask_rates'])} for masks), in "
        f"{_precision(about)}. With fewer steps they are weaker, and so is the black box."
    )


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _precision(about: dict[str, Any]) -> str:
    """As it was where they trained; reports of before that was kept have what was asked for."""
    return str(about.get("precision", about["effort"]["precision"]))


def markdown(records: Sequence[Record], about: dict[str, Any]) -> str:
    """The report's page."""
    lines = [
        f"# Attacks, {about['data']}", "",
        f"Each cell: {CELL}.", "Figures are of the test images; everything was chosen on validation images. Seed "
        f"{about['seed']}, {about['training_images']} training images.", _tried(about),
        "", "![attacks](attacks.svg)",
    ]  # fmt: skip
    for table in titled(records, about.get("black_box", "")):
        lines += ["", f"## {table.title}", "", *table.lines()]
    if told := notes(records):
        lines += ["", "## Notes", "", *(f"- {line}" for line in told)]
    return "\n".join([*lines, ""])

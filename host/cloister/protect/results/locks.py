# SPDX-License-Identifier: BSD-2-Clause
"""What a password adds to an inference in the TA, as the benchmark counted it on the emulated device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cloister.attack.table import Table
from cloister.protect.results.cases import MODELS
from cloister.protect.results.context import Context, Record
from cloister.protect.results.errors import ResultsError
from cloister.protect.results.summary import Goal

#: What measures it, and how records name it.
BENCH = "build/bench --suite locks --json FILE"
EXPERIMENT = "locks"
#: Aim: share of an inference's instructions that a password adds at most.
ADDED = 0.005
#: The benchmark's networks, by the first word of their names; others in the file are left out.
NETWORKS = {"lenet": "lenet5", "vgg7": "vgg7", "resnet20": "resnet20"}
#: Where the partitions lie: in the TA's memory from LOAD on, or opened one by one for every inference.
KINDS = ("resident", "streamed")


def measured(context: Context, path: Path) -> int:
    """Make a record for each network of a file that the benchmark wrote; :data:`BENCH` is its command.

    Args:
        context: where records are kept; those that are there are replaced.
        path: the JSON file.

    Returns:
        How many records were made.

    Raises:
        ResultsError: it is no such file, or has no network that results are reported on.
    """
    found: dict[str, list[Record]] = {}
    try:
        content = json.loads(path.read_text())
        lines = [line for line in content if line["suite"] == "locks"]
        counts = {line["name"]: float(line["value"]) for line in lines if line["metric"] == "instructions"}
        for line in lines:
            network, _, kind = line["name"].rpartition(", ")
            model = NETWORKS.get(network.partition("_")[0])
            if line["metric"] == "added" and model and kind in KINDS:
                added, whole = float(line["value"]), counts[line["name"]]
                found.setdefault(model, []).append({
                    "network": network, "precision": line["precision"], "kind": kind, "with_lock": whole,
                    "without_lock": whole / (1 + added), "added": added,
                })  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} is not what was measured: {error}", f"give what {BENCH} wrote") from error
    if not found:
        raise ResultsError(f"{path} has no network that results are reported on", f"measure with {BENCH}")
    for model, rows in found.items():
        context.keep({"experiment": EXPERIMENT, "model": model, "rows": rows})
    return len(found)


def _added(records: Sequence[Record], model: str, kind: str) -> list[float]:
    """In all precisions that were measured."""
    return [row["added"] for record in records if record["model"] == model
            for row in record["rows"] if row["kind"] == kind]  # fmt: skip


def _verdict(records: Sequence[Record], model: str) -> str:
    """Each kind for itself, judged by the precision that adds the most."""
    told = []
    for kind in KINDS:
        values = _added(records, model, kind)
        if values:
            span = " to ".join(dict.fromkeys(f"{value:+.2%}" for value in (min(values), max(values))))
            told.append(f"{kind} {span}: {'reached' if max(values) <= ADDED else 'missed'}")
    return "; ".join(told)


def goals(records: list[Record]) -> list[Goal]:
    """What was aimed at: one aim, for each network both kinds in one cell."""
    aim = f"EdgePro: instructions added in the TA at most {100 * ADDED:g} %"
    return [Goal(aim, model, verdict=_verdict(records, model)) for model in MODELS]


def parts(records: list[Record]) -> list[str | Table]:
    """What stands in the section on EdgePro: a row for each network and precision, or where to find it."""
    if not records:
        return []
    rows = []
    for record in sorted(records, key=lambda record: MODELS.index(record["model"])):
        for network in dict.fromkeys(row["network"] for row in record["rows"]):
            own = {row["kind"]: row for row in record["rows"] if row["network"] == network}
            precision = next(iter(own.values()))["precision"]
            cells = [_cells(own[kind]) if kind in own else ["", "", ""] for kind in KINDS]
            rows.append([record["model"], network, precision, *(cell for three in cells for cell in three)])
    heads = [f"{kind}: {what}" for kind in KINDS for what in ("without", "with", "added")]
    return [
        "### What a password adds in the TA",
        f"Instructions of one inference, counted on the emulated device by `{BENCH}`, whose networks have the shapes "
        "of those above, random weights and random locks of as many channels as `mixed` has; its LeNet takes three "
        "colours. *Resident*: all partitions were opened when the model was loaded, and the lock with them. "
        "*Streamed*: all of them, small ones, are opened again for every inference. [performance.md](performance.md) "
        "tells what is done there.",
        Table("", ["network", "measured as", "precision", *heads], rows),
    ]


def _cells(row: Record) -> list[str]:
    return [f"{row['without_lock']:,.0f}", f"{row['with_lock']:,.0f}", f"{row['added']:+.2%}"]

# SPDX-License-Identifier: BSD-2-Clause
"""What plans a protection, against its aims: the performance emulator, and the strategy generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cloister.attack.table import Table
from cloister.estimate.instructions import constants
from cloister.protect.results.context import Context, Record
from cloister.protect.results.errors import ResultsError

#: What makes the generator's comparisons, and how records name it.
GENERATOR = "python -m cloister.protect.results.generator"
EXPERIMENT = "generator"
#: What holds predictions against measurements, and puts the errors into the table of constants.
BENCH = "build/bench --suite strategies"
#: Aims of the emulator: strategies at least, and errors at most.
STRATEGIES, MEDIAN, WORST = 20, 0.05, 0.10
#: Quantities that the emulator predicts; the aim is of the first, which all budgets are of.
TOLD = ("total", "normal world", "secure world", "boundary", "peak of secure memory", "crossings", "bytes in")


def compared(context: Context, paths: Sequence[Path]) -> int:
    """Make a record of the generator's comparisons with the hand-made grid.

    Args:
        context: where records are kept; one that is there is replaced.
        paths: files that :data:`GENERATOR` wrote.

    Returns:
        How many comparisons they hold.

    Raises:
        ResultsError: a file is none of these.
    """
    rows = []
    for path in paths:
        try:
            for found in json.loads(path.read_text()):
                sides = {
                    # a side where nothing fits has no strategy
                    side: {key: found[side].get(key) for key in ("summary", "overhead", "gain", "lost", "cost")}
                    for side in ("generator", "grid")
                }
                rows.append({"seed": found["seed"], "a part": found["exposed"], "as good": found["as_good"],
                             "as good by test images": found["as_good_test"], "trainings": found["grid"]["trainings"],
                             **sides})  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path} is no comparison: {error!r}", f"give what {GENERATOR} wrote") from error
    rows.sort(key=lambda row: (row["a part"], row["seed"]))
    context.keep({"experiment": EXPERIMENT, "model": "digits", "rows": rows})
    return len(rows)


def evaluation() -> Record:
    """Errors of the emulator, as the table of constants has them; empty where none were measured."""
    found: Record = constants().get("evaluation") or {}
    return found


def aims(records: Sequence[Record]) -> Table:
    """What was aimed at, and what came out; of the generator where there is a record."""
    errors, lines = evaluation().get("total"), []
    told = "not measured"
    if errors:
        met = errors["strategies"] >= STRATEGIES and errors["median"] <= MEDIAN and errors["worst"] <= WORST
        told = (f"{errors['median']:.1%}, worst {errors['worst']:.1%} of {errors['strategies']}: "
                f"{'reached' if met else 'missed'}")  # fmt: skip
    lines.append([f"performance emulator, instructions of a strategy: median error at most {MEDIAN:.0%}, worst "
                  f"{WORST:.0%}, of at least {STRATEGIES}", told])  # fmt: skip
    aim = "strategy generator (digits): as good as the best of a hand-made grid, with half the trainings"
    rows = [row for record in records for row in record["rows"]]
    lines.append([aim, _compared(rows) if rows else "not run"])
    return Table("", ["aim", "figure"], lines)


def _compared(rows: Sequence[Record]) -> str:
    met = sum(row["as good"] for row in rows)
    share = max(row["generator"]["cost"] / row["trainings"] for row in rows)
    cost = f"{max(row['generator']['cost'] for row in rows):.1f} trainings, not {rows[0]['trainings']}"
    reached = met == len(rows) and share <= 0.5
    return f"{cost}; as good in {met} of {len(rows)} comparisons: {'reached' if reached else 'missed'}"


def _choice(side: Record) -> list[str]:
    if side["summary"] is None:
        return ["none fits", "", "", ""]
    return [side["summary"], f"{side['overhead']:+.1%}", f"{side['gain']:.2f}", f"{side['lost']:.2f}"]


def parts(records: Sequence[Record]) -> list[str | Table]:
    """The section behind the aims."""
    found: list[str | Table] = []
    errors = evaluation()
    if errors:
        rows = [[of, str(errors[of]["strategies"]), *(f"{errors[of][key]:.1%}" for key in ("median", "worst", "mean"))]
                for of in TOLD if of in errors]  # fmt: skip
        found += [
            f"The emulator's errors are those of its table of constants, measured by `{BENCH}` "
            f"(QEMU, {errors['measured'][:10]}): shares of what was measured, the mean with its sign. "
            "[estimate.md](estimate.md) tells of which strategies, and where the worst come from.",
            Table("", ["of", "strategies", "median", "worst", "mean"], rows),
        ]
    rows = [
        [str(row["seed"]), "a part" if row["a part"] else "all", *(cell for side in ("generator", "grid")
         for cell in _choice(row[side])),
         *("yes" if row[key] else "no" for key in ("as good", "as good by test images"))]
        for record in records for row in record["rows"]
    ]  # fmt: skip
    if rows:
        heads = [f"{side}: {what}" for side in ("generator", "grid")
                 for what in ("choice", "overhead", "gain", "points lost")]  # fmt: skip
        found += [
            "The generator's choice and the grid's, by validation images, of one small network of handwritten digits "
            f"(`{GENERATOR}`; *a part*: something must stay outside the TA). [search.md](search.md) tells the rest.",
            Table("", ["seed", "inside", *heads, "as good", "by test images"], rows),
        ]
    return found

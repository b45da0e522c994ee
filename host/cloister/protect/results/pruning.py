# SPDX-License-Identifier: BSD-2-Clause
"""Progressive pruning: what is left of the multiply-accumulates, and what that costs in accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cloister.attack.table import Table, spread
from cloister.protect.prune import Pruned, PruneSettings, prune_model
from cloister.protect.prune.plot import draw
from cloister.protect.prune.report import cells, full_report, measured
from cloister.protect.results.cases import CASES, Case
from cloister.protect.results.context import PLOTS, Context, Record
from cloister.protect.results.summary import Goal, grouped, name_of, seeds_of
from cloister.seal.files import write_aside

TITLE = "Progressive pruning within one point of the validation accuracy"

#: How each network is pruned; recipes take batch and augmentation from its case.
SETTINGS: dict[str, PruneSettings] = {
    "digits": PruneSettings(steps=2, target=0.3, final=3, images=500),
    "lenet5": PruneSettings(steps=6, target=0.2, final=8, round_to=1, least=2),
    "vgg7": PruneSettings(steps=6, target=0.12, slack=8.0, final=60),
    "resnet20": PruneSettings(steps=4, target=0.38, slack=5.0, final=40),
}
#: Epochs after each step, and the highest rate of the fine-tuning.
TUNING: dict[str, tuple[int, float]] = {
    "digits": (3, 0.05), "lenet5": (2, 0.02), "vgg7": (2, 0.05), "resnet20": (2, 0.05),
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
#: Instructions that the pruned VGG-7 was to take in the TA, in 8 bits.
INSTRUCTIONS = 500_000
#: Networks that have more than the default: LeNet-5 is small enough for all.
COMPARED = {"digits": ("taylor", "labels alone"), "lenet5": tuple(VARIANTS)}


_PERCENT, _KIB, _THOUSANDS = "{:.2%}".format, (lambda value: f"{value / 1024:,.0f} KiB"), "{:,.0f}".format
#: Figures of the tables: their heads, and how they are told.
ACCURACIES: dict[str, tuple[str, Callable[[float], str]]] = {
    "unpruned": ("unpruned", _PERCENT), "pruned": ("pruned", _PERCENT), "int8_test": ("pruned, 8 bits", _PERCENT),
    "points_lost": ("points lost", "{:.2f}".format),
    "macs_share": ("multiply-accumulates", lambda value: f"1/{1 / value:.2f}"),
    "parameters_share": ("parameters", "{:.1%}".format),
}  # fmt: skip
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "fp32_peak_memory": ("peak secure memory, fp32", _KIB), "int8_peak_memory": ("peak secure memory, int8", _KIB),
    "fp32_instructions": ("instructions, estimated, fp32", _THOUSANDS),
    "int8_instructions": ("instructions, estimated, int8", _THOUSANDS),
    "fp32_measured": ("instructions, measured, fp32", _THOUSANDS),
    "int8_measured": ("instructions, measured, int8", _THOUSANDS),
}  # fmt: skip


def wanted(model: str) -> tuple[str, ...]:
    """Names of what a plain run makes."""
    return COMPARED.get(model, DEFAULT)


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
    for variant in variants or wanted(case.name):

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


def measure(context: Context) -> int:
    """Count on the emulated device what the networks of records take that have only estimates; how many records.

    Raises:
        TrainingError: the benchmark is not here, or fails.
    """
    done = 0
    for path in sorted((context.work / "records").glob("prune_*.json")):
        record = json.loads(path.read_text())
        rows = record.get("rows", [])
        if not rows or all("measured" in row for row in rows):
            continue
        models = _folder(context, CASES[record["model"]], record["seed"], record["variant"]) / "models"
        for row, found in zip(rows, measured(models, [row["file"] for row in rows]), strict=True):
            row.update(found)
        write_aside(path, (json.dumps(record, indent=1) + "\n").encode())
        done += 1
    return done


def _lost(record: Record) -> float:
    """Points of the test images that pruning costs."""
    return 100 * float(record["test"]["unpruned"] - record["test"]["pruned"])


def _share(record: Record) -> float:
    return float(record["macs"]["pruned"] / record["macs"]["unpruned"])


def _costs(record: Record) -> dict[str, Record]:
    """The pruned network's rows by precision; {} where they were not made."""
    return {row["precision"]: row for row in record.get("rows", []) if row["step"] == "pruned"}


def figures(record: Record) -> dict[str, float]:
    """A record's numbers."""
    found = {**record["test"], "points_lost": _lost(record), "macs_share": _share(record),
             "parameters_share": record["parameters"]["pruned"] / record["parameters"]["unpruned"],
             "training_s": record["training_s"]}  # fmt: skip
    for precision, row in _costs(record).items():
        kept = {key: row[key] for key in ("test", "peak_memory", "instructions", "measured") if key in row}
        found |= {f"{precision}_{key}": value for key, value in kept.items()}
    return found


def goals(records: list[Record]) -> list[Goal]:
    """What was aimed at, for the default criterion."""
    found = grouped(records)
    lines = []
    for model in WANTED:
        own = found.get((model, DEFAULT[0]), [])
        told = (
            f"{spread([_share(record) for record in own], lambda value: f'1/{1 / value:.2f}')} at "
            f"{spread([_lost(record) for record in own], lambda value: f'{value:.2f}')} points" if own else ""
        )  # fmt: skip
        aim = "pruning: multiply-accumulates left at no more than 1 point lost, at most " + ", ".join(
            f"1/{1 / wanted:g} ({name})" for name, wanted in WANTED.items()
        )
        lines.append(Goal(aim, model, told, [_reached(record) for record in own]))
    small = [row for record in found.get(("vgg7", DEFAULT[0]), []) if (row := _costs(record).get("int8"))]
    values = [float(row["measured"] if "measured" in row else row["instructions"]) for row in small]
    how = "measured" if all("measured" in row for row in small) else "estimated"
    aim = f"pruned VGG-7 whole in the TA, int8: at most {INSTRUCTIONS / 1e6:.2f} M instructions"
    told = f"{spread(values, lambda value: f'{value / 1e6:.3f} M')}, {how}" if values else ""
    return [*lines, Goal(aim, "vgg7", told, [value <= INSTRUCTIONS for value in values])]


def parts(records: list[Record]) -> list[str | Table]:
    """The section: means over seeds, each seed, and the steps of one seed for each network."""
    means, costs, each = [], [], []
    steps: list[str | Table] = []
    for (model, variant), own in grouped(records, tuple(VARIANTS)).items():
        share = own[0]["wanted"]
        met = f"{sum(map(_reached, own))} of {len(own)}"
        means.append([model, variant, seeds_of(own), *_told(own, ACCURACIES),
                      *(("", "") if share is None else (f"1/{1 / share:g}", met))])  # fmt: skip
        costs.append([model, variant, seeds_of(own), *_told(own, COSTS)])
        each += [[model, variant, str(record["seed"]), *_told([record], ACCURACIES), f"{record['training_s']:.0f}"]
                 for record in own]  # fmt: skip
        with_rows = [record for record in own if record.get("rows")]
        if with_rows:
            first = with_rows[0]
            heads, rows = cells(first["rows"])
            steps += [f"### Pruning {model} step by step ({variant}, seed {first['seed']})",
                      Table("", heads, rows), f"![steps]({PLOTS}/{_picture(model)})"]  # fmt: skip
    heads = ["network", "criterion", "seeds"]
    told = [row for row in costs if any(row[3:])]
    others = any(name_of(record) not in DEFAULT for record in records)
    accuracies = [title for title, _ in ACCURACIES.values()]
    costing: list[str | Table] = [
        "What the pruned network costs whole in the TA, as `cloister plan` tells it, and measured where it was. "
        "Estimates are for memory to spare; the benchmark compiles for none in particular, where Winograd's "
        "kernels get no scratch of their own, so that in fp32 it can take more.",
        Table("", [*heads, *(title for title, _ in COSTS.values())], told),
    ]  # fmt: skip
    return [
        f"`taylor` is the default{'; the other rows change one setting of it' if others else ''} "
        "([pruning.md](pruning.md)). Multiply-accumulates and parameters are what is left of the unpruned network's.",
        Table("", [*heads, *accuracies, "wanted", "reached"], means),
        *(costing if told else []),
        "### Pruning, each seed",
        Table("", [*heads[:2], "seed", *accuracies, "seconds of training"], each), *steps,
    ]  # fmt: skip


def _reached(record: Record) -> bool:
    return record["wanted"] is not None and _share(record) <= record["wanted"] and _lost(record) <= 1


def _told(own: list[Record], columns: dict[str, tuple[str, Callable[[float], str]]]) -> list[str]:
    """Cells of figures; empty where no record has them."""
    values = [figures(record) for record in own]
    found = [([value[key] for value in values if key in value], tell) for key, (_, tell) in columns.items()]
    return [spread(numbers, tell) if numbers else "" for numbers, tell in found]


def _picture(model: str) -> str:
    return f"pruning-{model}.svg"


def pictures(records: list[Record]) -> dict[str, str]:
    """The steps of one seed for each network: SVG text by file name."""
    found: dict[str, str] = {}
    for (model, variant), own in grouped(records, tuple(VARIANTS)).items():
        for record in own:
            if record.get("rows") and _picture(model) not in found:
                title = f"Pruning {model} ({variant}, seed {record['seed']})"
                found[_picture(model)] = draw(title, record["rows"])
    return found

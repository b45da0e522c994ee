# SPDX-License-Identifier: BSD-2-Clause
"""docs/results.md and docs/results.json from records."""

from __future__ import annotations

import json
import platform
import shlex
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from cloister.attack.table import Table
from cloister.protect.results import attacks, edgepro, locks, looks, mirror, planning, pruning, tenth, victims
from cloister.protect.results.cases import CASES, MODELS, SEEDS
from cloister.protect.results.context import PLOTS, Record, precision_of
from cloister.protect.results.strategies import STRATEGIES
from cloister.protect.results.summary import aims, missing, name_of, summaries

#: Experiments by name, in the order of the page. Each module has TITLE, run(context, case, seed), wanted(model), and
#: of records figures(record), goals(records), parts(records) and pictures(records).
EXPERIMENTS: dict[str, ModuleType] = {
    "victim": victims, "edgepro": edgepro, "prune": pruning, "attacks": attacks, "tenth": tenth,
    "looks": looks, "mirror": mirror,
}  # fmt: skip
#: By experiment, what its ``run`` takes as variants.
VARIANTS: dict[str, tuple[str, ...]] = {
    "victim": (), "edgepro": tuple(edgepro.VARIANTS), "prune": tuple(pruning.VARIANTS), "attacks": attacks.VARIANTS,
    "tenth": ("turned", "mixed", "published", "constants"), "looks": ("turned", "mixed"),
    "mirror": tuple(dict.fromkeys(name for names in STRATEGIES.values() for name in names)),
}  # fmt: skip
PROGRAM = "python -m cloister.protect.results"


def _chosen(records: list[Record], experiment: str) -> list[Record]:
    return [record for record in records if record["experiment"] == experiment]


def _missing(records: list[Record]) -> list[Record]:
    made = [record for record in records if record["experiment"] in EXPERIMENTS]
    return missing(made, {name: module.wanted for name, module in EXPERIMENTS.items()})


def markdown(records: list[Record]) -> str:
    """The page: aims, how it was made, what was not run, and a section for each experiment with records."""
    goals = []
    for name, module in EXPERIMENTS.items():
        goals += module.goals(_chosen(records, name))
        if module is edgepro:
            goals += locks.goals(_chosen(records, locks.EXPERIMENT))
    counted = _chosen(records, locks.EXPERIMENT)
    lines = [
        "<!-- SPDX-License-Identifier: BSD-2-Clause -->",
        f"<!-- Written by {PROGRAM}; do not edit. -->",
        "# Results", "",
        "Accuracies are of the test images; everything was chosen on validation images cut from the training images.",
        "Where several seeds were run, a figure is their mean, with the least and the most of them behind it. All",
        "figures are in [results.json](results.json), each record and its summary over seeds.",
        "", "## Aims", "", *Table("", ["aim", *MODELS], aims(goals)).lines(), "",
        *planning.aims(_chosen(records, planning.EXPERIMENT)).lines(), "",
        *([] if counted else [
            f"What a password adds to an inference is measured on the emulated device by `{locks.BENCH}`:",
            "[performance.md](performance.md).", "",
        ]),
        "## How it was made", "", *_how(records),
    ]  # fmt: skip
    for name, module in EXPERIMENTS.items():
        chosen = _chosen(records, name)
        more = locks.parts(counted) if module is edgepro else []
        if chosen or more:
            lines += ["", f"## {module.TITLE}"]
            for part in [*(module.parts(chosen) if chosen else []), *more]:
                lines += ["", *(part.lines() if isinstance(part, Table) else [part])]
    planned = planning.parts(_chosen(records, planning.EXPERIMENT))
    lines += ["", "## Performance emulator and strategy generator"] if planned else []
    for part in planned:
        lines += ["", *(part.lines() if isinstance(part, Table) else [part])]
    return "\n".join(lines) + "\n"


def commands(records: list[Record]) -> list[str]:
    """What makes these records anew and no others, in the order of the page, and what measures them on the device.

    DATA is the folder of the data sets, WORK that of the records; FILE is written by one command and read by the next.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for model in dict.fromkeys((*MODELS, *CASES)):
        for name in EXPERIMENTS:
            own = [record for record in _chosen(records, name) if record["model"] == model]
            by_share: dict[tuple[float, float], list[Record]] = {}
            for record in own:
                share = (record["epochs_share"], record.get("effort_share", 1.0))
                by_share.setdefault(share, []).append(record)
            for (epochs, effort), alike in by_share.items():
                for seeds, variants in _runs(name, model, alike).items():
                    words = [f"--model {model}", f"--seeds {','.join(map(str, seeds))}"]
                    words += [f"--epochs {epochs:g}"] if epochs != 1 else []
                    words += [f"--effort {effort:g}"] if effort != 1 else []
                    words += [f"--variant {shlex.quote(variant)}" for variant in variants]
                    found.setdefault(tuple(words), []).append(name)
    lines = []
    for options, names in found.items():
        only = [] if names == list(EXPERIMENTS) else [f"--only {name}" for name in names]
        lines.append(" ".join([PROGRAM, "--data DATA", *options, *only]))
    return lines + _measuring(records)


def _runs(experiment: str, model: str, alike: list[Record]) -> dict[tuple[int, ...], list[str]]:
    """By seeds that are run together what the command names as variants; nothing where a plain run makes the same.

    What no command names comes with every run of the experiment, such as the bounds of attacks: a seed that has nothing
    else gets a plain run, since no command makes less. What has meanwhile been renamed gets none.
    """
    wanted, variants = EXPERIMENTS[experiment].wanted(model), VARIANTS[experiment]
    seeds: dict[str, set[int]] = {}
    for record in alike:
        seeds.setdefault(name_of(record), set()).add(record["seed"])
    named = {name: seeds[name] for name in variants if name in seeds}
    bare = {seed for name in seeds if name in wanted for seed in seeds[name]}.difference(*named.values())
    found: dict[tuple[int, ...], list[str]] = {}
    for name, its in named.items():
        found.setdefault(tuple(sorted(its)), []).append(name)
    plain = set(wanted) & set(variants)
    found = {together: [] if set(names) == plain else names for together, names in found.items()}
    return found | ({tuple(sorted(bare)): []} if bare else {})


def _measuring(records: list[Record]) -> list[str]:
    """What put figures of the emulated device into the records."""
    lines = []
    if any("measured" in row for record in _chosen(records, "prune") for row in record.get("rows", [])):
        lines.append(f"{PROGRAM} --write-only --measure")
    if any("measured" in record for record in _chosen(records, "mirror")):
        lines += [mirror.BENCH, f"{PROGRAM} --write-only --measured FILE"]
    if _chosen(records, locks.EXPERIMENT):
        lines += [locks.BENCH, f"{PROGRAM} --write-only --locks FILE"]
    if planned := _chosen(records, planning.EXPERIMENT):
        seeds = sorted({row["seed"] for record in planned for row in record["rows"]})
        lines += [f"{planning.GENERATOR} --seeds {','.join(map(str, seeds))}",
                  f"{PROGRAM} --write-only --generator out/generator/results.json"]  # fmt: skip
    return lines


def _how(records: list[Record]) -> list[str]:
    """Commands, versions, run times, and what is not there."""
    lines = ["```", "build/setup --train", *commands(records), "```", "",
             "DATA holds `mnist.npz` and `cifar10.npz`, with arrays as [protecting.md](protecting.md) tells; WORK is",
             "`out/results`, and FILE what the line before has written.",
             "An interrupted command goes on where it was; in a new clone `--known docs/results.json` makes it run",
             "only what is missing here, and keeps the rest. Epochs and effort are shares of what the owner and the",
             "attackers train in a full run. Hours are wall clock, whatever else the machine did, for the records that",
             "are there; trainings that records share count once.", ""]  # fmt: skip
    rows = []
    for name in EXPERIMENTS:
        for model in dict.fromkeys(record["model"] for record in _chosen(records, name)):
            own = [record for record in _chosen(records, name) if record["model"] == model]
            hours = sum(max(record["seconds"], record.get("training_s", 0.0)) for record in own) / 3600
            rows.append([
                name, model, ", ".join(sorted({str(record["seed"]) for record in own})), str(len(own)),
                *(", ".join(sorted({f"{record[key]:g}" for record in own if key in record}))
                  for key in ("epochs_share", "effort_share")),
                ", ".join(sorted({record.get("precision", precision_of(CASES[model])) for record in own})),
                ", ".join(sorted({record["device"] for record in own})), f"{hours:.2f}",
            ])  # fmt: skip
    heads = ["experiment", "network", "seeds", "records", "epochs", "effort", "precision", "device", "hours"]
    lines += [*Table("", heads, rows).lines(), "", "### What was not run", ""]
    rows = _absent(records)
    lines += Table("", ["experiment", "network", "what", "seeds"], rows).lines() if rows else ["Nothing is missing."]
    return lines


def _absent(records: list[Record]) -> list[list[str]]:
    """What was not run; names that lack the same seeds in one row."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for line in _missing(records):
        seeds = "all" if len(line["seeds"]) == len(SEEDS) else ", ".join(map(str, line["seeds"]))
        found.setdefault((line["experiment"], line["model"], seeds), []).append(line["name"])
    return [[experiment, model, ", ".join(names), seeds] for (experiment, model, seeds), names in found.items()]


def write(records: list[Record], folder: Path) -> None:
    """Write ``results.json``, ``results.md`` and the plots (in ``plots``) into ``folder``."""
    about = {"python": platform.python_version(), "torch": version("torch"), "commands": commands(records)}
    lines = [line for name, module in EXPERIMENTS.items()
             for line in summaries(name, _chosen(records, name), module.figures)]  # fmt: skip
    content = {"about": about, "missing": _missing(records), "summary": lines, "records": records,
               "emulator": planning.evaluation()}  # fmt: skip
    texts = {"results.json": json.dumps(content, indent=1) + "\n", "results.md": markdown(records)}
    for name, module in EXPERIMENTS.items():
        texts |= {f"{PLOTS}/{file}": text for file, text in module.pictures(_chosen(records, name)).items()}
    (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        aside = folder / (name + ".new")
        aside.write_text(text)
        aside.replace(folder / name)

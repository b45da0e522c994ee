# SPDX-License-Identifier: BSD-2-Clause
"""``python -m cloister.protect.results``: makes the records that are missing, then writes both files."""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import click

from cloister.errors import CloisterError
from cloister.protect.results import attacks, edgepro, pruning, victims
from cloister.protect.results.cases import CASES
from cloister.protect.results.context import Context, Record

#: Experiments by name, in the order of the page. Each module has TITLE, run(context, case, seed) and table(records);
#: one that draws has pictures(records) as well, which gives SVG text by file name.
EXPERIMENTS: dict[str, ModuleType] = {"victim": victims, "edgepro": edgepro, "prune": pruning, "attacks": attacks}


def markdown(records: list[Record]) -> str:
    """The page: a table for each experiment that there are records of."""
    lines = [
        "<!-- SPDX-License-Identifier: BSD-2-Clause -->",
        "<!-- Written by python -m cloister.protect.results; do not edit. -->",
        "# Results", "",
        "Accuracies are of the test images; everything was chosen on validation images cut from the training images.",
        "Made with `python -m cloister.protect.results --data FOLDER` (FOLDER holds the data sets). Records with all",
        "figures are in `results.json`. What is not in a table has not been run yet.",
    ]  # fmt: skip
    for name, module in EXPERIMENTS.items():
        chosen = [record for record in records if record["experiment"] == name]
        if chosen:
            heads, rows = module.table(chosen)
            lines += ["", f"## {module.TITLE}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
            lines += ["| " + " | ".join(row) + " |" for row in rows]
            lines += [line for picture in _pictures(module, chosen) for line in ("", f"![{picture}]({picture})")]
    return "\n".join(lines) + "\n"


def _pictures(module: ModuleType, records: list[Record]) -> dict[str, str]:
    found: dict[str, str] = module.pictures(records) if hasattr(module, "pictures") else {}
    return found


def write(records: list[Record], folder: Path) -> None:
    """Write ``results.json``, ``results.md`` and the plots into ``folder``."""
    about = {
        "python": platform.python_version(),
        "torch": version("torch"),
        "command": "python -m cloister.protect.results " + shlex.join(_without_folders(sys.argv[1:])),
    }
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": json.dumps({"about": about, "records": records}, indent=1) + "\n",
        "results.md": markdown(records),
    }
    for experiment, module in EXPERIMENTS.items():
        texts |= _pictures(module, [record for record in records if record["experiment"] == experiment])
    for name, text in texts.items():
        aside = folder / (name + ".new")
        aside.write_text(text)
        aside.replace(folder / name)


def _without_folders(arguments: Sequence[str]) -> list[str]:
    """The arguments, with names in place of folders: those say something of one machine alone."""
    named = r"--(data|work|docs)[\0=][^\0]*"
    words = re.sub(named, lambda found: f"--{found[1]}\0{found[1].upper()}", "\0".join(arguments))
    return words.split("\0") if words else []


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Folder of the data sets."
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("out/results"),
    show_default=True,
    help="Checkpoints and records.",
)
@click.option(
    "--docs", type=click.Path(path_type=Path), default=Path("docs"), show_default=True, help="Where the two files go."
)
@click.option(
    "--model", "models", multiple=True, type=click.Choice(list(CASES)), help="[default: lenet5, vgg7, resnet20]"
)
@click.option("--only", multiple=True, type=click.Choice(list(EXPERIMENTS)), help="These experiments [default: all].")
@click.option(
    "--variant", "variants", multiple=True, help="These locks, criteria or targets of attacks [default: each module's]."
)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--epochs", type=float, default=1.0, show_default=True, help="Share of the epochs, to try the script out."
)
@click.option("--effort", type=float, default=1.0, show_default=True, help="Share of the steps that attackers train.")
@click.option("--write-only", is_flag=True, help="Only write the files from the records that are there.")
def main(
    data: Path, work: Path, docs: Path, models: tuple[str, ...], only: tuple[str, ...], variants: tuple[str, ...],
    seeds: str, device: str, epochs: float, effort: float, write_only: bool,
) -> None:  # fmt: skip
    """Make all records that are missing, network by network, then write docs/results.json and docs/results.md.

    Interrupted, the same command goes on where it was.
    """
    context = Context(data, work, device, epochs=epochs, effort=effort)
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise click.BadParameter(f"{seeds!r}: write numbers with commas, such as 0,1,2") from None
    try:
        for model in () if write_only else models or ("lenet5", "vgg7", "resnet20"):
            for seed in numbers:
                for name in only or EXPERIMENTS:
                    chosen = {"variants": variants} if variants and name != "victim" else {}
                    EXPERIMENTS[name].run(context, CASES[model], seed, **chosen)
                    write(context.records(), docs)
        write(context.records(), docs)
    except CloisterError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{docs / 'results.md'}: {len(context.records())} records")


if __name__ == "__main__":
    main()

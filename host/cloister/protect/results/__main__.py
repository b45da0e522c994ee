# SPDX-License-Identifier: BSD-2-Clause
"""``python -m cloister.protect.results``: makes the records that are missing, then writes both files."""

from __future__ import annotations

from pathlib import Path

import click

from cloister.errors import CloisterError
from cloister.protect.results import locks, mirror, planning, pruning
from cloister.protect.results.cases import CASES, MODELS, SEEDS
from cloister.protect.results.context import Context
from cloister.protect.results.page import EXPERIMENTS, VARIANTS, write


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
    "--model", "models", multiple=True, type=click.Choice(list(CASES)), help=f"[default: {', '.join(MODELS)}]"
)
@click.option("--only", multiple=True, type=click.Choice(list(EXPERIMENTS)), help="These experiments [default: all].")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    help="These locks, criteria, targets of attacks or strategies [default: each module's].",
)
@click.option("--seeds", default=",".join(map(str, SEEDS)), show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--epochs", type=float, default=1.0, show_default=True, help="Share of the epochs, to try the script out."
)
@click.option("--effort", type=float, default=1.0, show_default=True, help="Share of the steps that attackers train.")
@click.option(
    "--known",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take the records of this file, such as docs/results.json, for made: only what it lacks is run.",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Put what `{mirror.BENCH}` measured into the records.",
)
@click.option(
    "--generator",
    "comparisons",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help=f"Keep what `{planning.GENERATOR}` wrote (repeat for several files).",
)
@click.option(
    "--locks",
    "counted",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Keep what `{locks.BENCH}` measured: what a password adds.",
)
@click.option(
    "--measure",
    is_flag=True,
    help="Count the pruned networks' instructions on the emulated device, where records lack them.",
)
@click.option("--write-only", is_flag=True, help="Only write the files from the records that are there.")
def main(
    data: Path, work: Path, docs: Path, models: tuple[str, ...], only: tuple[str, ...], variants: tuple[str, ...],
    seeds: str, device: str, epochs: float, effort: float, known: Path | None, measured: Path | None,
    comparisons: tuple[Path, ...], counted: Path | None, measure: bool, write_only: bool,
) -> None:  # fmt: skip
    """Make all records that are missing, network by network, then write docs/results.json and docs/results.md.

    Interrupted, the same command goes on where it was.
    """
    context = Context(data, work, device, epochs=epochs, effort=effort)
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise click.BadParameter(f"{seeds!r}: write numbers with commas, such as 0,1,2") from None
    there = dict.fromkeys(variant for name in only or EXPERIMENTS for variant in VARIANTS[name])
    for variant in variants:
        if variant not in there:
            raise click.BadParameter(f"{variant!r} is none of {', '.join(there)}", param_hint="--variant")
    try:
        if known is not None:
            click.echo(f"{known}: {context.know(known)} records that were not in {work}")
        for model in () if write_only else models or MODELS:
            for seed in numbers:
                for name in only or EXPERIMENTS:
                    chosen = {"variants": variants} if variants and name != "victim" else {}
                    EXPERIMENTS[name].run(context, CASES[model], seed, **chosen)
                    write(context.records(), docs)
        if measured is not None:
            click.echo(f"{measured}: figures of {mirror.measured(context, measured)} strategies")
        if comparisons:
            click.echo(f"{planning.compared(context, comparisons)} comparisons of the generator")
        if counted is not None:
            click.echo(f"{counted}: figures of {locks.measured(context, counted)} networks")
        if measure:
            click.echo(f"figures of {pruning.measure(context)} pruned networks")
        write(context.records(), docs)
    except CloisterError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{docs / 'results.md'}: {len(context.records())} records")


if __name__ == "__main__":
    main()

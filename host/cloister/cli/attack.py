# SPDX-License-Identifier: BSD-2-Clause
"""``cloister attack``: put protected models on the attack bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from cloister.cli.common import show_facts, show_table
from cloister.cli.training import PRECISION, Training, training_command
from cloister.errors import CloisterError

if TYPE_CHECKING:
    from cloister.attack import Exposed, Report

EXAMPLE = """
\b
Examples:
  cloister attack my_models:network --checkpoint trained.pt --data images/ -o attacks/ \\
      --locked locked/locked.onnx --password locked/password.pwd
  cloister attack my_models:network --checkpoint trained.pt --data images/ -o attacks/ --attacks observe \\
      --locked locked/locked.onnx --password locked/password.pwd --seen all
  cloister attack model.onnx --data data.npz --pruned pruned.onnx --attacks direct,finetune,steal -o attacks/
  cloister attack my_models:network --checkpoint trained.pt --data images/ --protected protected/ -o attacks/
  cloister attack my_models:network --checkpoint trained.pt --data data.npz --target my_protection:exposed -o attacks/
"""


@training_command(
    EXAMPLE,
    click.option(
        "--locked", type=click.Path(path_type=Path), help="Locked ONNX file, taken to have leaked; needs --password."
    ),
    click.option("--password", type=click.Path(path_type=Path), help="Password of --locked, for the device's answers."),
    click.option(
        "--seen",
        multiple=True,
        help="Tensor of --locked that authorised runs show (repeat for more), or all that are locked; what no plan of "
        "the compiler does. Adds the attack observe.",
    ),
    click.option("--pruned", type=click.Path(path_type=Path), multiple=True,
                 help="ONNX file that is exposed whole; files of one name are told apart by their folders."),
    click.option("--protected", type=click.Path(path_type=Path), multiple=True,
                 help="Output folder of `cloister protect`: what attackers see of the pair, or of the whole model."),
    click.option("--target", "targets", multiple=True, help="Own protection: package.module:factory of an Exposed."),
    click.option("--attacks", help="Names with commas [default: all; docs/attacks.md lists them]."),
    click.option("--steps", type=click.IntRange(1), help="Of each training [default: 2000]."),
    click.option("--rates", help="Learning rates that are tried, with commas [default: 0.01,0.05,0.2]; those of the "
                 "search for a mask stay 0.02,0.2."),
    PRECISION,
)  # fmt: skip
def attack(
    training: Training, locked: Path | None, password: Path | None, seen: tuple[str, ...], pruned: tuple[Path, ...],
    protected: tuple[Path, ...], targets: tuple[str, ...], attacks: str | None, steps: int | None, rates: str | None,
    precision: Literal["auto", "float32", "bfloat16"],
) -> None:  # fmt: skip
    """Attack what is exposed of a protected MODEL, between the unprotected MODEL and one that can only be asked.

    MODEL, the unprotected victim, is package.module:factory (with --checkpoint) or an ONNX file. Writes attacks.json,
    attacks.md and attacks.svg. Interrupted, the same command goes on where it was; with other protected models or
    attacks it adds their rows. All attacks with all steps take hours on a processor; to try out what is reported, add
    --attacks direct,finetune --steps 40 --rates 0.05.
    """
    from dataclasses import replace

    from cloister.attack import Effort
    from cloister.attack.table import CELL, notes, titled
    from cloister.protect import api

    effort = Effort(augmentation=training.augmentation, precision=precision)
    if rates is not None:
        effort = replace(effort, rates=_rates(rates))
    if steps is not None:
        effort = replace(effort, steps=steps, trial=min(steps, effort.trial))
    report = api.attack(
        training.model, training.source, training.output, locked=locked, password=password, seen=seen, pruned=pruned,
        protected=protected, targets=[_target(name) for name in targets], effort=effort,
        attacks=None if attacks is None else [name.strip() for name in attacks.split(",") if name.strip()],
        **training.common,
    )  # fmt: skip
    click.echo(f"Each cell: {CELL}.")
    for table in titled(report.records, report.about["black_box"]):
        show_table(table.title, table.heads, table.rows)
    for note in notes(report.records):
        click.echo(note)
    written = [training.output / f"attacks.{ending}" for ending in ("json", "md", "svg")]
    facts: dict[str, object] = {"written": ", ".join(str(path) for path in written)}
    if earlier := _earlier(written[0], report):
        facts["of earlier runs"] = f"{earlier}: there, but not above"
    show_facts(facts)


def _earlier(path: Path, report: Report) -> str:
    """What of the report in that file is of earlier runs: targets with their attacks."""
    from cloister.attack.table import labels

    made = {(record["target"], record["attack"], record["budget"]) for record in report.records}
    written = json.loads(path.read_text(encoding="utf-8"))["records"]
    known = labels(record["target"] for record in written)
    found: dict[str, dict[str, None]] = {}
    for record in written:
        if (record["target"], record["attack"], record["budget"]) not in made:
            found.setdefault(known[record["target"]], {})[record["attack"].partition(",")[0]] = None
    return "; ".join(f"{target} ({', '.join(attacks)})" for target, attacks in found.items())


def _target(name: str) -> Exposed:
    """What the factory of that name returns, if it is something that can be attacked."""
    from cloister.protect.training.source import call_factory, is_factory

    if not is_factory(name):
        raise CloisterError(f"{name!r} is no package.module:factory", "name a function that returns what is exposed")
    target: Exposed = call_factory(name)
    missing = [part for part in ("name", "module", "query") if not hasattr(target, part)]
    if missing:
        raise CloisterError(f"what {name} returned has no {', '.join(missing)}", "see docs/attacks.md")
    return target


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise CloisterError(f"rates are {text!r}", "write numbers with commas, such as 0.01,0.1") from None

# SPDX-License-Identifier: BSD-2-Clause
"""``cloister attack``: put protected models on the attack bench."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cloister.cli.common import show_facts, show_table
from cloister.cli.edgepro import need_torch
from cloister.errors import CloisterError

if TYPE_CHECKING:
    from cloister.attack import Exposed
    from cloister.protect.training import Splits

EXAMPLE = """
\b
Examples:
  cloister attack my_models:network --checkpoint trained.pt --data images/ -o attacks/ \\
      --locked locked/locked.onnx --password locked/password.pwd
  cloister attack model.onnx --data data.npz --pruned pruned.onnx --attacks direct,finetune,steal -o attacks/
  cloister attack my_models:network --checkpoint trained.pt --data data.npz --target my_protection:exposed -o attacks/
"""


@click.command(epilog=EXAMPLE)
@click.argument("model")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="State of the model, as torch.save wrote it.")
@click.option(
    "--data", required=True, help="Folder of images, .npz file, or package.module:factory of torch data sets."
)
@click.option(
    "--locked", type=click.Path(path_type=Path), help="Locked ONNX file, taken to have leaked; needs --password."
)
@click.option("--password", type=click.Path(path_type=Path), help="Password of --locked, for the device's answers.")
@click.option("--pruned", type=click.Path(path_type=Path), multiple=True, help="ONNX file that is exposed whole.")
@click.option("--target", "targets", multiple=True, help="Own protection: package.module:factory of an Exposed.")
@click.option("--attacks", help="Names with commas [default: all; docs/attacks.md lists them].")
@click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="Folder of the report.")
@click.option("--steps", type=click.IntRange(1), help="Of each training [default: 2000].")
@click.option("--rates", help="Learning rates that are tried, with commas [default: 0.01,0.05,0.2].")
@click.option("--crop", type=click.IntRange(0), default=0, show_default=True, help="Attackers move images by so much.")
@click.option("--flip", is_flag=True, help="Attackers mirror images.")
@click.option("--validation", type=click.FloatRange(0, 1), default=0.1, show_default=True,
              help="Share of the training images that choices are made on.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto: the GPU where there is one.")
def attack(
    model: str, checkpoint: Path | None, data: str, locked: Path | None, password: Path | None,
    pruned: tuple[Path, ...], targets: tuple[str, ...], attacks: str | None, output: Path, steps: int | None,
    rates: str | None, crop: int, flip: bool, validation: float, seed: int, device: str,
) -> None:  # fmt: skip
    """Attack what is exposed of a protected MODEL, between the unprotected MODEL and one that can only be asked.

    MODEL, the unprotected victim, is package.module:factory (with --checkpoint) or an ONNX file. Writes attacks.json,
    attacks.md and attacks.svg. Interrupted, the same command goes on where it was.
    """
    need_torch()
    from dataclasses import replace

    from cloister.attack import Effort, bench
    from cloister.attack.table import CELL, tables
    from cloister.protect.training import Augmentation, load_data, load_model

    splits = load_data(data, validation=validation, seed=seed)
    victim = load_model(model, checkpoint)
    exposed = _exposed(locked, password, pruned, targets, splits)
    effort = Effort(augmentation=Augmentation(crop, flip))
    if rates is not None:
        effort = replace(effort, rates=_rates(rates))
    if steps is not None:
        effort = replace(effort, steps=steps, trial=min(steps, effort.trial))
    report = bench(
        exposed, splits, victim, attacks=None if attacks is None else [name.strip() for name in attacks.split(",")],
        effort=effort, seed=seed, folder=output / "work", device=device,
    )  # fmt: skip
    written = report.write(output)
    click.echo(f"Each cell: {CELL}.")
    for table in tables(report.records, report.about["black_box"]):
        show_table(table.title, table.heads, table.rows)
    show_facts({"written": ", ".join(str(path) for path in written)})


def _exposed(
    locked: Path | None, password: Path | None, pruned: tuple[Path, ...], targets: tuple[str, ...], splits: Splits
) -> list[Exposed]:
    from cloister.attack import WhiteBox
    from cloister.protect.training import load_model
    from cloister.protect.training.source import call_factory, is_factory

    found: list[Exposed] = []
    if (locked is None) != (password is None):
        raise CloisterError("--locked and --password belong together", "give both, or neither")
    if locked is not None and password is not None:
        found.append(_locked(locked, password, splits))
    found += [WhiteBox(load_model(path), splits, f"pruned {path.stem}") for path in pruned]
    for name in targets:
        if not is_factory(name):
            raise CloisterError(
                f"{name!r} is no package.module:factory", "name a function that returns what is exposed"
            )
        target = call_factory(name)
        missing = [part for part in ("name", "module", "query") if not hasattr(target, part)]
        if missing:
            raise CloisterError(f"what {name} returned has no {', '.join(missing)}", "see docs/attacks.md")
        found.append(target)
    return found


def _locked(locked: Path, password: Path, splits: Splits) -> Exposed:
    """The locked file as the attacker has it; the device answers as the file with the password does."""
    import onnx

    from cloister.attack import LeakedFile
    from cloister.password import Password
    from cloister.protect.training import load_model

    module = load_model(locked)
    opened = Password.read(password).apply(onnx.load(str(locked)))
    with tempfile.TemporaryDirectory(prefix="cloister-attack-") as folder:
        path = Path(folder) / "authorised.onnx"
        onnx.save(opened, str(path))
        authorised = load_model(path)
    return LeakedFile(module, authorised, splits, f"locked {locked.stem}")


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise CloisterError(f"rates are {text!r}", "write numbers with commas, such as 0.01,0.1") from None

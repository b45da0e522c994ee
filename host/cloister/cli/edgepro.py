# SPDX-License-Identifier: BSD-2-Clause
"""``cloister edgepro``: lock a trained model, so that it answers only with a password."""

from __future__ import annotations

import shlex

import click

from cloister.cli.common import show_facts, show_table
from cloister.cli.training import PRECISION, Training, training_command

EXAMPLE = """
\b
Examples:
  cloister edgepro my_models:network --checkpoint trained.pt --data images/ -o locked/
  cloister edgepro model.onnx --data data.npz -o locked/ --epochs 30 --constant 0.1   # EdgePro's own locks as well
  cloister compile locked/locked.onnx --password locked/password.pwd -o model.clb   # refused where a lock would be seen
  cloister licence model.clb device.json --password locked/password.pwd -o model.lic
"""


@training_command(
    EXAMPLE,
    click.option("--name", help="The model's name in the password file [default: the output folder's]."),
    click.option(
        "--constant", type=click.FloatRange(0, 1), help="Share of channels set to locking values [default: 0]."
    ),
    click.option(
        "--turned", type=click.FloatRange(0, 1), help="Share of channels whose output is turned around [default: 0.5]."
    ),
    click.option(
        "--layer", "layers", multiple=True, help="Lock this layer only (repeat for more) [default: all but the last]."
    ),
    click.option(
        "--criterion",
        type=click.Choice(["mean", "variance", "saliency", "random"]),
        help="With --constant: how channels are ranked.",
    ),
    click.option(
        "--draw",
        type=click.Choice(["roulette", "top", "uniform"]),
        help="With --constant: how channels are drawn from the best.",
    ),
    click.option("--epochs", type=click.IntRange(1), help="Of lock training [default: 16]."),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate [default: 0.007]."),
    click.option(
        "--without-uniform",
        type=click.FloatRange(0),
        help="Weight of equal chances without the password [default: 1]; networks without capacity to spare lose less "
        "with 0.5.",
    ),
    PRECISION,
)
def edgepro(
    training: Training, name: str | None, constant: float | None, turned: float | None, layers: tuple[str, ...],
    criterion: str | None, draw: str | None, epochs: int | None, rate: float | None, without_uniform: float | None,
    precision: str,
) -> None:  # fmt: skip
    """Lock MODEL with EdgePro: locked.onnx answers at chance until the password is applied inside the TA.

    MODEL is package.module:factory (with --checkpoint) or an ONNX file. Writes locked.onnx, password.pwd (keep it
    secret) and report.json. Interrupted, the same command goes on where it was.
    """
    from cloister.protect import api
    from cloister.protect.edgepro.settings import settings_with

    settings = settings_with(
        constant_share=constant, turned_share=turned, layers=layers or None, criterion=criterion, draw=draw,
        seed=training.seed, epochs=epochs, rate=rate, without_uniform=without_uniform, precision=precision,
        augmentation=training.augmentation,
    )  # fmt: skip
    output = training.output
    locked = api.edgepro(training.model, training.source, output, name=name, settings=settings, **training.common)
    rows = [
        (layer["layer"], layer["channels"], layer["constants"], layer["turned"]) for layer in locked.report["layers"]
    ]
    show_table("Locked channels", ["layer", "channels", "constant", "turned"], rows)
    facts: dict[str, object] = {}
    for key, title in (("unlocked", "unlocked"), ("with_password", "with password"), ("without_password", "without")):
        test, validated = locked.report["test"][key], locked.report["validation"][key]
        facts[title] = f"{test:.2%} of the test images, {validated:.2%} of the validation images"
    if locked.report["advice"]:
        facts["WARNING"] = locked.report["advice"]
    facts["training"] = f"{locked.report['training_s']:.0f} s, epoch {locked.report['epoch']} selected"
    facts["written"] = f"{output / 'locked.onnx'}, {output / 'password.pwd'} (secret), {output / 'report.json'}"
    secret = ["--password", str(output / "password.pwd")]
    facts["next"] = shlex.join(["cloister", "compile", str(output / "locked.onnx"), *secret, "-o", "model.clb"])
    facts["then"] = shlex.join(["cloister", "licence", "model.clb", "device.json", *secret, "-o", "model.lic"])
    show_facts(facts)

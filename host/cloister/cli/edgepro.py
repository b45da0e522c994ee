# SPDX-License-Identifier: BSD-2-Clause
"""``cloister edgepro``: lock a trained model, so that it answers only with a password."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click

from cloister.cli.common import show_facts, show_table
from cloister.errors import CloisterError

EXAMPLE = """
\b
Examples:
  cloister edgepro my_models:network --checkpoint trained.pt --data images/ -o locked/
  cloister edgepro model.onnx --data data.npz -o locked/ --epochs 16 --turned 0.5 --constant 0
  cloister compile locked/locked.onnx -o model.clb
  cloister licence model.clb device.json --password locked/password.pwd -o model.lic
"""


def need_torch() -> None:
    """Refuse where the extra ``train`` is not installed.

    Raises:
        CloisterError: torch is missing; the remedy says how to install it.
    """
    if importlib.util.find_spec("torch") is None:
        raise CloisterError(
            "this command trains, and torch is not installed", "pip install 'cloister[train]', or build/setup --train"
        )


@click.command(epilog=EXAMPLE)
@click.argument("model")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="State of the model, as torch.save wrote it.")
@click.option(
    "--data", required=True, help="Folder of images, .npz file, or package.module:factory of torch data sets."
)
@click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
@click.option("--name", help="The model's name in the password file [default: the output folder's].")
@click.option("--constant", type=click.FloatRange(0, 1), default=None, help="Share of channels set to locking values.")
@click.option(
    "--turned", type=click.FloatRange(0, 1), default=None, help="Share of channels whose output is turned around."
)
@click.option(
    "--layer", "layers", multiple=True, help="Lock this layer only (repeat for more) [default: all but the last]."
)
@click.option(
    "--criterion", type=click.Choice(["mean", "variance", "saliency", "random"]), help="How channels are ranked."
)
@click.option("--draw", type=click.Choice(["roulette", "top", "uniform"]), help="How channels are drawn from the best.")
@click.option("--epochs", type=click.IntRange(1), help="Of lock training.")
@click.option("--rate", type=float, help="Highest learning rate of lock training.")
@click.option(
    "--crop", type=click.IntRange(0), default=0, show_default=True, help="Move training images by so many pixels."
)
@click.option("--flip", is_flag=True, help="Mirror training images.")
@click.option(
    "--validation",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of the training images that choices are made on.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto: the GPU where there is one.")
def edgepro(
    model: str, checkpoint: Path | None, data: str, output: Path, name: str | None, constant: float | None,
    turned: float | None, layers: tuple[str, ...], criterion: str | None, draw: str | None, epochs: int | None,
    rate: float | None, crop: int, flip: bool, validation: float, seed: int, device: str,
) -> None:  # fmt: skip
    """Lock MODEL with EdgePro: locked.onnx answers at chance until the password is applied inside the TA.

    MODEL is package.module:factory (with --checkpoint) or an ONNX file. Writes locked.onnx, password.pwd (keep it
    secret) and report.json. Interrupted, the same command goes on where it was.
    """
    need_torch()
    from cloister.protect.edgepro import lock_model
    from cloister.protect.edgepro.settings import settings_with
    from cloister.protect.training import Augmentation, load_data, load_model

    settings = settings_with(
        constant_share=constant, turned_share=turned, layers=layers or None, criterion=criterion, draw=draw, seed=seed,
        epochs=epochs, rate=rate, augmentation=Augmentation(crop, flip),
    )  # fmt: skip
    splits = load_data(data, validation=validation, seed=seed)
    locked = lock_model(
        load_model(model, checkpoint), splits, settings, folder=output / "training", device=device, name="locking"
    )
    locked.save(output, name or output.resolve().name)
    rows = [
        (layer["layer"], layer["channels"], len(layer["constants"]), len(layer["turned"]))
        for layer in locked.report["layers"]
    ]
    show_table("Locked channels", ["layer", "channels", "constant", "turned"], rows)
    facts: dict[str, object] = {}
    for key, title in (("unlocked", "unlocked"), ("with_password", "with password"), ("without_password", "without")):
        test, validated = locked.report["test"][key], locked.report["validation"][key]
        facts[title] = f"{test:.2%} of the test images, {validated:.2%} of the validation images"
    facts["training"] = f"{locked.report['training_s']:.0f} s, epoch {locked.report['epoch']} selected"
    facts["written"] = f"{output / 'locked.onnx'}, {output / 'password.pwd'} (secret), {output / 'report.json'}"
    show_facts(facts)

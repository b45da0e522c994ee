# SPDX-License-Identifier: BSD-2-Clause
"""``cloister compile``: an ONNX model into a sealed bundle."""

from __future__ import annotations

from pathlib import Path

import click

from cloister.api import compile as compile_model
from cloister.cli.common import Dim, NewFile, Size, begins, compile_progress, human, show_facts
from cloister.cli.keys import DIRECTORY
from cloister.errors import CloisterError
from cloister.seal import Bundle
from cloister.seal.bundle import MAGIC
from cloister.seal.ciphers import AUTO, DEFAULT, SUITES
from cloister.seal.keys import load_lock_name
from cloister.seal.record import DeviceRecord

EXAMPLE = """
\b
Examples:
  cloister compile model.onnx -o model.clb
  cloister compile model.onnx -o model.clb --name gatekeeper --version 2 --dim N=1
  cloister compile model.onnx -o model.clb --device device.json   # sealed with the fastest cipher that it has
  cloister compile locked.onnx --password password.pwd -o model.clb   # refused where a locked tensor would be seen
  cloister compile cpm.onnx --backbone backbone.onnx -o pair.clb   # the CPM in the TA, the backbone beside it
  cloister compile model.onnx -o model.clb --embed out/embed   # C arrays to link into the TA
"""


def pair_facts(bundle: Bundle) -> dict[str, object]:
    """What a pair has besides its CPM: the backbone in the normal world, and the taps between them."""
    backbone = bundle.backbone
    stages = len({tap.ready for tap in backbone.taps})
    return {
        "backbone": f"{human(backbone.size)} in clear, {len(backbone.partitions)} partitions, "
        f"arena {human(backbone.arena_size)}",
        "taps": ", ".join(f"{info.name} {human(info.size)}" for info in bundle.inputs) + f", in {stages} stages",
    }


@click.command(epilog=EXAMPLE)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "output", type=NewFile("bundle", begins(MAGIC)), required=True, help="Bundle file to write.")
@click.option(
    "--backbone",
    type=click.Path(path_type=Path),
    help="Makes a pair: MODEL is a CPM, whose inputs bear the names of outputs (taps) of this ONNX file. The backbone "
    "runs in the device's normal world; the bundle brings it in clear, bound to the signed manifest.",
)
@click.option("--name", help="The model's name on devices [default: the file's].")
@click.option(
    "--version",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The model's version; devices refuse one older than they have run.",
)
@click.option("--dim", "dims", type=Dim(), multiple=True, metavar="NAME=N", help="Fix a free dimension (repeatable).")
@click.option(
    "--secure-memory",
    type=Size(),
    help="The smallest secure memory in which it must run [default: 4MiB where that costs little].",
)
@click.option(
    "--max-partition",
    type=Size(),
    help="Most bytes of one partition: what is decrypted at once [default: chosen].",
)
@click.option(
    "--weights",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="How weights of float operators are stored; int8 takes a quarter of the bytes, rounded.",
)
@click.option(
    "--winograd/--no-winograd",
    default=True,
    show_default=True,
    help="Compute 3x3 convolutions by Winograd's algorithm where it takes fewer instructions; it rounds otherwise.",
)
@click.option(
    "--cipher",
    type=click.Choice([AUTO, *SUITES]),
    default=AUTO,
    show_default=True,
    help=f"What it is sealed with; auto: the fastest that all devices given have, without any {DEFAULT}.",
)
@click.option(
    "--device",
    "devices",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Record of a device on which it shall run, from 'cloister provision' (repeatable).",
)
@click.option(
    "--password",
    type=click.Path(path_type=Path),
    help="Check that the model can be locked with this password (.pwd); it does not enter the bundle.",
)
@click.option("--embed", type=click.Path(path_type=Path), help="Also write the bundle as C arrays into this directory.")
@DIRECTORY
def compile(  # noqa: A001
    model: Path, output: Path, backbone: Path | None, name: str | None, version: int, dims: tuple[tuple[str, int], ...],
    secure_memory: int | None, max_partition: int | None, weights: str, winograd: bool, cipher: str,
    devices: tuple[Path, ...], password: Path | None, embed: Path | None, directory: Path | None,
) -> None:  # fmt: skip
    """Compile the ONNX file MODEL into a sealed bundle; with --backbone, a pair.

    The content key that opens the bundle stays with your keys; 'cloister licence' gives it to a device.
    """
    if backbone and embed:
        raise CloisterError("a pair cannot be embedded in the TA", "leave out --embed or --backbone")
    records = [DeviceRecord.load(path) for path in devices]
    with compile_progress(f"compiling {model}") as progress:
        bundle = compile_model(
            model, backbone=backbone, name=name, version=version, dims=dict(dims), max_partition=max_partition,
            secure_memory=secure_memory, weights=weights, winograd=winograd, cipher=cipher, devices=records,
            password=password, keys=directory, progress=progress,
        )  # fmt: skip
    bundle.save(output)
    facts: dict[str, object] = {
        "bundle": f"{output} ({human(output.stat().st_size)})",
        "model": f"{bundle.name} (version {bundle.version})",
        "cipher": bundle.cipher,
        "partitions": len(bundle.partitions),
        "largest": human(bundle.header.largest_partition),
        "arena": human(bundle.arena_size),
    }
    if bundle.is_pair:
        facts |= pair_facts(bundle)
    if password is None and (lock := load_lock_name(bytes(bundle.header.content_key_id), directory)):
        facts["WARNING"] = f"the model is locked ({lock[:8]}...), and without --password it turns out late, at " \
                           "`cloister licence`, whether an output shows a locked tensor"  # fmt: skip
    if embed:
        from cloister.compile.emit_c import write_embedded

        facts["embedded"] = f"{write_embedded(embed, bundle.manifest, bundle.payload)}: build the TA with " \
                            f"CLOISTER_EMBED={embed.resolve()}"  # fmt: skip
    show_facts(facts)

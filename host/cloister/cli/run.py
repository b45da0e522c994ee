# SPDX-License-Identifier: BSD-2-Clause
"""``cloister run``: run a bundle on a device."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cloister.arrays import ARRAY_ERRORS, load_arrays, not_finite
from cloister.cli.common import NewFile, Size, human, keep_apart, show_json
from cloister.cli.provision import TARGET
from cloister.errors import CloisterError
from cloister.seal.bundle import Bundle
from cloister.seal.files import read_file, write_aside
from cloister.seal.licence import OUTPUTS, Licence
from cloister.teec.codes import Code, Origin
from cloister.teec.errors import TeecError

EXAMPLE = """
\b
Examples:
  cloister run model.clb model.lic images.npy
  cloister run model.clb model.lic images.npy --output top-k --top-k 3 --json
  cloister run model.clb model.lic inputs.npz --output full --save answers.npz --target ssh://root@board
"""


def read_inputs(path: Path) -> Any:
    """The array of a .npy file, or the arrays of a .npz file by name.

    Raises:
        CloisterError: the file is neither, or holds NaN or infinity.
    """
    data = read_file(path, "input file", 1 << 34)
    try:
        arrays = load_arrays(io.BytesIO(data))
    except ARRAY_ERRORS as error:
        raise CloisterError(
            f"{path} is no .npy or .npz file of plain arrays",
            "write it with numpy.save(path, array) or numpy.savez(path, name=array)",
        ) from error
    if told := not_finite(arrays, str(path)):  # the session refuses them too, with a way out that only Python has
        raise CloisterError(told, "repair or leave out such samples")
    return arrays


def _answers(path: Path) -> bool:
    """Whether an earlier run saved its answers there."""
    try:
        with zipfile.ZipFile(path) as file:
            return "labels.npy" in file.namelist()
    except zipfile.BadZipFile:
        return False


@contextmanager
def _refusals(bundle: Path, licence: Path) -> Iterator[None]:
    """Let a refusal of the TA name the two files."""
    try:
        yield
    except TeecError as error:
        if error.origin is not Origin.TRUSTED_APP or error.code == Code.OUT_OF_MEMORY:
            raise
        raise CloisterError(f"the device refuses {bundle} with {licence}: {error.message}", error.remedy) from error


@click.command(epilog=EXAMPLE)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("licence", type=click.Path(path_type=Path))
@click.argument("inputs", type=click.Path(path_type=Path))
@TARGET
@click.option(
    "--output",
    type=click.Choice(list(OUTPUTS)),
    default="label",
    show_default=True,
    help="What the answer shall reveal, as far as the licence allows.",
)
@click.option("--top-k", type=click.IntRange(1), help="With --output top-k: entries wanted [default: all licensed].")
@click.option(
    "--memory",
    type=Size(),
    default=0,
    show_default="all there is",
    help="Most secure memory to use, such as 4MiB; what does not fit is streamed.",
)
@click.option(
    "--overlap",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Of a pair: let the CPM begin while the backbone still computes.",
)
@click.option(
    "--save", type=NewFile(".npz file of answers", _answers), help="Write labels, scores and outputs to a .npz file."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(
    bundle: Path, licence: Path, inputs: Path, target: str, output: str, top_k: int | None, memory: int,
    overlap: str, save: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Run BUNDLE with LICENCE on INPUTS (.npy, or .npz with one array for each input) inside the device's TA.

    Of a pair, the backbone runs in the device's normal world, and the TA gives the answer.

    The first axis may hold many samples. The device is the one that 'cloister device start' left running, or one that
    is started for this run alone.
    """
    from cloister.device import connect

    keep_apart(save, inputs)
    opened, licensed, arrays = Bundle.load(bundle), Licence.load(licence), read_inputs(inputs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        _refusals(bundle, licence), connect(target) as device,
        device.load(opened, licensed, memory=memory, overlap=overlap) as model,
    ):  # fmt: skip
        quiet = as_json or not sys.stderr.isatty()
        from rich.console import Console

        with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bar:
            task = bar.add_task("running", total=None)
            answers = model.run(
                arrays, output, top_k or 0, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
        usage = model.usage()
    if save:
        kept: dict[str, Any] = {"labels": answers.labels, **(answers.outputs or {})}
        if answers.scores is not None:
            kept["scores"] = answers.scores
        buffer = io.BytesIO()
        np.savez(buffer, **kept)
        write_aside(save, buffer.getvalue())
    if as_json:
        result: dict[str, Any] = {
            "labels": answers.labels.tolist(), "peak_bytes": usage.peak_bytes, "cipher": opened.cipher,
        }  # fmt: skip
        if answers.scores is not None:
            result["scores"] = answers.scores.tolist()
        if answers.outputs is not None:
            result["outputs"] = {name: value.tolist() for name, value in answers.outputs.items()}
        show_json(result)
        return
    for index, label in enumerate(answers.labels):
        if answers.scores is not None:
            pairs = zip(np.atleast_1d(label), answers.scores[index], strict=True)
            click.echo(f"{index}: " + ", ".join(f"{one} ({score:.4g})" for one, score in pairs))
        else:
            click.echo(f"{index}: {label}")
    decrypted = f"{answers.decrypted} partitions decrypted ({opened.cipher})"
    click.echo(f"secure memory at most {human(usage.peak_bytes)}, {decrypted}", err=True)
    if save:
        click.echo(f"written: {save}", err=True)

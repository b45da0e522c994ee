# SPDX-License-Identifier: BSD-2-Clause
"""The folder that a command writes to: made before anything is computed, and gone on with only where it is the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.errors import CloisterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from cloister.protect.training import DataSource, Splits


ELSEWHERE = "write elsewhere: -o another-folder"


def check_inputs(folder: Path, written: Iterable[str], inputs: Iterable[str | Path]) -> None:
    """Refuse a folder where a file that is written would take the place of one that is read.

    Args:
        folder: to be written to; it need not be there.
        written: names of the files that it will get.
        inputs: paths of what is read.

    Raises:
        CloisterError: names the file.
    """
    taken = {(folder / name).resolve() for name in written}
    for given in inputs:
        if Path(given).resolve() in taken:
            raise CloisterError(f"{given} would be overwritten by what is written to {folder}", ELSEWHERE)


def made_folder(output: str | Path, data: DataSource, written: Iterable[str] = (), inputs: Iterable[Any] = ()) -> Path:
    """The folder, made now: it would be late to find out after training that it cannot be.

    Args:
        output: the folder.
        data: what is read; a folder of images must not get one more.
        written: names of the files that it will get.
        inputs: paths of what else is read; what is no path does not count.

    Raises:
        CloisterError: something that is read would be overwritten, or the folder cannot be made.
    """
    folder = Path(output)
    where = data.where if hasattr(data, "where") else data
    paths = [Path(given) for given in (where, *inputs) if isinstance(given, str | Path)]
    try:
        if isinstance(where, str | Path) and paths[0].is_dir() and folder.resolve().is_relative_to(paths[0].resolve()):
            raise CloisterError(f"{folder} would be made among the images of {where}", ELSEWHERE)
        check_inputs(folder, written, paths)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CloisterError(f"{folder} cannot be made: {error.strerror}", "give another folder to write to") from error
    return folder


def claim_folder(folder: Path, command: str, module: nn.Module, splits: Splits, *others: str) -> None:
    """Note what the folder's checkpoints, and files of the other names, are of; refuse what is of anything else."""
    from cloister.attack.attacker import digest_of
    from cloister.protect.training import TrainingError
    from cloister.protect.training.claim import other_folder, read_note, write_note

    images = (splits.train.pixels, splits.train.labels, splits.validation.pixels, splits.validation.labels)
    ours = {
        "command": command, "model": digest_of("", *module.state_dict().values()), "data": digest_of("", *images),
        "normalisation": [list(splits.mean), list(splits.std)],
    }  # fmt: skip
    path = folder / "of.json"
    if not path.exists() or not any(next(folder.rglob(name), None) for name in ("checkpoint.pt", *others)):
        write_note(path, ours)
        return
    # versions before did not note the normalisation
    theirs = {"normalisation": ours["normalisation"], **read_note(path)}
    different = [key for key, value in ours.items() if not _same(theirs.get(key), value)]
    if different:
        named = {
            "command": f"`cloister {theirs.get('command')}`",
            "model": "another model",
            "data": "other data or another seed",
            "normalisation": "images that were normalised otherwise",
        }
        told = named[different[0]]
        raise TrainingError(f"{folder} holds checkpoints of {told}", other_folder(folder))


def _same(theirs: Any, ours: Any) -> bool:
    """Equal; numbers nearly: processors differ in the last digits of a mean."""
    if isinstance(ours, list):
        return (
            isinstance(theirs, list)
            and len(theirs) == len(ours)
            and all(_same(*pair) for pair in zip(theirs, ours, strict=True))
        )
    if isinstance(ours, float):
        return isinstance(theirs, int | float) and math.isclose(theirs, ours, rel_tol=1e-4, abs_tol=1e-6)
    return bool(theirs == ours)

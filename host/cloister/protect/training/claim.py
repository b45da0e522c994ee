# SPDX-License-Identifier: BSD-2-Clause
"""Whose checkpoints a folder holds: a run goes on only where it was itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from cloister.protect.training.data import Splits
from cloister.protect.training.errors import TrainingError
from cloister.seal.files import write_aside

#: In a run's folder: what it is of.
RUN_FILE = "run.json"


def model_digest(module: nn.Module) -> str:
    """SHA-256 of a module's state: names, shapes and bytes of its tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        digest.update(key.encode() + str(tuple(value.shape)).encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def claim(folder: Path, what: str, module: nn.Module, splits: Splits, settings: dict[str, Any]) -> bool:
    """Note in ``folder`` what run it belongs to; refuse another's checkpoints.

    Args:
        folder: of the run; it need not be there.
        what: kind of run, for the message.
        module: the model that the run begins from.
        splits: its data.
        settings: as ``dataclasses.asdict`` gives them.

    Returns:
        Whether it goes on: there are checkpoints of this run. Otherwise files that are left there count for nothing.

    Raises:
        TrainingError: it holds checkpoints of another model, other data or other settings; names what differs.
    """
    identity = {
        "model": model_digest(module),
        "data": [splits.name, len(splits.train), len(splits.validation)],
        "settings": json.loads(json.dumps(settings)),
    }
    path, remedy = folder / RUN_FILE, other_folder(folder)
    if not any(folder.rglob("checkpoint.pt")):  # one that was refused at once leaves no trace
        write_note(path, identity)
        return False
    if not path.exists():
        raise TrainingError(f"{folder} holds checkpoints that do not say what they are of", remedy)
    theirs = read_note(path)
    for key, ours in identity.items():
        if theirs.get(key) != ours:
            raise TrainingError(
                f"{folder} holds another {what} run: its {key} {'differs' if key == 'model' else 'differ'}"
                f"{_difference(theirs.get(key), ours)}",
                remedy,
            )
    return True


def other_folder(folder: Path) -> str:
    """What to do about a folder that is something else's."""
    return f"give another folder, or delete {folder}"


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Write what a folder is of."""
    write_aside(path, (json.dumps(note, indent=1) + "\n").encode())


def read_note(path: Path) -> dict[str, Any]:
    """The inverse of :func:`write_note`.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        note = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is damaged: {error}", other_folder(path.parent)) from error
    if not isinstance(note, dict):
        raise TrainingError(f"{path} is damaged: it holds no object", other_folder(path.parent))
    return note


def _difference(theirs: Any, ours: Any) -> str:
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return ""
    there, here = (_flat(found) for found in (theirs, ours))
    keys = [key for key in here if there.get(key) != here[key]]
    return " (" + ", ".join(f"{key} {there.get(key)} there, {here[key]} here" for key in keys[:3]) + ")"


def _flat(settings: dict[str, Any], inside: str = "") -> dict[str, Any]:
    """Settings within settings by a path: "recipe.epochs"."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        path = inside + key
        found.update(_flat(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return found

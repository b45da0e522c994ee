# SPDX-License-Identifier: BSD-2-Clause
"""Checkpoints: written aside, then renamed, so that an interruption leaves the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cloister.protect.training.errors import TrainingError

_VERSION = 1


def write_checkpoint(path: Path, identity: dict[str, Any], **content: Any) -> None:
    """Write ``content`` (tensors, numbers, text, lists and dictionaries) and what run it belongs to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    torch.save({"version": _VERSION, "identity": identity, **content}, aside)
    aside.replace(path)


def read_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What :func:`write_checkpoint` wrote, on the CPU.

    Raises:
        TrainingError: it cannot be read, or belongs to another run; names what differs.
    """
    remedy = f"give another folder, or delete {path}"
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler, zip reader and file give
        raise TrainingError(f"{path} is no checkpoint: {str(error).splitlines()[0].split('. ')[0]}", remedy) from error
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise TrainingError(f"{path} is no checkpoint of this version", remedy)
    theirs = content["identity"]
    different = [key for key in identity if theirs.get(key) != identity[key]]
    if different:
        detail = "; ".join(f"{key}: {_brief(theirs.get(key), identity[key])}" for key in different)
        raise TrainingError(f"{path} belongs to another run ({detail})", remedy)
    return content


def _brief(theirs: Any, ours: Any) -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        return ", ".join(f"{key} {theirs.get(key)} there, {ours.get(key)} here" for key in keys[:3])
    return f"{theirs} there, {ours} here"

# SPDX-License-Identifier: BSD-2-Clause
"""The bundle of what was chosen, and what is done with it next."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloister.password import Password
from cloister.protect.automatic.costs import copied
from cloister.protect.automatic.evaluator import protected_files
from cloister.protect.automatic.report import REPORT_FILE
from cloister.protect.automatic.whole import PASSWORD_FILE
from cloister.protect.strategy import Strategy
from cloister.protect.training import Splits
from cloister.seal.files import write_aside
from cloister.search import Budget

BUNDLES = ("pair.clb", "model.clb")
#: What the bundle was compiled of. Not in the report, which a run that makes no bundle writes as well.
COMPILED_FILE = "compiled.json"
#: Images for a first run on a device, and how many at most.
SAMPLE_FILE, SAMPLES = "sample.npy", 8
#: The device's record, as the commands that come next name it.
RECORD_FILE = "device.json"


def make_bundle(
    folder: Path, place: Path, strategy: Strategy, budget: Budget, name: str, keys: Path | None, vendor: bytes,
    splits: Splits, say: Callable[[str], None],
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """The bundle, compiled unless it is there already: with a new one, licences would have to be issued anew.

    Args:
        folder: gets the bundle, its ONNX files, the password of a locked model, and :data:`SAMPLE_FILE`.
        place: of the strategy that was trained in full.
        strategy: the chosen one.
        budget: its memory is what the bundle is compiled for.
        name: of the model on devices.
        keys, vendor: directory of the vendor's keys, and the public one.
        splits: where the sample is from.
        say: told that it was compiled.

    Returns:
        The bundle; and of the report ``files``, ``sample`` (its labels), ``licence`` and ``next`` (commands).
    """
    from cloister.api import compile as compile_model

    files = {what: copied(path, folder, path.name) for what, path in protected_files(place, strategy).items()}
    password = None
    if strategy.lock is not None:
        password = folder / PASSWORD_FILE
        replace(Password.read(place / PASSWORD_FILE), model=name).write(password)
    bundle = folder / ("pair.clb" if "backbone" in files else "model.clb")
    sources = [*files.values(), *([] if password is None else [password])]
    made = {
        "name": name, "memory": budget.memory, "vendor": vendor.hex(),
        "files": {path.name: _digest(path) for path in sources},
    }  # fmt: skip
    written = {what: path.name for what, path in files.items()} | {"bundle": bundle.name, "sample": SAMPLE_FILE}
    if password is not None:
        written["password"] = password.name
    about = {
        "files": written,
        "sample": write_sample(folder / SAMPLE_FILE, splits),
        "licence": licence_command(bundle, password, keys),
        "next": next_commands(bundle, password, keys),
    }
    if _is_there(folder, bundle, made):
        return bundle, about
    for stale in (*BUNDLES, "model.onnx", "cpm.onnx", "backbone.onnx", PASSWORD_FILE):
        if stale not in written.values():
            (folder / stale).unlink(missing_ok=True)
    compiled = compile_model(
        files["model" if "model" in files else "cpm"], backbone=files.get("backbone"), name=name,
        secure_memory=budget.memory, keys=keys, password=password,
    )  # fmt: skip
    compiled.save(bundle)
    note = {**made, "bundle": _digest(bundle)}
    write_aside(folder / COMPILED_FILE, (json.dumps(note, indent=1) + "\n").encode())
    say(f"compiled {bundle.name}: {bundle.stat().st_size} bytes")
    return bundle, about


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_there(folder: Path, bundle: Path, made: dict[str, Any]) -> bool:
    """Whether the bundle that lies there was compiled of the same."""
    if not bundle.exists():
        return False
    try:
        if (folder / COMPILED_FILE).exists():
            found: object = json.loads((folder / COMPILED_FILE).read_text())
            return found == {**made, "bundle": _digest(bundle)}
        # a folder from before there was such a file
        return bool(json.loads((folder / REPORT_FILE).read_text()).get("compiled") == made)
    except (OSError, ValueError, AttributeError):
        return False


def earlier_bundle(folder: Path) -> Path | None:
    """The bundle that an earlier run left in the folder; None: there is none."""
    return next((folder / name for name in BUNDLES if (folder / name).exists()), None)


def write_sample(path: Path, splits: Splits) -> list[int]:
    """Write a few test images as a device takes them: normalised, float32 (N, C, H, W); their labels.

    They are spread over the test images, since a folder's first ones are of one class.
    """
    count = min(SAMPLES, len(splits.test))
    chosen = splits.test.take(torch.arange(count) * len(splits.test) // count)
    buffer = io.BytesIO()
    np.save(buffer, splits.normalise(chosen.pixels.cpu()).numpy())
    write_aside(path, buffer.getvalue())
    labels: list[int] = chosen.labels.tolist()
    return labels


def licence_command(bundle: Path, password: Path | None, keys: Path | None) -> str:
    """How a device comes by its licence: without its password a locked model guesses."""
    words = ["cloister", "licence", str(bundle), RECORD_FILE]
    words += [] if password is None else ["--password", str(password)]
    words += [] if keys is None else ["--dir", str(keys)]
    return shlex.join([*words, "-o", str(bundle.with_suffix(".lic"))])


def next_commands(bundle: Path, password: Path | None, keys: Path | None) -> list[str]:
    """From the bundle to a device's answer, in their order; CLOISTER_TARGET or ``--target`` names the device."""
    run = ["cloister", "run", str(bundle), str(bundle.with_suffix(".lic")), str(bundle.with_name(SAMPLE_FILE))]
    return [
        shlex.join(["cloister", "provision", "-o", RECORD_FILE]),
        licence_command(bundle, password, keys),
        shlex.join(run),
    ]

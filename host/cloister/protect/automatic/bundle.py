# SPDX-License-Identifier: BSD-2-Clause
"""The bundle of what was chosen, and what is done with it next."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloister.compile.arrange import MemoryBudgetError
from cloister.errors import CloisterError
from cloister.password import Password
from cloister.protect.automatic.costs import copied
from cloister.protect.automatic.evaluator import protected_files
from cloister.protect.automatic.report import REPORT_FILE, REPORT_FILES
from cloister.protect.automatic.whole import MODEL_FILE, PASSWORD_FILE
from cloister.protect.edgepro.lock import put_aside, put_aside_files
from cloister.protect.folder import ELSEWHERE, check_inputs
from cloister.protect.mirror.export import BACKBONE_FILE, CPM_FILE
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
#: All that a bundle can be made of and with; which of them an earlier run made, :data:`COMPILED_FILE` tells.
BUNDLE_FILES = (*BUNDLES, MODEL_FILE, CPM_FILE, BACKBONE_FILE, PASSWORD_FILE, SAMPLE_FILE)


def check_folder(folder: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse a folder where something of the user's would be overwritten or deleted.

    Another password does not count: it is put aside.

    Args:
        folder: to be written to; it need not be there.
        inputs: paths of model and data.

    Raises:
        CloisterError: names the file.
    """
    names = (*BUNDLE_FILES, *REPORT_FILES, COMPILED_FILE)
    check_inputs(folder, names, inputs)
    ours = made_here(folder)
    if ours or _report(folder):
        ours |= {*REPORT_FILES, COMPILED_FILE}
    for name in names:
        path = folder / name
        if name != PASSWORD_FILE and name not in ours and (path.exists() or path.is_symlink()):
            raise CloisterError(
                f"{path} would be overwritten, and it is of no earlier run of `cloister protect`",
                f"move it away, or {ELSEWHERE}",
            )


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
        The bundle; and of the report ``files``, ``sample`` (its labels), ``licence`` and ``next`` (commands), and
        ``warnings`` where there is something to warn of.
    """
    from cloister.api import compile as compile_model

    sources = protected_files(place, strategy)
    bundle = folder / _bundle_of([path.name for path in sources.values()])
    written = {what: path.name for what, path in sources.items()} | {"bundle": bundle.name, "sample": SAMPLE_FILE}
    opened, password = None, None
    if strategy.lock is not None:
        opened, password = replace(Password.read(place / PASSWORD_FILE), model=name), folder / PASSWORD_FILE
        written["password"] = password.name
    before, noted = made_here(folder), _noted(folder)
    # told before anything is written: a run that is interrupted knows its files again
    _note(folder, {**noted, "written": sorted(before | {*written.values()})})
    if opened is not None or PASSWORD_FILE in before:
        beside = before - {PASSWORD_FILE, SAMPLE_FILE} if PASSWORD_FILE in before else set()
        if PASSWORD_FILE not in noted.get("files", {}):  # then the bundle is not locked with it
            beside -= {*written.values()}
        put_aside(folder, opened, sorted(beside))
    for stale in before - {*written.values(), PASSWORD_FILE}:
        (folder / stale).unlink(missing_ok=True)
    files = {what: copied(path, folder, path.name) for what, path in sources.items()}
    if opened is not None and password is not None:
        opened.write(password)
    made = {
        "name": name, "memory": budget.memory, "vendor": vendor.hex(),
        "files": {path.name: _digest(path) for path in (*files.values(), *([] if password is None else [password]))},
    }  # fmt: skip
    about = {
        "files": written,
        "sample": write_sample(folder / SAMPLE_FILE, splits),
        "licence": licence_command(bundle, password, keys),
        "next": next_commands(bundle, password, keys),
    }
    more = noted.get("more", 0)
    if not _is_there(folder, bundle, made):
        choices: dict[str, Any] = {"backbone": files.get("backbone"), "name": name, "keys": keys, "password": password}
        source, more = files["model" if "model" in files else "cpm"], 0
        try:
            compiled = compile_model(source, secure_memory=budget.memory, **choices)
        except MemoryBudgetError as error:
            if not error.held or budget.memory is None:
                raise
            # Estimates know of no licence, and it has been trained: a little more memory is better than nothing.
            more = error.held
            compiled = compile_model(source, secure_memory=budget.memory + more, **choices)
        earlier = noted.get("bundle")
        if earlier is not None and bundle.exists() and _digest(bundle) != earlier:
            number = put_aside_files(folder, [bundle.name], [*BUNDLES, PASSWORD_FILE])
            say(f"{bundle} is not what was compiled here; it is kept as {bundle.name}.{number}")
        compiled.save(bundle)
        say(f"compiled {bundle.name}: {bundle.stat().st_size} bytes")
        if earlier is not None:
            say("licences of the bundle before it do not open it: issue them anew")
    _note(folder, {**made, "bundle": _digest(bundle), "written": sorted(written.values()),
                   **({"more": more} if more else {})})  # fmt: skip
    if more:
        about["warnings"] = [
            f"the device needs {more} bytes of secure memory beyond the budget of {budget.memory}: for the licence "
            "with its password, which stays there with the model"
        ]
    return bundle, about


def _bundle_of(files: Iterable[str]) -> str:
    """The bundle's name, by those of the files that it is compiled of."""
    return "pair.clb" if BACKBONE_FILE in files else "model.clb"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_there(folder: Path, bundle: Path, made: dict[str, Any]) -> bool:
    """Whether the bundle that lies there was compiled of the same."""
    if not bundle.exists():
        return False
    noted = _noted(folder)
    return all(noted.get(key) == value for key, value in {**made, "bundle": _digest(bundle)}.items())


def made_here(folder: Path) -> set[str]:
    """Names of the bundle and the files beside it that earlier runs wrote; they need not be there any more."""
    noted, told = _noted(folder), _report(folder).get("files")
    listed = [*told.values()] if isinstance(told, dict) else []
    if isinstance(noted.get("written"), list):
        listed += noted["written"]
    elif noted:  # of a version that did not list them
        listed += [*noted["files"], _bundle_of(noted["files"]), SAMPLE_FILE]
    return {name for name in BUNDLE_FILES if name in listed}


def keep_note(folder: Path) -> None:
    """Write :data:`COMPILED_FILE` where only the report has what stands in it, before there is another report."""
    if noted := _noted(folder):
        _note(folder, noted)


def _note(folder: Path, note: dict[str, Any]) -> None:
    write_aside(folder / COMPILED_FILE, (json.dumps(note, indent=1) + "\n").encode())


def _noted(folder: Path) -> dict[str, Any]:
    """What :data:`COMPILED_FILE` says; in a folder from before there was such a file, what its report says."""
    if (folder / COMPILED_FILE).exists():
        found = _read(folder / COMPILED_FILE)
        return found if isinstance(found.get("written", found.get("files")), list | dict) else {}
    compiled = _report(folder).get("compiled")
    if not isinstance(compiled, dict) or not isinstance(compiled.get("files"), dict):
        return {}
    bundle = folder / _bundle_of(compiled["files"])
    return {**compiled, "bundle": _digest(bundle)} if bundle.exists() else {}


def _report(folder: Path) -> dict[str, Any]:
    """The report of an earlier run; empty: there is none, or one of another command."""
    found = _read(folder / REPORT_FILE)
    return found if {"chosen", "budget"} <= found.keys() else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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

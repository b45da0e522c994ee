# SPDX-License-Identifier: BSD-2-Clause
"""Whole models in the TA that are not the victim as it is: pruned, or locked with a password."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from cloister.attack.exposed import BlackBox, Exposed
from cloister.locked_quantised import quantize_locked
from cloister.password import Password
from cloister.protect.edgepro import LockSettings
from cloister.protect.edgepro.deployed import deployable
from cloister.protect.edgepro.exposed import LeakedLock
from cloister.protect.edgepro.folding import fold_normalisation, token_rows
from cloister.protect.edgepro.lock import lock_folded
from cloister.protect.mirror.mirror import calibration
from cloister.protect.strategy import Strategy
from cloister.protect.training import Splits, accuracy, export_onnx
from cloister.protect.training.evaluate import onnx_accuracy
from cloister.quantization import quantize_model

#: The file of a strategy that lies whole in the TA, its password where it is locked, and what 8 bits are made from.
MODEL_FILE, PASSWORD_FILE, FLOAT_FILE = "model.onnx", "password.pwd", "float32.onnx"
#: What is exposed, accuracy on validation images, and further figures.
Made = tuple[Exposed, float, dict[str, Any]]


def pruned_model(source: nn.Module, splits: Splits, strategy: Strategy, place: Path, name: str) -> Made:
    """Write a pruned model; of it nothing is exposed.

    Args:
        source: the pruned victim.
        splits: for accuracies and ranges.
        strategy: whole, pruned, not locked.
        place: gets ``model.onnx``.
        name: of the target of attacks.
    """
    target, validation, test = BlackBox(source, splits, name), splits.validation, splits.test
    if strategy.precision == "fp32":
        export_onnx(source, splits.shape, place / MODEL_FILE)
        return target, accuracy(source, validation, splits), {"pair_test": accuracy(source, test, splits)}
    plain = export_onnx(source, splits.shape, place / FLOAT_FILE)
    quantize_model(plain, calibration(splits), place / MODEL_FILE)
    right, tested = (onnx_accuracy(place / MODEL_FILE, images, splits) for images in (validation, test))
    return target, right, {"pair_test": tested}


def locked_model(
    source: nn.Module, splits: Splits, strategy: Strategy, settings: LockSettings, place: Path, *, name: str,
    label: str, device: str, quiet: bool,
) -> Made:  # fmt: skip
    """Lock a model, write it and its password.

    What is taken to be exposed is EdgePro's assumption: all locked weights in clear, not the password. In the bundle
    they are sealed like any other's; this is what remains if its content key is lost.

    Args:
        source: the victim, pruned or not.
        splits: what it was trained on.
        strategy: whole and locked.
        settings: of the lock.
        place: gets ``model.onnx``, ``password.pwd`` and checkpoints.
        name: of the target of attacks.
        label: the model's name in the password.
        device, quiet: as for ``fit``.
    """
    ready = fold_normalisation(token_rows(source, splits.shape)).cpu()
    settings = replace(settings, layers=deployable(ready, splits.shape, settings.layers))
    locked = lock_folded(ready, splits, settings, folder=place / "checkpoints", device=device, name=name, quiet=quiet)
    password = locked.password(label)
    password.write(place / PASSWORD_FILE)
    told = locked.report
    details = {
        "pair_test": told["test"]["with_password"],
        "without_password_test": told["test"]["without_password"],
        "locked_channels": password.channels,
    }
    right = told["validation"]["with_password"]
    if strategy.precision == "fp32":
        locked.export(place / MODEL_FILE)
    else:
        plain = locked.export(place / FLOAT_FILE)
        samples = calibration(splits)
        quantize_locked(plain, password, samples, place / MODEL_FILE)
        right, details["pair_test"] = _with_password(plain, password, samples, splits)
        details["without_password_test"] = onnx_accuracy(place / MODEL_FILE, splits.test, splits)
    return LeakedLock(locked, splits, name), right, details


def _with_password(plain: Path, password: Password, samples: Any, splits: Splits) -> tuple[float, float]:
    """Accuracy in 8 bits on validation and test images, of what a device computes that has the password."""
    with tempfile.TemporaryDirectory(prefix="cloister-locked-") as folder:
        owners = Path(folder) / MODEL_FILE
        quantize_model(password.apply(onnx.load(plain)), samples, owners)
        return onnx_accuracy(owners, splits.validation, splits), onnx_accuracy(owners, splits.test, splits)

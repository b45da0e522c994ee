# SPDX-License-Identifier: BSD-2-Clause
"""What the device answers with the password of a locked model, and without; what it takes of what was chosen."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from digits_data import digits_splits
from protected_digits import SETTINGS
from torch import nn

from cloister.api import compile as compile_model
from cloister.api import licence as issue
from cloister.cli.main import cloister
from cloister.device import Device
from cloister.password import Password
from cloister.protect.automatic import protect_model
from cloister.protect.edgepro import LockSettings, lock_model
from cloister.protect.prune import PruneSettings, prune_model
from cloister.protect.prune.channels import multiply_accumulates
from cloister.protect.training import Augmentation, Recipe, accuracy, fit, network
from cloister.seal.keys import VendorKey, default_key_dir
from cloister.search import Budget, Effort

CROP = Augmentation(crop=1)
VICTIM = Recipe(epochs=12, batch=64, rate=0.1, augmentation=CROP, seed=3)
PRUNING = PruneSettings(steps=2, target=0.4, images=500, final=3, budget=2.0,
                        recipe=Recipe(epochs=3, batch=64, rate=0.05, clip=5.0, augmentation=CROP))  # fmt: skip
LOCKING = LockSettings(recipe=Recipe(epochs=8, batch=64, rate=0.03, clip=5.0))
SHAPE = (1, 8, 8)


@cache
def victim() -> nn.Module:
    return fit(network("digits", 1, 10, 5), digits_splits(), VICTIM, device="cpu", quiet=True).module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned and locked model with its password, in fp32 and in 8 bits."""
    path = tmp_path_factory.mktemp("locked")
    pruned = prune_model(victim(), digits_splits(), PRUNING, device="cpu", quiet=True)
    assert multiply_accumulates(pruned.module, SHAPE) <= 0.4 * multiply_accumulates(victim(), SHAPE)
    lock_model(pruned.module, digits_splits(), LOCKING, device="cpu", quiet=True).save(path, "digits")
    splits = digits_splits()
    np.save(path / "samples.npy", splits.normalise(splits.train.pixels[:200]).numpy())
    arguments = ["quantize", "locked.onnx", "--password", "password.pwd", "--samples", "samples.npy", "-o", "int8.onnx"]
    result = CliRunner().invoke(
        cloister, [str(path / word) if "." in word else word for word in arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return path


def test_what_protect_chose_is_measured_beside_its_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the benchmark boots a device of its own, whose name is always the same
    monkeypatch.setenv("CLOISTER_STATE", str(tmp_path / "state"))
    VendorKey.load_or_generate(default_key_dir())
    full = replace(SETTINGS.full, epochs=1, final=0)
    settings = replace(SETTINGS, full=full, search=Effort(estimates=4, proxies=1, trainings=1, start=1))
    made = protect_model(
        victim(), digits_splits(), Budget.parse("1MiB", "150%", "95"), tmp_path / "digits", settings=settings,
        measure=True, device="cpu", quiet=True,
    )  # fmt: skip
    told, found = made.report["prediction"], made.report["measured"]
    print({key: f"{told[key] / value - 1:+.2%}" for key, value in found.items() if value})
    assert made.report["resident"] is None and found["bytes_in"] == told["bytes_in"]
    assert found["normal_world"] + found["secure_world"] + found["boundary"] == pytest.approx(found["total"])
    # twice and more what predictions of strategies are off at worst: wrong records would be off by far more
    for key in ("unprotected", "total", "loaded"):
        assert found[key] == pytest.approx(told[key], rel=0.15), key
    assert "prediction off by" in made.page.read_text()


def answers(device: Device, model: Path, password: Password | None) -> np.ndarray[Any, Any]:
    """The logits (450, 10) of the test images, from a device whose licence has that password."""
    splits = digits_splits()
    bundle = compile_model(model, name=f"protected-{model.stem}")
    licence = issue(bundle, device.public_key(), output="full", password=password)
    with device.load(bundle, licence) as session:
        outputs = session.run(splits.normalise(splits.test.pixels).numpy(), "full").outputs
    assert outputs is not None
    return outputs["logits"].reshape(-1, 10)


def onnxruntimes(model: onnx.ModelProto) -> np.ndarray[Any, Any]:
    splits = digits_splits()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: np.ndarray[Any, Any] = session.run(None, {"image": splits.normalise(splits.test.pixels).numpy()})[0]
    return logits


def right(logits: np.ndarray[Any, Any]) -> float:
    """Share of the test images that are labelled rightly."""
    return float(np.mean(logits.argmax(1) == digits_splits().test.labels.numpy()))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_device_answers_with_the_password_and_guesses_without(device: Device, folder: Path, precision: str) -> None:
    splits = digits_splits()
    password = Password.read(folder / "password.pwd")
    locked = folder / ("locked.onnx" if precision == "fp32" else "int8.onnx")
    with_password, without = (answers(device, locked, given) for given in (password, None))
    owners = accuracy(victim(), splits.test, splits)
    print(f"victim {owners:.4f}, {precision} with {right(with_password):.4f}, without {right(without):.4f}")
    if precision == "fp32":
        original = onnx.load(locked)
        for got, model in ((with_password, password.apply(original)), (without, original)):
            wanted = onnxruntimes(model)
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    else:
        wanted = onnxruntimes(password.apply(onnx.load(folder / "locked.onnx")))
        assert np.mean(with_password.argmax(1) == wanted.argmax(1)) > 0.95
    assert right(with_password) > owners - 0.05
    assert right(without) < 0.25, "10.2 % and 10.0 % were measured; guessing is 10 %"

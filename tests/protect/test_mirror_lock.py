# SPDX-License-Identifier: BSD-2-Clause
"""A locked CPM: answers with its password alone, in its files too, and is attacked as what it is."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from digits_data import digits_splits
from torch import nn

from cloister.attack import bench
from cloister.attack.attacks.mask import masked
from cloister.attack.effort import Effort
from cloister.compile.pair import compile_pair
from cloister.password import Lock, Password, lock_of
from cloister.protect.edgepro import LockSettings
from cloister.protect.edgepro.layers import called, lockable
from cloister.protect.mirror import (
    LeakedPair,
    LockedPair,
    Mirrored,
    OnnxPair,
    build_pair,
    export_pair,
    lock_pair,
    mirror_model,
    settings_with,
)
from cloister.protect.mirror.lock import folded
from cloister.protect.strategy import Strategy
from cloister.protect.training import Augmentation, Recipe, TrainingError, accuracy, fit, network
from cloister.protect.training.export import layer_tensor

STRATEGY = Strategy(taps=("2", "6"), pool=2, cpm_width=16, backbone="truncated", operator="separable")
LOCK = LockSettings(
    turned_share=0.5,
    constant_share=0.1,
    hide=0.3,
    recipe=Recipe(epochs=10, batch=64, rate=0.03, augmentation=Augmentation(crop=1), clip=5.0, seed=0),
)


@cache
def mirrored(merge: str = "add") -> Mirrored:
    recipe = Recipe(epochs=12, batch=64, rate=0.1, augmentation=Augmentation(crop=1), seed=3)
    victim = fit(network("digits", 1, 10, 5), digits_splits(), recipe, device="cpu", quiet=True).module
    strategy = replace(STRATEGY, merge=merge)  # type: ignore[arg-type]
    made = settings_with(strategy, epochs=8, batch=64, final=0, augmentation=Augmentation(crop=1))
    return mirror_model(victim, digits_splits(), made, device="cpu", quiet=True)


@cache
def locked() -> LockedPair:
    return lock_pair(mirrored(), LOCK, device="cpu", quiet=True)


def images() -> torch.Tensor:
    return digits_splits().normalise(digits_splits().test.pixels)


@pytest.mark.parametrize("merge", ["add", "concat"])
def test_folding_changes_no_answer(merge: str) -> None:
    plain = mirrored(merge).pair
    made = folded(plain)
    with torch.no_grad():
        assert torch.allclose(made(images()), plain(images()), atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in made.cpm.modules())


def test_it_answers_with_the_password_alone() -> None:
    splits, made = digits_splits(), locked()
    right, without = (accuracy(module, splits.test, splits) for module in (made.authorised(), made.pair))
    assert right > accuracy(mirrored().pair, splits.test, splits) - 0.05
    assert without < 0.3
    told = made.report["test"]
    assert (told["pair"], told["pair_without_password"]) == (pytest.approx(right), pytest.approx(without))
    assert told["victim"] == mirrored().report["test"]["victim"]


def test_only_the_cpm_is_locked_and_trained() -> None:
    before, after = mirrored().pair.backbone.state_dict(), locked().pair.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    paths = {line["layer"] for line in locked().report["lock"]["layers"]}
    assert paths == set(locked().locked.locks) and all(path.startswith("cpm.") for path in paths)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_its_files_answer_with_the_password_alone(precision: str, tmp_path: Path) -> None:
    splits, pair = digits_splits(), copy.deepcopy(locked().pair)
    pair.strategy = replace(STRATEGY, precision=precision)  # type: ignore[arg-type]
    made = replace(locked(), pair=pair)
    made.save(tmp_path, "digits")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "backbone.onnx", "cpm.onnx", "password.pwd", "report.json",
    ]  # fmt: skip
    password = Password.read(tmp_path / "password.pwd")
    labels = splits.test.labels.numpy()
    shipped = OnnxPair(tmp_path / "backbone.onnx", tmp_path / "cpm.onnx")
    assert np.mean(shipped.logits(images().numpy()).argmax(1) == labels) < 0.3
    report = json.loads((tmp_path / "report.json").read_text())["test"]
    if precision == "fp32":
        onnx.save(password.apply(onnx.load(tmp_path / "cpm.onnx")), tmp_path / "owners.onnx")
        owners = OnnxPair(tmp_path / "backbone.onnx", tmp_path / "owners.onnx")
        with torch.no_grad():
            assert np.allclose(owners.logits(images().numpy()), made.authorised()(images()).numpy(), atol=1e-3)
    else:
        assert report["pair_int8"] > report["pair"] - 0.03
        assert report["pair_int8_without_password"] < 0.3
    compiled = compile_pair(tmp_path / "cpm.onnx", tmp_path / "backbone.onnx", password=password)
    assert {lock.tensor for lock in password.locks} <= set(compiled.cpm.lockable)


@pytest.mark.parametrize("backbone", ["truncated", "random"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_file_of_the_cpm_names_its_lock(backbone: str, precision: str, tmp_path: Path) -> None:
    strategy = replace(STRATEGY, backbone=backbone, precision=precision)  # type: ignore[arg-type]
    pair = folded(build_pair(network("digits", 1, 10, 5), (1, 8, 8), 10, strategy))
    layer = next(path for path in lockable(pair) if path.startswith("cpm.")).removeprefix("cpm.")
    one = np.ones(1, np.float32)
    password = Password("digits", [Lock(layer_tensor(layer), np.array([0], np.uint16), -one, one)], "5a" * 16)
    _backbone, cpm = export_pair(pair, tmp_path, password=password)
    assert lock_of(onnx.load(cpm)) == password.lock_id


def test_layers_are_named_as_the_cpm_names_them() -> None:
    name = next(iter(lockable(mirrored().cpm)))
    brief = replace(LOCK, layers=(name,), recipe=replace(LOCK.recipe, epochs=1))
    made = lock_pair(mirrored(), brief, device="cpu", quiet=True)
    assert list(made.locked.locks) == [f"cpm.{name}"]
    assert [lock.tensor for lock in made.password("digits").locks] == [f"{name}:out"]
    with pytest.raises(TrainingError, match=r"layers \['2'\] of the CPM cannot be locked\s+remedy: those that can: st"):
        lock_pair(mirrored(), replace(LOCK, layers=("2",)), device="cpu", quiet=True)


def test_attackers_keep_no_layers_that_the_answer_does_not_need() -> None:
    victim, strategy = network("digits", 1, 10, 5), Strategy(taps=("2",), cpm_width=8, cpm_depth=1)
    pair = folded(build_pair(victim, digits_splits().shape, 10, strategy))
    target = LeakedPair(pair, pair, [path for path in lockable(pair) if path.startswith("cpm.")], digits_splits())
    layers = [name for name, layer in called(target.module()) if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert layers == ["backbone.net.0", *target.layers, "cpm.last"]
    with torch.no_grad():
        assert torch.allclose(target.module()(images()[:5]), pair(images()[:5]), atol=1e-4)


def test_attackers_know_where_locks_can_be() -> None:
    target = locked().exposed("leaked")
    searched = masked(target.module(), images()[:20], "plain", 0, target.layers)
    learned = {name.rpartition(".1.")[0] for name, part in searched.named_parameters() if part.requires_grad}
    assert learned == set(target.layers)
    effort = Effort((0.2,), (50,), (0.05,), (0.1,), epochs=2, steps=20, trial=5, pruned=(0.1,))
    found = bench([target], digits_splits(), mirrored().pair, effort=effort, device="cpu", quiet=True,
                  attacks=("direct", "mask", "prune", "signs"))  # fmt: skip
    own = {record["attack"] for record in found.records if record["target"] == "leaked"}
    assert {"direct", "mask", "mask, fine-tuned", "prune", "prune, fine-tuned", "signs", "signs, fine-tuned"} <= own
    assert found.find("leaked", "direct")["accuracy"] == pytest.approx(
        accuracy(locked().pair, digits_splits().test, digits_splits()), abs=0.01
    )

# SPDX-License-Identifier: BSD-2-Clause
"""EdgePro: selection, locks, lock training, what is exported."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from digits_data import digits_file, digits_splits
from torch import nn

from cloister.attack.files import leaked_file
from cloister.cli.main import cloister
from cloister.password import Password, PasswordError, lock_of
from cloister.protect.edgepro import LockSettings, authorised, fold_in, fold_out, from_password, lock_model, to_password
from cloister.protect.edgepro.chance import Chance, SeededChance, SystemChance, permutation, weighted
from cloister.protect.edgepro.draw import draw_locks, output_statistics
from cloister.protect.edgepro.exposed import ExposedPrefix, LeakedLock
from cloister.protect.edgepro.folding import fold_normalisation
from cloister.protect.edgepro.layers import check_names, lockable, width_of
from cloister.protect.edgepro.lock import DRAWN_FILE, MUCH, Locked
from cloister.protect.edgepro.objective import LockObjective
from cloister.protect.edgepro.select import channel_scores, draw_channels
from cloister.protect.training import (
    Augmentation,
    Recipe,
    TrainingError,
    accuracy,
    export_onnx,
    fit,
    load_model,
    network,
)

RECIPE = Recipe(epochs=12, batch=64, rate=0.1, augmentation=Augmentation(crop=1), seed=3)
LOCKING = LockSettings(
    constant_share=0.1, recipe=Recipe(epochs=6, batch=64, rate=0.03, clip=5.0), without_features=0.02
)


@cache
def victim() -> nn.Module:
    return fit(network("digits", 1, 10, 5), digits_splits(), RECIPE, device="cpu", quiet=True).module


@cache
def folded() -> nn.Module:
    return fold_normalisation(victim())


@cache
def locked() -> Locked:
    return lock_model(victim(), digits_splits(), LOCKING, device="cpu", quiet=True, chance=SeededChance(0))


def images() -> torch.Tensor:
    splits = digits_splits()
    return splits.normalise(splits.test.pixels[:100])


@pytest.mark.parametrize("name", ["digits", "resnet20"])
def test_folding_normalisation_changes_no_answer(name: str) -> None:
    module = network(name, 1, 10, 1)
    module(torch.randn(32, 1, 16, 16) if name == "resnet20" else torch.randn(32, 1, 8, 8))
    module.eval()
    data = torch.randn(8, 1, 16, 16) if name == "resnet20" else torch.randn(8, 1, 8, 8)
    assert torch.allclose(fold_normalisation(module)(data), module(data), atol=1e-4)
    assert all(layer.bias is not None for layer in lockable(fold_normalisation(module)).values())


def test_folding_a_lock_in_is_applying_it_and_folding_it_out_undoes_it() -> None:
    locks = draw_locks(folded(), digits_splits(), replace(LOCKING, constant_share=0.0), SeededChance(0))
    out = fold_out(folded(), locks)
    with torch.no_grad():
        wanted = folded()(images())
        assert torch.allclose(fold_in(out, locks)(images()), wanted, atol=1e-3)
        with authorised(out, locks):
            assert torch.allclose(out(images()), wanted, atol=1e-3)
        assert not torch.allclose(out(images()), wanted, atol=1.0)


def test_locks_are_drawn_as_the_settings_say() -> None:
    settings = replace(LOCKING, constant_share=0.25, turned_share=0.5, constant_range=(0.5, 2.0))
    locks = draw_locks(folded(), digits_splits(), settings, SeededChance(0))
    statistics = output_statistics(folded(), digits_splits().normalise(digits_splits().train.pixels))
    assert list(locks) == list(lockable(folded()))
    for name, lock in locks.items():
        width = width_of(lockable(folded())[name])
        constant = lock.scales == 0
        assert int(constant.sum()) == round(0.25 * width) and int((lock.scales == -1).sum()) == round(0.5 * width)
        ratio = lock.values[constant] / statistics[name][2][lock.channels[constant]]
        assert float(ratio.min()) > 0.3 and float(ratio.max()) < 3, "a lock of 0 is pruning"
    again, other = (draw_locks(folded(), digits_splits(), settings, SeededChance(seed)) for seed in (0, 1))
    assert all(torch.equal(again[name].values, lock.values) for name, lock in locks.items())
    assert any(not torch.equal(other[name].channels, lock.channels) for name, lock in locks.items())
    some = draw_locks(folded(), digits_splits(), replace(settings, layers=("3",)))
    assert list(some) == ["3"]
    last, relu = [name for name, layer in folded().named_modules() if isinstance(layer, nn.Linear)][-1], "2"
    for wrong, reason in (("99", "is not there"), (last, "is the last layer, whose outputs"), (relu, "but a ReLU")):
        with pytest.raises(TrainingError, match=f"cannot be locked: '{wrong}' .*{reason}"):
            draw_locks(folded(), digits_splits(), replace(settings, layers=(wrong,)))


def test_a_layer_inside_attention_cannot_be_named() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 8))
    with pytest.raises(TrainingError, match=r"'1\.out_proj' is never called"):
        check_names(["1.out_proj"], lockable(module), module)


def test_who_knows_the_program_and_the_settings_cannot_draw_a_lock_again() -> None:
    one, other = (draw_locks(folded(), digits_splits(), replace(LOCKING, constant_share=0.0)) for _ in range(2))
    assert any(not torch.equal(other[name].channels, lock.channels) for name, lock in one.items())
    assert not any(set(other[name].values.tolist()) & set(lock.values.tolist()) for name, lock in one.items())


def test_a_channel_that_is_never_active_is_not_locked_to_what_pruning_gives() -> None:
    dead = copy.deepcopy(folded())
    name, layer = next(iter(lockable(dead).items()))
    with torch.no_grad():
        layer.weight[:4], layer.bias[:4] = 0, -1
    locks = draw_locks(dead, digits_splits(), replace(LOCKING, constant_share=1.0, turned_share=0.0, pool=1.0))
    assert len(locks[name].values) == len(layer.weight) and float(locks[name].values.min()) > 0


def test_statistics_are_those_of_all_images_at_once() -> None:
    module, data = folded(), digits_splits().normalise(digits_splits().train.pixels[:600])
    name, layer = next(iter(lockable(module).items()))
    with torch.no_grad():
        rows = layer(data).transpose(0, 1).flatten(1)
    for found, wanted in zip(
        output_statistics(module, data)[name], (rows.mean(1), rows.std(1), torch.relu(rows).mean(1)), strict=True
    ):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chance", [SystemChance(), SeededChance(3)])
def test_what_locks_are_drawn_by(chance: Chance) -> None:
    drawn = chance.uniform(20_000)
    assert drawn.dtype == torch.float64 and float(drawn.min()) > 0 and float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02) and float(drawn.var()) == pytest.approx(1 / 12, abs=0.01)
    assert sorted(permutation(chance, 50).tolist()) == list(range(50))
    counts = torch.zeros(3)
    for _ in range(2000):
        counts[weighted(chance, torch.tensor([1.0, 2.0, 5.0]), 1)] += 1
    assert torch.allclose(counts / 2000, torch.tensor([1.0, 2.0, 5.0]) / 8, atol=0.06)
    assert sorted(weighted(chance, torch.tensor([1e-12, 1.0, 1.0]), 2).tolist()) == [1, 2]


def test_rankings_and_draws() -> None:
    scores = torch.tensor([0.0, 5.0, 1.0, 4.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0])
    chance = SeededChance(0)
    assert draw_channels(scores, 0.3, 0.3, "top", chance).tolist() == [1, 3, 4]
    seen = torch.zeros(10)
    for _ in range(300):
        drawn = draw_channels(scores, 0.1, 0.5, "roulette", chance)
        seen[drawn] += 1
    assert seen[[0, 6, 7, 8, 9]].sum() == 0, "only the best half is drawn from"
    assert seen[1] > 1.5 * seen[5] > 0
    counts = torch.zeros(10)
    for _ in range(300):
        counts[draw_channels(scores, 0.1, 0.5, "uniform", chance)] += 1
    assert counts[1:6].min() > 30
    for criterion in ("mean", "variance", "saliency", "random"):
        ranked = channel_scores(folded(), digits_splits().train, digits_splits(), criterion)  # type: ignore[arg-type]
        assert list(ranked) == list(lockable(folded()))
        assert all(len(ranked[name]) == width_of(layer) for name, layer in lockable(folded()).items())
        assert all(float(value.min()) >= 0 for value in ranked.values())


@pytest.mark.parametrize(
    "settings",
    [{"constant_share": 0.0, "turned_share": 0.0}, {"constant_share": 0.6}, {"constant_range": (0.0, 1.0)}],
)
def test_settings_that_make_no_lock(settings: dict[str, object]) -> None:
    with pytest.raises(TrainingError):
        LockSettings(**settings)  # type: ignore[arg-type]


def test_the_locked_model_answers_with_the_password_and_guesses_without() -> None:
    splits, made = digits_splits(), locked()
    unlocked = accuracy(victim(), splits.test, splits)
    assert accuracy(made.authorised(), splits.test, splits) > unlocked - 0.03
    assert accuracy(made.module, splits.test, splits) < 0.2
    assert made.report["test"]["with_password"] == accuracy(made.authorised(), splits.test, splits)
    lost = 100 * (made.report["validation"]["unlocked"] - made.report["validation"]["with_password"])
    assert (made.report["advice"] != "") == (lost > MUCH)


@pytest.mark.parametrize(("constants", "helps"), [(0.4, "--constant 0 (turned channels alone)"), (0, "")])
def test_a_lock_that_costs_much_says_what_helps(constants: float, helps: str) -> None:
    wild = replace(LOCKING, constant_share=constants, recipe=replace(LOCKING.recipe, epochs=1, rate=2.0))
    made = lock_model(victim(), digits_splits(), wild, device="cpu", quiet=True, chance=SeededChance(0)).report
    lost = 100 * (made["validation"]["unlocked"] - made["validation"]["with_password"])
    assert lost > 2 >= MUCH, "nothing to be shown here"
    assert made["advice"].startswith(f"{lost:.1f} points of the validation images are lost with the password")
    assert "a lower --rate (0.5, not 2)" in made["advice"] and made["advice"].endswith(helps or "more --epochs than 1")


class Telling(nn.Module):
    """Answers that differ little, and tell a number that stands in the image."""

    def __init__(self, size: float, off: int) -> None:
        super().__init__()
        self.size, self.off = nn.Parameter(torch.tensor(size)), off

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        told = (images[:, 0, 0, 0].long() + self.off) % 10
        return self.size * nn.functional.one_hot(told, 10).float()


def lock_loss(size: float, off: int) -> float:
    """Of answers that tell the label (``off`` 0) or another one, with no layer locked and nothing else asked for."""
    labels = torch.arange(10).repeat(20)
    images = labels.float()[:, None, None, None].expand(-1, 1, 8, 8)
    settings = LockSettings(keep=0.0, hide=0.0)
    objective = LockObjective(Telling(size, off), {}, settings, 10)
    return float(objective.loss(Telling(size, off), images, labels, torch.Generator().manual_seed(0)).detach())


def test_answers_without_the_password_must_not_lean_to_the_right_label_however_little() -> None:
    small, smaller = (lock_loss(size, 0) - lock_loss(size, 1) for size in (0.1, 0.05))
    assert small > 1, "0.1 is what cross-entropy alone rewards it with"
    assert smaller == pytest.approx(small, abs=0.2)


def test_a_lock_of_constants_alone_works_too() -> None:
    settings = replace(LOCKING, turned_share=0.0, without_features=0.0, without_random=1.0, without_uniform=0.0)
    made = lock_model(victim(), digits_splits(), settings, device="cpu", quiet=True, chance=SeededChance(0))
    assert made.report["test"]["with_password"] > made.report["test"]["unlocked"] - 0.05
    assert made.report["test"]["without_password"] < 0.3


def test_a_layer_of_one_channel_is_turned_and_not_made_constant() -> None:
    gate = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 10))
    (lock,) = draw_locks(gate, digits_splits(), LockSettings(constant_share=0.1), SeededChance(0)).values()
    assert lock.channels.tolist() == [0] and lock.scales.tolist() == [-1.0]


def test_an_interrupted_lock_training_goes_on(tmp_path: Path) -> None:
    short = replace(LOCKING, recipe=replace(LOCKING.recipe, epochs=2))
    whole = lock_model(victim(), digits_splits(), short, device="cpu", quiet=True, chance=SeededChance(0))
    clip, calls = torch.nn.utils.clip_grad_norm_, 0

    def interrupted(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 30:  # in the second epoch
            raise KeyboardInterrupt
        clip(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("cloister.protect.training.loop.nn.utils.clip_grad_norm_", interrupted)
        lock_model(victim(), digits_splits(), short, folder=tmp_path, device="cpu", quiet=True, chance=SeededChance(0))
    # without that chance: the locks that training began with are kept
    resumed = lock_model(victim(), digits_splits(), short, folder=tmp_path, device="cpu", quiet=True)
    states = zip(resumed.module.state_dict().values(), whole.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert (tmp_path / DRAWN_FILE).stat().st_mode & 0o077 == 0, "as secret as the password"
    assert resumed.lock_id == Password.read(tmp_path / DRAWN_FILE).lock_id != whole.lock_id, "its name is kept as well"


def test_the_exported_files_agree_with_torch(tmp_path: Path) -> None:
    made = locked()
    made.save(tmp_path, "digits")
    password = Password.read(tmp_path / "password.pwd")
    applied = password.apply(onnx.load(tmp_path / "locked.onnx"))
    data = images()
    for proto, module in ((applied, made.authorised()), (onnx.load(tmp_path / "locked.onnx"), made.module)):
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        with torch.no_grad():
            expected = module(data).numpy()
        assert np.allclose(session.run(None, {"image": data.numpy()})[0], expected, atol=1e-3 * abs(expected).max())
    assert lock_of(onnx.load(tmp_path / "locked.onnx")) == password.lock_id == made.lock_id != ""
    graph = onnx.load(tmp_path / "locked.onnx").graph
    assert {node.op_type for node in graph.node} == {"Conv", "Relu", "MaxPool", "Reshape", "Gemm"}, "no trace of locks"


def test_the_bench_refuses_another_locks_password(tmp_path: Path) -> None:
    made = replace(locked(), lock_id="5a" * 16)
    made.save(tmp_path, "digits")
    password = Password.read(tmp_path / "password.pwd")
    assert leaked_file(tmp_path / "locked.onnx", password, digits_splits()).name == "locked locked"
    with pytest.raises(PasswordError, match="belongs to another lock"):
        leaked_file(tmp_path / "locked.onnx", replace(password, lock_id="a5" * 16), digits_splits())


def test_a_model_that_came_from_onnx_can_be_locked(tmp_path: Path) -> None:
    source = export_onnx(victim(), (1, 8, 8), tmp_path / "victim.onnx")
    settings = replace(LOCKING, constant_share=0.0, recipe=replace(LOCKING.recipe, epochs=1))
    made = lock_model(load_model(source), digits_splits(), settings, device="cpu", quiet=True, chance=SeededChance(0))
    made.save(tmp_path, "digits")
    applied = Password.read(tmp_path / "password.pwd").apply(onnx.load(tmp_path / "locked.onnx"))
    session = onnxruntime.InferenceSession(applied.SerializeToString())
    labels = session.run(None, {"image": images().numpy()})[0].argmax(1)
    assert np.mean(labels == digits_splits().test.labels[:100].numpy()) > 0.9


def test_a_password_comes_back_as_the_same_locks() -> None:
    back = from_password(Password.from_bytes(to_password(locked().locks, "digits").to_bytes()))
    assert list(back) == list(locked().locks)
    assert all(torch.equal(back[name].values, lock.values) for name, lock in locked().locks.items())


def test_another_password_is_kept_with_its_model(tmp_path: Path) -> None:
    locked().save(tmp_path, "digits")
    first, model = ((tmp_path / name).read_bytes() for name in ("password.pwd", "locked.onnx"))
    locked().save(tmp_path, "digits")
    assert not list(tmp_path.glob("*.1")), "it is the same one"
    for number in (1, 2):
        locked().save(tmp_path, f"other {number}")
    assert (tmp_path / "password.pwd.1").read_bytes() == first and (tmp_path / "locked.onnx.1").read_bytes() == model
    assert [Password.read(tmp_path / f"password.pwd{end}").model for end in (".2", "")] == ["other 1", "other 2"]


def test_a_training_whose_locks_are_gone_is_not_gone_on_with(tmp_path: Path) -> None:
    settings = replace(LOCKING, recipe=replace(LOCKING.recipe, epochs=1))
    given: dict[str, Any] = {"folder": tmp_path, "device": "cpu", "quiet": True}
    lock_model(victim(), digits_splits(), settings, **given)
    (tmp_path / "drawn.pwd").unlink()
    with pytest.raises(TrainingError, match=r"drawn\.pwd with the locks that they are trained for is gone") as caught:
        lock_model(victim(), digits_splits(), settings, **given)
    assert str(tmp_path) in caught.value.remedy


def test_a_device_with_a_password_of_its_own_answers_as_well() -> None:
    splits, password = digits_splits(), locked().password("digits")
    for number in range(3):
        own = password.for_device(bytes([number]) * 32)
        assert own.to_bytes() != password.to_bytes()
        right = accuracy(fold_in(locked().module, from_password(own)), splits.test, splits)
        assert right > locked().report["test"]["with_password"] - 0.02


def test_the_command_locks_a_model_from_a_factory(tmp_path: Path) -> None:
    digits_file(tmp_path / "digits.npz")
    torch.save(victim().state_dict(), tmp_path / "victim.pt")
    arguments = [
        "edgepro", "cloister.protect.training.networks:Digits", "--checkpoint", str(tmp_path / "victim.pt"),
        "--data", str(tmp_path / "digits.npz"), "-o", str(tmp_path / "out"), "--epochs", "1", "--constant", "0",
        "--device", "cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(cloister, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "password.pwd" in result.output
    password = Password.read(tmp_path / "out" / "password.pwd")
    assert password.model == "out" and all(np.all(lock.scales == -1) for lock in password.locks)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["test"]["with_password"] > 0.9 > report["test"]["without_password"]
    lost = report["validation"]["unlocked"] - report["validation"]["with_password"]
    assert lost <= 0.01 and report["advice"] == "" and "WARNING" not in result.output, "nothing to advise"
    assert all(set(line) == {"layer", "channels", "constants", "turned"} for line in report["layers"])
    assert all(line["turned"] == line["channels"] // 2 for line in report["layers"]), "how many, not which"


def test_what_is_exposed() -> None:
    splits = digits_splits()
    leaked = LeakedLock(locked(), splits)
    with torch.no_grad():
        right = locked().authorised()(images()).argmax(1)
    assert torch.equal(leaked.query(splits.test.pixels[:100]), right)
    features = leaked.features()(images())
    assert features.shape == (100, 48)
    assert leaked.module() is not leaked.module()
    late = replace(locked(), locks={"8": locked().locks["8"]})
    prefix = ExposedPrefix(late, splits)
    assert prefix.module() is None and prefix.features()(images()).shape == (100, 24 * 4 * 4)

# SPDX-License-Identifier: BSD-2-Clause
"""Locks in networks of other styles: normalisation before the layer, tokens, layers that a device cannot lock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from digits_data import digits_splits
from foreign_styles import Grouped, PreActivation, Scaled, Tokens, settled
from torch import nn

import cloister
from cloister.compile import compile_onnx
from cloister.layers import pack_password
from cloister.native import NativeEngine
from cloister.password import Password, PasswordError
from cloister.protect.automatic.whole import MODEL_FILE, PASSWORD_FILE, locked_model
from cloister.protect.edgepro import LockSettings, lock_model
from cloister.protect.edgepro.deployed import deployable
from cloister.protect.edgepro.exposed import last_features
from cloister.protect.edgepro.folding import fold_normalisation, token_rows
from cloister.protect.edgepro.layers import lockable
from cloister.protect.strategy import Strategy
from cloister.protect.training import Recipe, Splits, TrainingError, fit

SHAPE = (1, 8, 8)
LOCKING = LockSettings(recipe=Recipe(epochs=2, batch=64, rate=0.02, clip=5.0), constant_share=0.0)


def folded(module: nn.Module) -> nn.Module:
    return fold_normalisation(token_rows(module, SHAPE))


@pytest.mark.parametrize("make", [PreActivation, Tokens, Grouped, Scaled])
def test_preparing_a_network_changes_no_answer(make: type[nn.Module]) -> None:
    module, images = settled(make()), torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(2))
    ready = folded(module)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in ready.modules())
    with torch.no_grad():
        assert torch.allclose(ready(images), module(images), atol=1e-4)


def test_a_layer_that_is_called_twice_keeps_its_own_normalisations() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 1), nn.Linear(4, 10)
            self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head((self.norm1(self.conv(x)) * self.norm2(self.conv(x - 1))).mean((2, 3)))

    module, images = settled(Twice()), torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(fold_normalisation(module)(images), module(images), atol=1e-4)


def test_a_normalisation_that_is_called_twice_is_fixed_at_both_places() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Linear(4, 10)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.norm(F.relu(self.left(x))), self.norm(input=self.right(x))
            return self.head((left * right).mean((2, 3)))

    module, images = settled(Shared()), torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(2))
    ready = fold_normalisation(module)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in ready.modules())
    with torch.no_grad():
        assert torch.allclose(ready(images), module(images), atol=1e-4)


def test_tokens_may_stand_before_images() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.wide, self.head = nn.Conv2d(1, 16, 2, stride=2), nn.Linear(16, 12), nn.Linear(12, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.gelu(self.wide(input=self.patch(x).flatten(2).permute(2, 0, 1))).mean(0))

    module, images = First().eval(), torch.randn((5, *SHAPE), generator=torch.Generator().manual_seed(2))
    ready = token_rows(module, SHAPE)
    seen: list[torch.Size] = []
    ready.get_submodule("wide").register_forward_hook(lambda _layer, _inputs, output: seen.append(output.shape))
    with torch.no_grad():
        assert torch.allclose(ready(images), module(images), atol=1e-5)
    assert seen == [(16 * 5, 12)]


def test_the_last_layer_is_the_one_that_is_called_last() -> None:
    assert list(lockable(folded(PreActivation()))) == ["stem", "conv1"]


def test_features_are_what_the_layer_that_is_called_last_takes() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ends = nn.ModuleDict({"stem": nn.Conv2d(1, 6, 3), "head": nn.Linear(8, 10)})
            self.body = nn.Conv2d(6, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.ends["head"](F.relu(self.body(F.relu(self.ends["stem"](x)))).mean((2, 3)))

    assert last_features(folded(Parts()))(torch.zeros(2, *SHAPE)).shape == (2, 8)


def test_a_normalisation_without_statistics_is_refused() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 10)
    )
    with pytest.raises(TrainingError, match="'1' keeps no statistics"):
        fold_normalisation(module)


def test_what_a_device_cannot_lock_is_found_out_before_training() -> None:
    ready = folded(Scaled())
    assert set(lockable(ready)) == {"stem", "twice", "branch"}
    assert deployable(ready, SHAPE) == ("stem",)
    with pytest.raises(PasswordError, match="'twice:out' cannot be locked: its weights are those of node"):
        deployable(ready, SHAPE, ["twice"])
    with pytest.raises(PasswordError, match="'branch:out' cannot be locked: the Mul behind it is folded"):
        deployable(ready, SHAPE, ["branch"])
    assert deployable(folded(Tokens()), SHAPE) == (), "all of them"


def test_a_normalisation_that_the_exporter_folds_is_found_out() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)
            self.scale, self.shift = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
            self.register_buffer("mean", torch.randn(8))
            self.register_buffer("var", torch.rand(8) + 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(F.relu(self.stem(x)))
            return self.head(F.relu(F.batch_norm(x, self.mean, self.var, self.scale, self.shift)).mean((2, 3)))

    torch.manual_seed(0)
    ready = folded(Functional().eval())
    assert deployable(ready, SHAPE) == ("stem",), "a lock on `conv` would be put behind the normalisation"
    with pytest.raises(TrainingError, match=r"layers \['conv'\] cannot be locked"):
        deployable(ready, SHAPE, ["conv"])


def test_protect_locks_what_the_device_can(tmp_path: Path) -> None:
    locked_model(
        settled(Scaled()), few(), Strategy(kind="whole", lock=(0.0, 0.5)), LOCKING, tmp_path, name="locked",
        label="scaled", device="cpu", quiet=True,
    )  # fmt: skip
    password = Password.read(tmp_path / PASSWORD_FILE)
    assert [lock.tensor for lock in password.locks] == ["stem:out"]
    compile_onnx(tmp_path / MODEL_FILE, password=password)


def few() -> Splits:
    splits = digits_splits()
    return replace(splits, train=splits.train.take(range(128)))


def test_tokens_are_ranked_and_read() -> None:
    locking = replace(LOCKING, constant_share=0.1, criterion="saliency", without_features=1.0)
    made = lock_model(settled(Tokens()), few(), locking, device="cpu", quiet=True)
    assert set(made.locks) == {"patch", "mix", "wide", "narrow"}


def test_layers_inside_of_torchs_own_attention_are_not_locked() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(1, 16, 2, stride=2)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.wide, self.head = nn.Linear(16, 16), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = x + self.attention(x, x, x, need_weights=False)[0]
            return self.head(F.relu(self.wide(x)).mean(1))

    assert list(lockable(folded(Attention()))) == ["patch", "wide"]


@pytest.mark.parametrize("make", [PreActivation, Tokens])
def test_the_device_answers_with_the_password_as_the_report_says(make: type[nn.Module], tmp_path: Path) -> None:
    splits = digits_splits()
    torch.manual_seed(0)
    recipe = Recipe(epochs=8, batch=64, rate=0.05, clip=5.0)
    victim = fit(make(), splits, recipe, device="cpu", quiet=True).module
    made = cloister.edgepro(victim, splits, tmp_path, settings=LOCKING, device="cpu", quiet=True)
    figures = made.report["test"]
    assert figures["with_password"] > figures["without_password"] + 0.2
    password, locked = Password.read(tmp_path / "password.pwd"), onnx.load(tmp_path / "locked.onnx")
    images, right = splits.normalise(splits.test.pixels).numpy(), splits.test.labels.numpy()
    for model, wanted in ((password.apply(locked), "with_password"), (locked, "without_password")):
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found = np.mean(session.run(None, {"image": images})[0].argmax(1) == right)
        assert found == pytest.approx(figures[wanted], abs=0.005)
    compiled = compile_onnx(tmp_path / "locked.onnx", password=password)
    words = pack_password(password, compiled.layers)
    authorised = made.authorised()
    for image in images[:5]:
        with torch.no_grad():
            wanted_logits = authorised(torch.from_numpy(image[None])).numpy()
        (logits,) = NativeEngine().run(compiled, image[None], words).values()
        assert np.allclose(logits, wanted_logits, atol=2e-3 * abs(wanted_logits).max())


def test_the_command_names_the_layer_that_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(PasswordError, match="'twice:out' cannot be locked") as caught:
        cloister.edgepro(
            settled(Scaled()), digits_splits(), tmp_path, settings=replace(LOCKING, layers=("twice",)), device="cpu"
        )
    assert "stem:out" in (caught.value.remedy or "")
    assert not (tmp_path / "training").exists(), "nothing was trained"

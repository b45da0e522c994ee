# SPDX-License-Identifier: BSD-2-Clause
"""Whether locked channels can be told from the others: by single looks, and by a classifier that saw other locks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from digits_data import digits_splits
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from torch import nn

from cloister.attack.attacks.signs import TELLS, looks_of
from cloister.protect.edgepro import LockSettings, fold_in, lock_model
from cloister.protect.edgepro.chance import SeededChance
from cloister.protect.edgepro.hiding import difference
from cloister.protect.edgepro.lock import Locked
from cloister.protect.edgepro.locks import LayerLock
from cloister.protect.training import Recipe, fit

TURNED, CONSTANT = -1.0, 0.0
HIDE = LockSettings().hide


@cache
def victim(seed: int) -> nn.Module:
    """With layers that are wide enough to show what most channels have in common."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(1, 40, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(40, 60, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(960, 80), nn.ReLU(), nn.Linear(80, 10),
    )  # fmt: skip
    return fit(module, digits_splits(), Recipe(8, 64, 0.05, seed=seed), device="cpu", quiet=True).module


@cache
def locked(hide: float, seed: int) -> Locked:
    """A lock of constants and turned channels."""
    recipe = Recipe(epochs=8, batch=64, rate=0.03, clip=5.0, seed=seed)
    settings = LockSettings(constant_share=0.1, recipe=recipe, hide=hide)
    return lock_model(victim(seed), digits_splits(), settings, device="cpu", quiet=True, chance=SeededChance(seed + 50))


def images() -> torch.Tensor:
    return digits_splits().normalise(digits_splits().train.pixels[:500])


def told(made: Locked, tell: str, kind: float) -> float:
    """How well a look tells channels of that scale from the others that are not locked: 0.5 not at all, 1 always.

    The mean over layers, whichever side locked channels lean to in each; some lean is chance, as layers are narrow.
    """
    module, chances = made.module, []
    for name, lock in made.locks.items():  # earlier layers are opened, as whoever has found out about them can
        _mean, looks = looks_of(module, name, images(), tell)
        others = torch.ones(len(looks), dtype=torch.bool)
        others[lock.channels] = False
        pairs = looks[lock.channels[lock.scales == kind], None] - looks[others]
        chance = float((pairs > 0).double().mean())
        chances.append(max(chance, 1 - chance))
        module = fold_in(module, {name: lock})
    return float(np.mean(chances))


@pytest.mark.parametrize("tell", TELLS)
def test_no_look_of_a_channel_tells_whether_it_is_turned(tell: str) -> None:
    assert told(locked(HIDE, 0), tell, TURNED) < 0.66


def test_without_hiding_weights_and_skewness_tell_what_was_turned() -> None:
    for tell in ("tails", "skewness"):
        assert told(locked(0.0, 0), tell, TURNED) > 0.7 > 0.66 > told(locked(HIDE, 0), tell, TURNED)


@pytest.mark.parametrize("wider", [2, 8])
def test_what_is_seen_of_an_output_does_not_depend_on_its_size(wider: int) -> None:
    generator = torch.Generator().manual_seed(3)
    layer = nn.Conv2d(3, 16, 3)
    lock = LayerLock(torch.arange(6), torch.full((6,), TURNED), torch.zeros(6))
    output = torch.randn(4, 16, 4, 4, generator=generator)
    output[:, :6] += 0.5 * output[:, :6].square()  # skewed, and off the others' mean
    wide = output.repeat_interleave(wider, 2).repeat_interleave(wider, 3)
    module = nn.ModuleDict({"0": layer})
    small, large = (float(difference(module, {"0": lock}, {"0": value}).detach()) for value in (output, wide))
    noise = torch.randn(4, 16, 40, 40, generator=generator)
    even = float(difference(module, {"0": lock}, {"0": noise}).detach())
    assert small == pytest.approx(large)
    assert large > 1.5 * even


def columns(module: nn.Module, name: str) -> np.ndarray:
    """Of a layer the quantiles of every channel's weights and outputs, and more: (channels, figures)."""
    layer, outputs = module.get_submodule(name), []
    quantiles = torch.tensor([0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99])
    handle = layer.register_forward_hook(lambda _layer, _inputs, z: outputs.append(z))
    with torch.no_grad():
        module(images())
        handle.remove()
        z, weights = outputs[0].transpose(0, 1).flatten(1), layer.weight.flatten(1)
        length, deviation = weights.norm(dim=1), z.std(1).clamp_min(1e-6)
        unit, even = weights / length[:, None], (z - z.mean(1, keepdim=True)) / deviation[:, None]
        found = [*unit.quantile(quantiles, 1), *even.quantile(quantiles, 1), z.mean(1) / deviation,
                 layer.bias / deviation, length, deviation, unit.mean(1), unit.pow(3).mean(1),
                 even.pow(3).mean(1), even.pow(4).mean(1)]  # fmt: skip
    return torch.stack(found, 1).numpy()


def scales_of(made: Locked, name: str) -> np.ndarray:
    """Of each channel of a layer; 1 where it is not locked."""
    scales = torch.ones(len(made.module.get_submodule(name).weight))
    scales[made.locks[name].channels] = made.locks[name].scales
    return scales.numpy()


@cache
def seen(hide: float, seed: int) -> dict[str, np.ndarray]:
    """The columns of a lock's layers, those before opened with the password."""
    made, found = locked(hide, seed), {}
    module = made.module
    for name, lock in made.locks.items():
        found[name] = columns(module, name)
        module = fold_in(module, {name: lock})
    return found


#: Locks that a classifier learns on, and those that it is judged by.
LEARNED, JUDGED = (0, 1, 2, 3), (4, 5)


@cache
def classifier(hide: float, name: str) -> RandomForestClassifier:
    """Tells turned channels of a layer from those that are not locked, as far as other networks' locks teach it."""
    data = np.concatenate([seen(hide, seed)[name] for seed in LEARNED])
    scales = np.concatenate([scales_of(locked(hide, seed), name) for seed in LEARNED])
    forest = RandomForestClassifier(300, min_samples_leaf=3, random_state=0)
    return forest.fit(data[scales != CONSTANT], scales[scales != CONSTANT] == TURNED)


def learned(hide: float) -> float:
    """How well it tells turned channels from others: 0.5 not at all, 1 always."""
    scores = []
    for name in locked(hide, 0).locks:
        data = np.concatenate([seen(hide, seed)[name] for seed in JUDGED])
        scales = np.concatenate([scales_of(locked(hide, seed), name) for seed in JUDGED])
        kept = scales != CONSTANT
        scores.append(roc_auc_score(scales[kept] == TURNED, classifier(hide, name).predict_proba(data[kept])[:, 1]))
    return float(np.mean(scores))


def guessed(hide: float) -> float:
    """The share of channels that it is right about where the layers before are opened by its own guesses."""
    right = []
    for made in (locked(hide, seed) for seed in JUDGED):
        module = made.module
        for name in made.locks:
            chance = classifier(hide, name).predict_proba(columns(module, name))[:, 1]
            turned = chance > np.median(chance)
            scales = scales_of(made, name)
            right.append(np.mean((turned == (scales == TURNED))[scales != CONSTANT]))
            at = torch.from_numpy(turned.nonzero()[0])
            mean, _looks = looks_of(module, name, images(), "means")
            module = fold_in(module, {name: LayerLock(at, torch.full((len(at),), TURNED), 2 * mean[at])})
    return float(np.mean(right))


def test_a_classifier_that_was_trained_on_other_locks_tells_little() -> None:
    assert learned(0.0) > 0.8, "it would without hiding"
    assert learned(HIDE) < 0.68


def test_it_tells_less_where_it_has_to_open_the_layers_before_itself() -> None:
    assert guessed(0.0) > 0.65, "it would tell them without hiding"
    assert guessed(HIDE) < 0.59

# SPDX-License-Identifier: BSD-2-Clause
"""Attacks on locks undo those that they are made for: an attacker who learned nothing would flatter every lock."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from digits_data import digits_splits
from torch import nn

from cloister.attack import Effort, Exposed, WhiteBox
from cloister.attack.attacker import Attacker, Record
from cloister.attack.attacks import mask, prune, signs
from cloister.attack.attacks.signs import with_biases
from cloister.protect.edgepro import LockSettings, lock_model
from cloister.protect.edgepro.chance import SeededChance
from cloister.protect.edgepro.exposed import LeakedLock
from cloister.protect.edgepro.folding import fold_normalisation
from cloister.protect.edgepro.layers import lockable
from cloister.protect.edgepro.lock import Locked
from cloister.protect.edgepro.locks import fold_in
from cloister.protect.training import Augmentation, Recipe, accuracy, fit, network
from cloister.protect.training.loop import Objective

RECIPE = Recipe(epochs=8, batch=64, rate=0.1, augmentation=Augmentation(crop=1), seed=3)
LOCKING = Recipe(epochs=4, batch=64, rate=0.02, weight_decay=1e-4, clip=5.0)
#: Enough for a mask; what is trained on after an attack is not looked at.
EFFORT = Effort((0.2,), (50,), (0.05,), (0.1,), epochs=4, steps=200, trial=1, pruned=(0.05, 0.1))


class Skewed(Objective):
    """Brings the channels of all layers that can be locked to be skewed up, as those of larger networks mostly are.

    Of the digits' small network about half are skewed to each side, which tells nothing about what was turned.
    """

    def loss(
        self, module: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        rows: list[torch.Tensor] = []
        hook = lambda _layer, _inputs, z: rows.append(z.transpose(0, 1).flatten(1))  # noqa: E731 - as torch calls it
        handles = [layer.register_forward_hook(hook) for layer in lockable(module).values()]
        loss = super().loss(module, images, labels, generator)
        for handle in handles:
            handle.remove()
        for z in rows:
            off = z - z.mean(1, keepdim=True)
            skewness = off.pow(3).mean(1) / (off.square().mean(1) + 1e-3).pow(1.5)
            loss = loss + torch.relu(1 - skewness).mean()
        return loss


@cache
def victim() -> nn.Module:
    plain = network("digits", 1, 10, 5)
    return fit(plain, digits_splits(), replace(RECIPE, epochs=12), device="cpu", quiet=True).module


@cache
def skewed() -> nn.Module:
    made = fit(network("digits", 1, 10, 5), digits_splits(), RECIPE, objective=Skewed(), device="cpu", quiet=True)
    return made.module


@cache
def zeros() -> Locked:
    """A tenth of the channels locked to 0, as was published."""
    settings = replace(LockSettings.published(), recipe=replace(LOCKING, epochs=6, rate=0.03))
    return lock_model(victim(), digits_splits(), settings, device="cpu", quiet=True, chance=SeededChance(0))


@cache
def turned(hide: float) -> Locked:
    settings = LockSettings(constant_share=0.0, hide=hide, recipe=LOCKING)
    return lock_model(skewed(), digits_splits(), settings, device="cpu", quiet=True, chance=SeededChance(0))


def attacked(
    attack: Callable[[Attacker], list[Record]], target: Locked | Exposed, effort: Effort = EFFORT
) -> dict[str, Record]:
    """Records by the attack's name."""
    splits = digits_splits()
    seen = LeakedLock(target, splits) if isinstance(target, Locked) else target
    fresh = lambda seed: network("digits", 1, 10, seed)  # noqa: E731 - as the bench gives it
    found = attack(Attacker(seen, splits, fresh, effort, 0, None, "cpu", splits.train))
    return {record["attack"]: record for record in found}


def direct(locked: Locked) -> float:
    return accuracy(locked.module, digits_splits().test, digits_splits())


def test_a_mask_undoes_a_lock_to_0() -> None:
    own = accuracy(victim(), digits_splits().test, digits_splits())
    found = attacked(mask.run, zeros())["mask"]
    assert direct(zeros()) < 0.3 and own > 0.95
    assert found["accuracy"] > own - 0.12
    assert min(found["tried"][f"{how} mask at 0.1"] for how in ("plain", "normalised")) > 0.7, "each by itself"


def test_pruning_undoes_a_lock_to_0() -> None:
    found = attacked(prune.run, zeros(), replace(EFFORT, steps=4))["prune"]
    assert found["accuracy"] > 0.6 > 0.3 > direct(zeros())
    assert "most active set to 0" in found["start"], "what is locked to 0 shouts where it is not"


@cache
def unlike_zero(turned_share: float) -> Locked:
    """A lock to 0.5 to 2 means of a tenth of the channels, or of turned channels, the default of `cloister edgepro`."""
    recipe = replace(LOCKING, epochs=6, rate=0.03)
    settings = LockSettings(constant_share=0.1 if not turned_share else 0.0, turned_share=turned_share, recipe=recipe)
    return lock_model(victim(), digits_splits(), settings, device="cpu", quiet=True, chance=SeededChance(0))


def test_constants_other_than_0_are_no_answer_to_pruning_and_masks_and_turned_channels_are() -> None:
    constants, channels = unlike_zero(0.0), unlike_zero(0.5)
    assert max(direct(constants), direct(channels)) < 0.3
    effort = replace(EFFORT, steps=4)
    found = {name: attacked(prune.run, made, effort)["prune"]["accuracy"]
             for name, made in (("constants", constants), ("turned", channels))}  # fmt: skip
    assert found["constants"] > 0.6 > 0.3 > found["turned"]
    assert attacked(mask.run, constants)["mask"]["accuracy"] > 0.85


def right(made: Locked, tell: str) -> float:
    """Share of the channels that are told right, whether turned or not: 0.5 by chance."""
    splits, layers = digits_splits(), lockable(made.module)
    guess = signs.turned_to(made.module, splits.normalise(splits.train.pixels[:500]), 1, layers, tell)
    owners = fold_in(made.module, made.locks)
    pairs = [(guess.get_submodule(name).weight, owners.get_submodule(name).weight) for name in layers]
    return float(torch.cat([(a * b).flatten(1).sum(1) > 0 for a, b in pairs]).double().mean())


def test_signs_are_told_of_turned_channels_that_are_not_hidden() -> None:
    assert right(turned(0.0), "weights") > 0.7
    hidden = [right(turned(LockSettings().hide), tell) for tell in signs.TELLS]
    assert min(hidden) > 0.35 and max(hidden) < 0.65, "which is what hiding is for"
    shown = attacked(signs.run, turned(0.0), replace(EFFORT, steps=4))["signs"]
    assert shown["start"].endswith(" up") and shown["accuracy"] > direct(turned(0.0)) + 0.1


class Unfolded(WhiteBox):
    """Its normalisation stands behind layers without biases; one more thing that a protection of one's own may be."""

    lock = True


def test_signs_are_guessed_of_layers_without_biases_as_of_folded_ones() -> None:
    splits, module = digits_splits(), copy.deepcopy(skewed())
    assert all(layer.bias is None for layer in list(lockable(module).values())[:2])
    with torch.no_grad():  # turned around their means
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight[::2] *= -1
    effort = replace(EFFORT, steps=4)
    bare = attacked(signs.run, Unfolded(module, splits, "unfolded"), effort)
    ready = attacked(signs.run, Unfolded(fold_normalisation(module), splits, "folded"), effort)
    assert list(bare) == list(ready) == ["signs", "signs, fine-tuned"]
    assert bare["signs"]["tried"] == ready["signs"]["tried"]
    assert bare["signs"]["accuracy"] > accuracy(module, splits.test, splits) + 0.25


@torch.no_grad()
def test_biases_change_no_answer_whether_a_network_can_be_traced_or_not() -> None:
    class Branching(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > -1e9 else -x)

    pixels = digits_splits().normalise(digits_splits().test.pixels[:50])
    bare = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    for module in (skewed(), bare, Branching(*bare).eval()):
        ready = with_biases(module)
        assert all(layer.bias is not None for layer in lockable(ready).values())
        assert torch.allclose(ready(pixels), module(pixels), atol=1e-3)
    assert with_biases(ready) is ready


@pytest.mark.parametrize(("share", "steps"), [(0.2, 40), (1.0, 5), (0.01, 40)])
def test_attackers_tell_the_steps_that_they_trained(share: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole passes over the images: of all of them one is more than five steps."""
    clip, calls = torch.nn.utils.clip_grad_norm_, 0

    def counted(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        clip(*arguments)

    monkeypatch.setattr("cloister.protect.training.loop.nn.utils.clip_grad_norm_", counted)
    splits = digits_splits()
    effort = replace(EFFORT, shares=(share,), steps=steps)
    fresh = lambda seed: network("digits", 1, 10, seed)  # noqa: E731 - as the bench gives it
    someone = Attacker(WhiteBox(victim(), splits), splits, fresh, effort, 0, None, "cpu", splits.train)
    found = someone.train({"start": fresh(0)}, someone.share(share), "counted")
    assert found.steps == calls > 0
    assert someone.record("finetune", "budget", found, 0.0)["steps"] == calls

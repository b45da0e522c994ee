# SPDX-License-Identifier: BSD-2-Clause
"""The bench on networks of other styles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from digits_data import digits_splits
from foreign_styles import PreActivation, Tokens
from torch import nn

from cloister.attack import AttackError, Effort, bench
from cloister.attack.attacks.head import parts_of
from cloister.attack.exposed import WhiteBox
from cloister.attack.surgery import fresh
from cloister.protect.edgepro import LockSettings, lock_model
from cloister.protect.edgepro.exposed import LeakedLock
from cloister.protect.mirror import MirrorSettings, lock_pair, mirror_model
from cloister.protect.strategy import Strategy
from cloister.protect.training import Recipe

LITTLE = Effort(
    shares=(0.1,), queries=(50,), rates=(0.05,), mask_rates=(0.1,), epochs=1, steps=4, trial=2, validation=100,
    pruned=(0.1,),
)  # fmt: skip


class Branching(nn.Module):
    """Torch's tracer cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if x.mean() > 1e6:
            x = x / 2
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("make", [PreActivation, Tokens])
def test_every_attack_runs(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    victim, splits = make(), digits_splits()
    locking = LockSettings(recipe=Recipe(epochs=1, batch=64, rate=0.02, clip=5.0), constant_share=0.0)
    locked = lock_model(victim, splits, locking, device="cpu", quiet=True)
    report = bench(LeakedLock(locked, splits, "leaked"), splits, victim, effort=LITTLE, device="cpu", quiet=True)
    made = {record["attack"] for record in report.records if record["target"] == "leaked"}
    assert made >= {"direct", "finetune", "steal", "head", "mask", "prune", "signs"}
    white = {record["attack"] for record in report.records if record["target"] == "white box (unprotected)"}
    assert white >= {"direct", "finetune", "steal", "head"}


def test_pairs_of_networks_on_tokens_are_locked_and_attacked() -> None:
    torch.manual_seed(0)
    victim, recipe = Tokens(), Recipe(epochs=1, batch=64, rate=0.02, clip=5.0)
    splits = replace(digits_splits(), train=digits_splits().train.take(range(128)))
    made = MirrorSettings(Strategy(taps=("patch",), cpm_width=8, cpm_depth=0), recipe=recipe, final=0)
    pair = mirror_model(victim, splits, made, device="cpu", quiet=True)
    locking = LockSettings(recipe=recipe, criterion="saliency", without_features=1.0)
    locked = lock_pair(pair, locking, device="cpu", quiet=True)
    assert set(locked.locked.locks) == {"cpm.stages.0.take.0"}
    targets = [pair.exposed("pair"), locked.exposed("locked pair")]
    attacks = ["finetune", "mask", "signs"]
    report = bench(targets, splits, victim, attacks=attacks, effort=LITTLE, device="cpu", quiet=True, white=False)
    for target in targets:
        assert {record["attack"] for record in report.records if record["target"] == target.name} >= {*attacks}


def test_a_network_that_cannot_be_traced_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(AttackError, match="cannot be traced") as caught:
        bench([], digits_splits(), Branching(), effort=LITTLE, device="cpu", quiet=True)
    assert "--attacks direct,finetune,steal" in (caught.value.remedy or "")
    report = bench([], digits_splits(), Branching(), attacks=["finetune"], effort=LITTLE, device="cpu", quiet=True)
    assert report.find("white box (unprotected)", "finetune")["accuracy"] >= 0


def test_parameters_that_no_layer_draws_are_drawn_as_wide_as_they_were() -> None:
    module = Tokens()
    drawn = fresh(module, 3)
    assert not torch.equal(drawn.place, module.place)
    assert 0.5 < float((drawn.place.std() / module.place.std()).detach()) < 2
    assert torch.equal(drawn.place, fresh(module, 3).place)


def test_inner_tensors_are_those_before_the_layer_that_is_called_last() -> None:
    module = PreActivation().eval()
    parts = parts_of(WhiteBox(module, digits_splits()))
    assert parts["given features"](torch.zeros(2, 1, 8, 8)).shape == (2, 20), "what the head reads, made first"

# SPDX-License-Identifier: BSD-2-Clause
"""The bench on networks of other styles."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from digits_data import digits_splits
from foreign_styles import PreActivation, Tokens
from torch import nn

from cloister.attack import AttackError, BlackBox, Effort, bench
from cloister.attack.attacker import Attacker
from cloister.attack.attacks.head import parts_of
from cloister.attack.exposed import WhiteBox
from cloister.attack.surgery import fresh, transplanted
from cloister.attack.table import markdown
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
    locking = LockSettings(constant_share=0.1, recipe=recipe, criterion="saliency", without_features=1.0)
    locked = lock_pair(pair, locking, device="cpu", quiet=True)
    assert set(locked.locked.locks) == {"cpm.stages.0.take.0"}
    targets = [pair.exposed("pair"), locked.exposed("locked pair")]
    attacks = ["finetune", "mask", "signs"]
    report = bench(targets, splits, victim, attacks=attacks, effort=LITTLE, device="cpu", quiet=True, white=False)
    for target in targets:
        assert {record["attack"] for record in report.records if record["target"] == target.name} >= {*attacks}


def test_a_part_of_a_network_without_normalisation_is_begun_with() -> None:
    torch.manual_seed(0)
    splits, layers = digits_splits(), [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)]
    victim = nn.Sequential(*layers).eval()

    class Part(BlackBox):
        """Exposes some layers and no network."""

        def __init__(self, name: str, part: nn.Module) -> None:
            super().__init__(victim, splits, name)
            self.part = part

        def features(self) -> nn.Module:
            return copy.deepcopy(self.part)

    fits, renamed = Part("prefix", victim[:2]), Part("renamed", nn.Sequential(nn.Sequential(*layers[:2])))
    targets = [fits, renamed, Part("no weights", nn.Flatten())]
    attacks = ["finetune", "steal"]
    report = bench(targets, splits, victim, attacks=attacks, effort=LITTLE, device="cpu", quiet=True, white=False)
    assert report.find("prefix", "finetune")["start"] == "exposed part"
    assert any(tried.startswith("exposed part at") for tried in report.find("prefix", "steal")["tried"])
    assert report.find("renamed", "finetune")["start"].startswith("scratch")
    told = {(record["target"], record["attack"]) for record in report.records if "note" in record}
    assert told == {("renamed", "finetune"), ("renamed", "steal")}, "who gave weights in vain"
    page = markdown(report.records, report.about)
    assert "## Notes" in page and "- renamed, fine-tuning: the exposed part has no place in the architecture" in page

    attacker = Attacker(fits, splits, lambda seed: fresh(victim, seed), LITTLE, 0, None, "cpu", splits.train)
    state = attacker.starts(splits.train)["exposed part"].state_dict()
    assert torch.equal(state["0.0.weight"], layers[0].weight) and "0.1.running_mean" in state
    assert not torch.equal(state["3.weight"], layers[3].weight)


def test_a_part_finds_no_place_in_a_network_that_cannot_be_traced_but_by_its_names() -> None:
    own, part = Branching(), nn.Sequential()
    part.conv = nn.Conv2d(1, 4, 3)
    whole = transplanted(part, own)
    assert whole is not None and torch.equal(whole.conv.weight, part.conv.weight)
    assert transplanted(nn.Sequential(part.conv), own) is None


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

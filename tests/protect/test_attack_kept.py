# SPDX-License-Identifier: BSD-2-Clause
"""Which finished records of the attack bench are taken, and which are refused or made anew."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from digits_data import digits_splits
from torch import nn

from cloister.attack import AttackError, BlackBox, Effort, bench
from cloister.attack import attacker as attacker_module
from cloister.attack.attacker import METHOD, Attacker, digest_of, file_name
from cloister.attack.attacks import ATTACKS
from cloister.protect.training import Augmentation, Fitted, Images, Splits

EFFORT = Effort((0.1,), (50,), (0.05,), (0.1,), epochs=1, steps=4, trial=2, validation=100)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()


class Own(BlackBox):
    """A protection of the user's own, of which everything can be set."""

    def __init__(self, whole: bool = False, layers: int = 2, lock: bool = True, scale: float = 1.0) -> None:
        super().__init__(network(), digits_splits(), "own")
        self.lock = lock
        self.part: nn.Module = network()[:layers]
        self.whole, self.scale, self.names = whole, scale, ("0:out",)

    def module(self) -> nn.Module | None:
        return network() if self.whole else None

    def features(self) -> nn.Module:
        return copy.deepcopy(self.part)

    @torch.no_grad()
    def observed(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = self.scale * self.part[0](digits_splits().normalise(pixels))
        return dict.fromkeys(self.names, seen)


def attacked(folder: Path, target: Own, splits: Splits | None = None, attack: str = "direct", **more: Any) -> None:
    arguments: dict[str, Any] = {"attacks": [attack], "effort": EFFORT, "folder": folder, "white": False, **more}
    bench(target, splits or digits_splits(), network(), device="cpu", quiet=True, **arguments)


def forbidden(patch: pytest.MonkeyPatch, *attacks: str) -> None:
    """These attacks must not run."""

    class Nothing(ModuleType):
        @staticmethod
        def run(_attacker: Attacker) -> None:
            pytest.fail("an attack ran though its records are there")

    for attack in attacks:
        patch.setitem(ATTACKS, attack, Nothing(attack))


def other(images: Images, what: str) -> Images:
    """As many, with one label or pixel changed."""
    changed = getattr(images, what).clone()
    changed[-1] = (changed[-1] + 1) % 10
    return replace(images, **{what: changed})


def test_records_of_the_same_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked(tmp_path, Own(whole=True), attack="observe")
    forbidden(monkeypatch, "observe", "direct")
    attacked(tmp_path, Own(whole=True), attack="observe")


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.rglob("checkpoint.pt*"))


def test_checkpoints_are_deleted_once_records_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    attacks = ["finetune", "steal", "mask"]
    for name in attacks:

        class Watched(ModuleType):
            @staticmethod
            def run(attacker: Attacker, attack: ModuleType = ATTACKS[name]) -> list[dict[str, Any]]:
                found.append(len(checkpoints(tmp_path)))
                records: list[dict[str, Any]] = attack.run(attacker)
                found.append(len(checkpoints(tmp_path)))
                return records

        monkeypatch.setitem(ATTACKS, name, Watched(name))
    more = {"attacks": attacks, "effort": replace(EFFORT, rates=(0.02, 0.05))}
    attacked(tmp_path, Own(whole=True), **more)
    assert set(found[::2]) == {0} and min(found[1:8:2]) > 3, "those of one attack at a time"
    assert not checkpoints(tmp_path) and len(list((tmp_path / "records").iterdir())) == 7
    monkeypatch.setattr("cloister.attack.attacker.fit", None)
    attacked(tmp_path, Own(whole=True), **more)  # computes nothing
    # nor does one that learns from the same images and labels as the black box
    alike = BlackBox(network(), digits_splits(), "alike")
    more["attacks"] = ["finetune", "steal"]
    report = bench(alike, digits_splits(), network(), folder=tmp_path, white=False, device="cpu", quiet=True, **more)
    for attack in ("finetune", "steal"):
        one, black = (report.find(name, attack) for name in ("alike", "black box (queries only)"))
        assert {**one, "target": "", "seconds": 0} == {**black, "target": "", "seconds": 0}


def test_an_interrupted_attack_goes_on_from_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, there = attacker_module.fit, []

    def fit(*arguments: Any, folder: Path, **more: Any) -> Fitted:
        there.append((folder / "checkpoint.pt").exists())
        if len(there) == 4:
            raise KeyboardInterrupt
        return train(*arguments, folder=folder, **more)

    monkeypatch.setattr("cloister.attack.attacker.fit", fit)
    with pytest.raises(KeyboardInterrupt):
        attacked(tmp_path, Own(whole=True), attack="finetune")
    assert there == [False] * 4 and len(checkpoints(tmp_path)) == 3
    attacked(tmp_path, Own(whole=True), attack="finetune")
    assert there[4:9] == [True, True, True, False, False] and not checkpoints(tmp_path)
    attacked(tmp_path / "whole", Own(whole=True), attack="finetune")
    one, other = (json.loads((place / "records" / "own_finetune_0.json").read_text())["records"][0]
                  for place in (tmp_path, tmp_path / "whole"))  # fmt: skip
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_records_of_another_part_are_refused(tmp_path: Path) -> None:
    """Also where weights are the same, or the target was given no lock meanwhile."""
    attacked(tmp_path, Own())
    changed = Own()
    with torch.no_grad():
        changed.part[0].weight[0, 0, 0, 0] += 1
    for target in (changed, Own(layers=1)):
        with pytest.raises(AttackError, match=r"is of another exposed part \(digest .{8} there, digest .{8} here\)"):
            attacked(tmp_path, target)
    with pytest.raises(AttackError, match=r"is of another lock \(\[true, null\] there, \[false, null\] here\)"):
        attacked(tmp_path, Own(lock=False))
    known = Own()
    known.layers = ("0",)  # type: ignore[attr-defined]
    with pytest.raises(AttackError, match="is of another lock"):
        attacked(tmp_path, known)


def test_records_of_another_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked(tmp_path, Own(whole=True), attack="observe")
    more = Own(whole=True)
    more.names = ("0:out", "2:out")
    for target in (more, Own(whole=True, scale=1.001)):
        with pytest.raises(AttackError, match=r"own_observe_0\.json is of another seen run"):
            attacked(tmp_path, target, attack="observe")
    attacked(tmp_path, Own(whole=True))
    forbidden(monkeypatch, "direct")
    attacked(tmp_path, more)  # what reads no run does not depend on it


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("what", ["pixels", "labels"])
def test_records_of_other_images_or_labels_are_refused(tmp_path: Path, part: str, what: str) -> None:
    splits = digits_splits()
    attacked(tmp_path, Own())
    named = "training" if part == "train" else part
    with pytest.raises(AttackError, match=f"is of another {named} images"):
        attacked(tmp_path, Own(), replace(splits, **{part: other(getattr(splits, part), what)}))


def test_records_of_other_normalisation_pools_and_networks_are_refused(tmp_path: Path) -> None:
    splits = digits_splits()
    attacked(tmp_path, Own())
    with pytest.raises(AttackError, match=r"is of another normalisation \(\[\[0\.\d+\], .* there, \[\["):
        attacked(tmp_path, Own(), replace(splits, mean=(splits.mean[0] + 0.01,)))
    with pytest.raises(AttackError, match=r"is of another pool \(null there, digest [0-9a-f]{8} here\)"):
        attacked(tmp_path, Own(), pool=other(splits.train, "pixels"))
    with pytest.raises(AttackError, match="is of another architecture"):
        attacked(tmp_path, Own(), architecture=lambda _seed: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_what_was_made_in_another_precision_is_not_taken_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "auto" stands for float32 on a processor and for bfloat16 on a GPU."""
    attacked(tmp_path, Own())
    monkeypatch.setattr(sys.modules["cloister.attack.bench"], "precision_on", lambda _place, _precision: "bfloat16")
    with pytest.raises(AttackError, match="precision float32 there, bfloat16 here"):
        attacked(tmp_path, Own())


def test_another_effort_is_told_by_what_differs(tmp_path: Path) -> None:
    attacked(tmp_path, Own())
    other = replace(EFFORT, rates=(0.1, 0.2), augmentation=Augmentation(crop=2))
    with pytest.raises(AttackError) as caught:
        attacked(tmp_path, Own(), effort=other)
    told = caught.value.message.partition("is of another ")[2]
    assert told == ("effort (rates [0.05] there, [0.1, 0.2] here, augmentation.crop 0 there, 2 here)")


def test_trainings_are_those_of_the_same_start_and_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[str] = []

    def fit(module: nn.Module, *_data: Any, folder: Path, **_more: Any) -> Fitted:
        places.append(folder.name)
        return Fitted(module, 0.5, 1, [], 0.0)

    def trained(splits: Splits, start: nn.Module) -> str:
        attacker = Attacker(Own(), splits, lambda _seed: network(), EFFORT, 0, tmp_path, "cpu", splits.train)
        attacker.train({"start": start}, splits.train, "key")
        return places.pop()

    monkeypatch.setattr("cloister.attack.attacker.fit", fit)
    splits, start = digits_splits(), network()
    first = trained(splits, start)
    assert trained(splits, network()) == first
    # so few that he chooses on all of them
    few = replace(splits, validation=splits.validation.take(range(90)))
    assert trained(few, start) != trained(replace(few, validation=other(few.validation, "labels")), start)
    assert trained(replace(splits, mean=(splits.mean[0] + 0.01,)), start) != first
    linear = nn.Sequential(start[0], nn.Identity(), *start[2:])
    assert trained(splits, linear) != first


def test_records_of_older_benches_are_made_anew_and_damaged_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "records" / "own_direct_0.json"
    attacked(tmp_path, Own())
    right = json.loads(path.read_text())
    older = {"target": "0" * 64, "effort": right["identity"]["effort"], "pool": 1527, "data": ["digits", 1527]}
    for kept in ({"identity": older, "method": "3, 3 of 2 and 3"}, {"identity": older}, {}):
        path.write_text(json.dumps({**kept, "records": []}))
        attacked(tmp_path, Own())
        saved = json.loads(path.read_text())
        assert (saved["method"], saved["identity"]) == (METHOD, right["identity"])
        assert saved["records"][0]["accuracy"] == right["records"][0]["accuracy"]
    for damaged in ("[]", "{", json.dumps({"method": METHOD}), json.dumps({"method": METHOD, "identity": []})):
        path.write_text(damaged)
        with pytest.raises(AttackError, match=r"own_direct_0\.json is damaged"):
            attacked(tmp_path, Own())


def test_a_part_or_run_that_fails_is_named() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    broken, blind = Own(), Own(whole=True)
    broken.part, blind.part = Pair(), nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(AttackError, match="features of 'own' failed: a tuple is answered"):
        bench(broken, digits_splits(), network(), attacks=["direct"], effort=EFFORT, device="cpu", quiet=True)
    blind.features = lambda: network()[:1]  # type: ignore[method-assign]
    with pytest.raises(AttackError, match="observed of 'own' failed"):
        bench(blind, digits_splits(), network(), attacks=["observe"], effort=EFFORT, device="cpu", quiet=True)


def test_targets_whose_names_look_alike_as_files_keep_records_apart(tmp_path: Path) -> None:
    names = ["pruned 大", "pruned 小", "v 1", "v-1", "pruned", "mine_2.onnx"]
    assert len({file_name(name) for name in names}) == len(names)
    for name in ("v-1", "pruned", "mine_2.onnx"):
        assert file_name(name) == name, "folders of plain names stay valid"
    splits, linear = digits_splits(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for name, model in (("pruned 大", network()), ("pruned 小", linear)) * 2:
        target = BlackBox(model, splits, name)
        bench(target, splits, network(), attacks=["direct"], effort=EFFORT, folder=tmp_path, device="cpu", quiet=True)


def test_digests_are_of_bytes_of_any_type() -> None:
    assert digest_of("a", torch.arange(3)) == digest_of("a", torch.arange(3).view(3, 1))
    kinds = (torch.bfloat16, torch.float32, torch.bool, torch.int64)
    assert len({digest_of("a", torch.ones(2, 3).to(kind)) for kind in kinds}) == len(kinds)
    assert digest_of("a", torch.tensor(1.0), torch.zeros(0, 2))

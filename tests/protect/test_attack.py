# SPDX-License-Identifier: BSD-2-Clause
"""The attack bench: its bounds, what it breaks, what it refuses."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from digits_data import digits_splits
from torch import nn

from cloister.attack import AttackError, BlackBox, Effort, Exposed, LeakedFile, SeenRun, WhiteBox, bench
from cloister.attack.attacker import Attacker
from cloister.attack.attacks.mask import masked
from cloister.attack.attacks.observe import read_locks
from cloister.attack.attacks.prune import pruned
from cloister.attack.attacks.signs import turned_to
from cloister.attack.surgery import Frozen, fresh, has_normalisation, kept, renormalised, transplanted
from cloister.cli.main import cloister
from cloister.protect.edgepro import LockSettings, fold_in, fold_out
from cloister.protect.edgepro.chance import SeededChance
from cloister.protect.edgepro.draw import draw_locks
from cloister.protect.edgepro.exposed import ExposedPrefix, LeakedLock, prefix_before
from cloister.protect.edgepro.folding import fold_normalisation
from cloister.protect.edgepro.layers import lockable
from cloister.protect.edgepro.lock import Locked
from cloister.protect.training import Augmentation, Recipe, accuracy, fit, network

EFFORT = Effort((0.1,), (50,), (0.05,), (0.1,), epochs=2, steps=40, trial=10, pruned=(0.1, 0.3), validation=150)
WHITE, BLACK = "white box (unprotected)", "black box (queries only)"


@cache
def victim() -> nn.Module:
    recipe = Recipe(epochs=12, batch=64, rate=0.1, augmentation=Augmentation(crop=1), seed=3)
    return fit(network("digits", 1, 10, 5), digits_splits(), recipe, device="cpu", quiet=True).module


@cache
def folded() -> nn.Module:
    return fold_normalisation(victim())


@cache
def lock() -> Locked:
    """Locks as drawn, without lock training: enough for a network that guesses, and whose password is known."""
    locks = draw_locks(folded(), digits_splits(), LockSettings(constant_share=0.0), SeededChance(0))
    return Locked(fold_out(folded(), locks), locks, {}, digits_splits().shape)


def images(count: int = 100) -> torch.Tensor:
    splits = digits_splits()
    return splits.normalise(splits.test.pixels[:count])


def answers(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module.eval()(images())
    return result


def test_an_unprotected_model_is_broken_and_the_black_box_lies_below(tmp_path: Path) -> None:
    splits = digits_splits()
    seen = SeenRun(lock(), splits)
    report = bench(seen, splits, victim(), effort=EFFORT, folder=tmp_path / "work", device="cpu", quiet=True)
    own = accuracy(victim(), splits.test, splits)
    white = report.find(WHITE, "direct")
    assert white["accuracy"] == pytest.approx(own) and white["fidelity"] == 1
    guess = report.find(BLACK, "direct")
    assert guess["accuracy"] == 0.1 and white["ratio"] == pytest.approx(own / 0.1)
    for attack in ("finetune", "steal"):
        high, low = report.find(WHITE, attack), report.find(BLACK, attack)
        assert high["accuracy"] > own - 0.05 and low["accuracy"] < high["accuracy"] - 0.03
        assert low["ratio"] == 1 and high["above"] == pytest.approx(high["accuracy"] - low["accuracy"])
    assert report.find(seen.name, "direct")["accuracy"] < 0.5
    opened = report.find(seen.name, "observe")
    assert opened["accuracy"] == pytest.approx(own, abs=0.01), "whoever sees locked tensors has the password"
    ran = {record["attack"] for record in report.records if record["target"] == seen.name}
    assert {"head", "mask", "mask, fine-tuned", "prune", "prune, fine-tuned", "signs", "signs, fine-tuned"} <= ran
    assert not {r["attack"] for r in report.records if r["target"] == WHITE} & {"mask", "prune", "signs", "observe"}

    paths = report.write(tmp_path / "report")
    assert json.loads(paths[0].read_text())["records"] == report.records
    table = paths[1].read_text()
    assert WHITE in table and BLACK in table and seen.name in table and f"{own:.1%}" in table
    assert "trained 40 steps of 64 images, 10 in short trials, at learning rates 0.05 (0.1 for masks)" in table
    assert "in float32. With fewer steps" in table
    assert "40 steps at rates 0.05, float32" in paths[2].read_text(), "not `auto`: what it stood for"
    shapes = ElementTree.fromstring(paths[2].read_text())
    bars = [shape for shape in shapes.iter() if shape.tag.endswith("rect") and len(shape)]
    assert len(bars) == len(report.records)

    with pytest.MonkeyPatch.context() as patch:  # a second call computes nothing
        patch.setattr("cloister.attack.attacker.fit", None)
        again = bench(seen, splits, victim(), effort=EFFORT, folder=tmp_path / "work", device="cpu", quiet=True)
    assert again.records == report.records
    with pytest.raises(AttackError, match=r"is of another effort \(steps 40 there, 41 here\)"):
        bench(seen, splits, victim(), effort=replace(EFFORT, steps=41), folder=tmp_path / "work", quiet=True)


def test_figures_of_attackers_who_did_something_else_are_made_anew(tmp_path: Path) -> None:
    splits = digits_splits()

    def attacked() -> float:
        report = bench(
            [], splits, victim(), effort=EFFORT, attacks=["direct"], folder=tmp_path, device="cpu", quiet=True
        )
        return float(report.find(WHITE, "direct")["accuracy"])

    right = attacked()
    path = next(path for path in (tmp_path / "records").iterdir() if path.name.startswith("white"))
    saved = json.loads(path.read_text())
    saved["records"][0]["accuracy"] = 0.25
    path.write_text(json.dumps(saved))
    assert attacked() == 0.25, "kept"
    for other in ({**saved, "method": "1"}, {key: value for key, value in saved.items() if key != "method"}):
        path.write_text(json.dumps(other))
        assert attacked() == right and json.loads(path.read_text())["method"] == saved["method"]


def test_a_prefix_is_attacked_by_what_it_tells() -> None:
    splits = digits_splits()
    late = replace(lock(), locks={"8": lock().locks["8"]}, module=folded())
    prefix = ExposedPrefix(late, splits)
    report = bench(prefix, splits, victim(), effort=EFFORT, attacks=["finetune", "head"], device="cpu", quiet=True)
    assert report.find(prefix.name, "finetune")["start"] == "exposed part"
    assert report.find(prefix.name, "head")["above"] > 0, "trained features tell more than a tenth of the data"
    assert not [record for record in report.records if record["target"] == BLACK and record["attack"] == "head"]


def test_a_wrong_input_is_refused() -> None:
    splits, black = digits_splits(), BlackBox(victim(), digits_splits(), "mine")

    class Shared(WhiteBox):
        def module(self) -> nn.Module:
            return self._module

    class Scores(BlackBox):
        def query(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(pixels), 10)

    for targets, names, message in (
        (black, ["teleport"], "no attacks"),
        (black, [], "no attack is named"),
        ([black, black], None, "several targets are named mine"),
        (BlackBox(victim(), splits, WHITE), None, "several targets"),
        (Shared(victim(), splits, "same"), None, "the same at every call"),
        (Scores(victim(), splits, "scores"), None, r"float32 \(2, 10\)"),
        (WhiteBox(network("digits", 1, 7, 0), splits, "seven"), None, r"answers \(2, 7\)"),
    ):
        with pytest.raises(AttackError, match=message):
            bench(targets, splits, victim(), attacks=names, effort=EFFORT, quiet=True)  # type: ignore[arg-type]
    with pytest.raises(AttackError, match="no layers"):
        SeenRun(lock(), splits, ["nowhere"])


@pytest.mark.parametrize(
    "wrong", [{"shares": ()}, {"shares": (1.5,)}, {"queries": (0,)}, {"rates": ()}, {"steps": 0}, {"pruned": (1.0,)}]
)
def test_an_effort_that_tries_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(AttackError):
        Effort(**wrong)  # type: ignore[arg-type]


def test_normalisation_is_put_back_without_a_changed_answer() -> None:
    again = renormalised(folded(), images())
    assert has_normalisation(again) and not has_normalisation(folded())
    assert torch.allclose(answers(again), answers(folded()), atol=1e-3)
    assert not torch.allclose(answers(renormalised(folded(), images(), anew=True)), answers(folded()), atol=0.1)


def test_weights_are_drawn_anew_but_for_those_kept() -> None:
    drawn, some = fresh(victim(), 1), kept(victim(), 1, 1)
    first, *others = [name for name, layer in victim().named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    own, new, mixed = (dict(module.named_parameters()) for module in (victim(), drawn, some))
    assert torch.equal(mixed[f"{first}.weight"], own[f"{first}.weight"])
    assert torch.equal(mixed["1.weight"], own["1.weight"]), "the normalisation behind it is kept too"
    for name in others:
        assert torch.equal(mixed[f"{name}.weight"], new[f"{name}.weight"])
        assert not torch.equal(new[f"{name}.weight"], own[f"{name}.weight"])
    part = prefix_before(folded(), "8")
    whole = transplanted(part, network("digits", 1, 10, 9))
    assert whole is not None and torch.equal(whole.get_submodule("3").weight, folded().get_submodule("3").weight)
    assert transplanted(part, network("lenet5", 1, 10, 9)) is None


def test_fresh_networks_begin_as_exposed_ones_do_but_for_their_weights() -> None:
    splits, black = digits_splits(), BlackBox(victim(), digits_splits())

    def begun(target: Exposed, architecture: Callable[[int], nn.Module]) -> Attacker:
        return Attacker(target, splits, architecture, EFFORT, 0, None, "cpu", splits.train)

    attacker = begun(black, lambda seed: network("digits", 1, 10, seed))
    found = attacker.fresh_starts(splits.train)
    assert not attacker.starts(splits.train), "nothing is exposed"
    assert len(found) == len(begun(LeakedLock(lock(), splits), attacker.architecture).starts(splits.train))
    counts = {name: sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
              for name, module in found.items()}  # fmt: skip
    assert sorted(counts.values()) == [2, 2, 3, 3, 3], "the architecture's own, and behind every layer but the last"
    theirs = [tensor for tensor in folded().state_dict().values() if tensor.ndim > 1]
    firsts = []
    for module in found.values():
        weights = [layer.weight.detach() for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        assert not any(torch.equal(weight, tensor) for weight in weights for tensor in theirs)
        firsts.append(float(weights[0].sum()))
    assert len(set(firsts)) == len(found), "draws of their own"

    class Branching(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    odd = begun(black, lambda _seed: Branching(nn.Flatten(), nn.Linear(64, 10)))
    assert list(odd.fresh_starts(splits.train)) == ["scratch, draw 1", "scratch, draw 2"]


def test_a_frozen_part_stays_as_it_is() -> None:
    part = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {key: value.clone() for key, value in part.state_dict().items()}
    frozen = Frozen(part).train()
    frozen(torch.randn(8, 1, 8, 8))
    assert all(torch.equal(value, before[key]) for key, value in part.state_dict().items())
    assert not [parameter for parameter in frozen.parameters() if parameter.requires_grad]


def test_a_password_is_read_off_what_is_seen() -> None:
    seen = SeenRun(lock(), digits_splits()).observed(digits_splits().test.pixels[:50])
    found = read_locks(lock().module, images(50), seen)
    for name, own in lock().locks.items():
        scales, values = own.spread(len(found[name].scales), "cpu")
        assert torch.allclose(found[name].scales, scales, atol=1e-2)
        assert torch.allclose(found[name].values, values, atol=1e-2 * float(values.abs().max() + 1))
    assert torch.equal(answers(fold_in(lock().module, found)).argmax(1), answers(folded()).argmax(1))


def test_masks_start_as_they_say_and_only_they_are_learned() -> None:
    for how in ("plain", "normalised"):
        assert torch.allclose(answers(masked(folded(), images(), how, 0)), answers(folded()), atol=1e-3)
    undecided = masked(folded(), images(), "undecided", 0)
    learned = [parameter for parameter in undecided.parameters() if parameter.requires_grad]
    assert all(parameter.ndim == 1 for parameter in learned) and len(learned) == 2 * len(lockable(folded()))
    scales = torch.cat([layer.weight for layer in undecided.modules() if isinstance(layer, nn.BatchNorm2d)])
    assert 0.2 < float((scales < 0).float().mean()) < 0.8


def test_a_mask_can_be_learned_behind_channels_that_are_never_above_zero() -> None:
    dead = copy.deepcopy(folded())
    hidden = list(lockable(dead).values())[-1]
    with torch.no_grad():
        hidden.bias -= 1000
    differ = {
        how: float(answers(masked(dead, images(), how, 0)).std(0).max()) for how in ("plain", "normalised", "anew")
    }
    assert differ["plain"] == differ["normalised"] == 0, "every image gets the same answer, and no gradient says why"
    assert differ["anew"] > 0.1


def test_pruning_switches_the_right_channels_off() -> None:
    activations = {name: torch.arange(float(layer.weight.shape[0])) for name, layer in lockable(folded()).items()}
    most = lockable(pruned(folded(), activations, 0.25, "most active", "mean"))["0"]
    assert torch.all(most.weight[12:] == 0) and torch.all(most.weight[:12].abs().sum((1, 2, 3)) > 0)
    assert torch.equal(most.bias[12:], torch.tensor([12.0, 13.0, 14.0, 15.0]))
    least = lockable(pruned(folded(), activations, 0.25, "least active", "0"))["0"]
    assert torch.all(least.weight[:4] == 0) and torch.all(least.bias[:4] == 0) and torch.all(least.weight[4:].any())


@torch.no_grad()
def test_guessed_signs_turn_every_channel_to_one_side() -> None:
    for side in (1, -1):
        turned = turned_to(lock().module, images(), side, lockable(lock().module))
        found: list[torch.Tensor] = []

        def hook(_layer: nn.Module, _inputs: object, z: torch.Tensor, found: list[torch.Tensor] = found) -> None:
            found.append(z.transpose(0, 1).flatten(1))

        for layer in lockable(turned).values():
            layer.register_forward_hook(hook)
        turned(images())
        assert len(found) == len(lockable(turned))
        for rows in found:
            assert float((side * (rows - rows.mean(1, keepdim=True)).pow(3).mean(1)).min()) > -1e-3


def test_the_command_attacks_files(tmp_path: Path) -> None:
    splits, made = digits_splits(), lock()
    whole = {f"{part}_{kind}": getattr(getattr(splits, part), field).numpy()
             for part in ("train", "test") for kind, field in (("image", "pixels"), ("label", "labels"))}  # fmt: skip
    np.savez(tmp_path / "digits.npz", **whole)
    torch.save(victim().state_dict(), tmp_path / "victim.pt")
    made.save(tmp_path / "locked", "digits")
    arguments = [
        "attack", "cloister.protect.training.networks:Digits", "--checkpoint", str(tmp_path / "victim.pt"),
        "--data", str(tmp_path / "digits.npz"), "-o", str(tmp_path / "out"), "--locked",
        str(tmp_path / "locked" / "locked.onnx"), "--password", str(tmp_path / "locked" / "password.pwd"),
        "--attacks", "direct,head", "--steps", "10", "--rates", "0.05", "--device", "cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(cloister, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "attacks.svg" in result.output
    records = json.loads((tmp_path / "out" / "attacks.json").read_text())["records"]
    direct = {record["target"]: record for record in records if record["attack"] == "direct"}
    assert direct["locked locked"]["accuracy"] < 0.5 < direct[WHITE]["accuracy"]
    assert [record for record in records if (record["target"], record["attack"]) == ("locked locked", "head")]
    half = CliRunner().invoke(cloister, arguments[:10])
    assert half.exit_code != 0 and "belong together" in str(half.exception)
    seen = [*arguments[:6], "-o", str(tmp_path / "seen"), *arguments[8:12], "--attacks", "observe", "--device", "cpu"]
    none = CliRunner().invoke(cloister, seen)
    assert "no authorised runs to observe" in str(none.exception) and "--seen all" in str(none.exception)
    for chosen, opened in (("all", True), ("0:out", False)):
        observed = CliRunner().invoke(
            cloister, [*seen, "--seen", chosen, "-o", str(tmp_path / chosen)], catch_exceptions=False
        )
        assert observed.exit_code == 0, observed.output
        records = json.loads((tmp_path / chosen / "attacks.json").read_text())["records"]
        (read,) = [record for record in records if record["attack"] == "observe"]
        assert read["target"] == "locked locked, runs seen"
        assert (read["accuracy"] > 0.9) == opened, "whoever sees all locked tensors has the password, not by one alone"
    wrong = CliRunner().invoke(cloister, [*seen, "--seen", "nowhere"])
    assert "no layer that writes nowhere" in str(wrong.exception) and "0:out" in str(wrong.exception)
    text = CliRunner().invoke(cloister, ["attack", "--help"]).output
    assert re.search(r"cloister attack my_models:network .*--data", text)


def test_a_leaked_file_answers_as_the_authorised_model() -> None:
    splits = digits_splits()
    leaked = LeakedFile(lock().module, folded(), splits, "file")
    other = LeakedLock(lock(), splits)
    assert torch.equal(leaked.query(splits.test.pixels), other.query(splits.test.pixels))
    assert leaked.module() is not leaked.module()

# SPDX-License-Identifier: BSD-2-Clause
"""Pruning: what is removed, the budget, resuming, and what becomes of a pruned model behind it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from digits_data import digits_file, digits_splits
from torch import nn

from cloister.cli.main import cloister
from cloister.compile import compile_onnx
from cloister.native import NativeEngine
from cloister.protect.edgepro import LockSettings, lock_model
from cloister.protect.prune import CRITERIA, Pruned, PrunedInClear, PruneSettings, prune_model
from cloister.protect.prune.channels import multiply_accumulates, prunable, remove, widths
from cloister.protect.prune.choose import choose, instructions
from cloister.protect.prune.criteria import scores
from cloister.protect.prune.prune import Step, within
from cloister.protect.prune.report import full_report, quantise
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
from cloister.protect.training.evaluate import onnx_accuracy

VICTIM = Recipe(epochs=12, batch=64, rate=0.1, augmentation=Augmentation(crop=1), seed=3)
TUNING = Recipe(epochs=3, batch=64, rate=0.05, clip=5.0, augmentation=Augmentation(crop=1))
SETTINGS = PruneSettings(steps=2, target=0.3, images=500, recipe=TUNING, final=3, budget=2.0)
SHAPE = (1, 8, 8)


@cache
def victim() -> nn.Module:
    return fit(network("digits", 1, 10, 5), digits_splits(), VICTIM, device="cpu", quiet=True).module


def prune(settings: PruneSettings = SETTINGS, folder: Path | None = None, module: nn.Module | None = None) -> Pruned:
    return prune_model(module or victim(), digits_splits(), settings, folder=folder, device="cpu", quiet=True)


@cache
def pruned() -> Pruned:
    return prune()


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def images(count: int) -> np.ndarray:
    splits = digits_splits()
    array: np.ndarray = splits.normalise(splits.test.pixels[:count]).numpy()
    return array


def test_pruned_channels_are_gone_from_the_exported_model(tmp_path: Path) -> None:
    pruned().save(tmp_path)
    shapes = [tuple(tensor.dims) for tensor in onnx.load(tmp_path / "pruned.onnx").graph.initializer]
    left = widths(pruned().module)
    assert all(left[name] <= width for name, width in widths(victim()).items()) and left != widths(victim())
    assert left["10"] == 10, "classes stay"
    assert {(left["0"], 1, 3, 3), (left["3"], left["0"], 3, 3), (10, left["8"])} <= set(shapes)
    assert multiply_accumulates(pruned().module, SHAPE) <= 0.3 * multiply_accumulates(victim(), SHAPE)
    before, after = (sum(np.prod(s) for s in found) for found in
                     (exported_shapes(victim(), tmp_path), shapes))  # fmt: skip
    assert after < 0.5 * before


def exported_shapes(module: nn.Module, folder: Path) -> list[tuple[int, ...]]:
    path = export_onnx(module, SHAPE, folder / "whole.onnx")
    return [tuple(tensor.dims) for tensor in onnx.load(path).graph.initializer]


def test_accuracy_stays_within_the_budget_and_is_judged_on_validation_images() -> None:
    splits = digits_splits()
    lost = accuracy(victim(), splits.validation, splits) - accuracy(pruned().module, splits.validation, splits)
    assert 100 * lost <= SETTINGS.budget
    assert pruned().report["test"]["pruned"] == accuracy(pruned().module, splits.test, splits) > 0.93
    assert all("test" not in step for step in pruned().report["steps"]), "steps are not judged on test images"


def test_a_budget_that_no_step_meets_leaves_the_model_as_it_was() -> None:
    hopeless = replace(SETTINGS, target=0.02, steps=1, criterion="random", slack=0.0, budget=0.0, distil=0.0,
                       refine=1, final=0, recipe=replace(TUNING, epochs=1, rate=1e-6))  # fmt: skip
    kept = prune(hopeless)
    assert kept.final.number == 0 and equal(kept.module, victim())
    assert [step.accepted for step in kept.steps][:2] == [True, False]
    assert len(kept.steps) == 3 and kept.steps[2].macs > kept.steps[1].macs, "a smaller step was tried"
    assert not kept.report["reached_target"]


def test_a_smaller_step_is_tried_where_the_first_retry_comes_to_what_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = replace(SETTINGS, target=0.5, steps=1, round_to=8, criterion="random", slack=0.0, budget=0.0, distil=0.0,
                     refine=2, final=0, recipe=replace(TUNING, epochs=1, rate=1e-6))  # fmt: skip
    once = prune(replace(coarse, refine=1))
    assert [step.accepted for step in once.steps] == [True, False], "half of the way is the same channels again"
    made = prune(coarse, folder=tmp_path)
    assert [step.accepted for step in made.steps] == [True, False, False] and made.steps[2].macs > made.steps[1].macs
    assert not made.report["exhausted"], "there is more to remove; it costs too much"
    with monkeypatch.context() as patch:
        patch.setattr("cloister.protect.prune.prune.scores", lambda *_, **__: pytest.fail("ranked anew"))
        again = prune(coarse, folder=tmp_path)
    assert [step.macs for step in again.steps] == [step.macs for step in made.steps], "a finished run is only loaded"


def test_the_last_fine_tuning_is_not_repeated_in_vain(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    idle = replace(SETTINGS, target=0.2, steps=3, criterion="random", slack=100.0, budget=0.5, distil=0.0, final=1,
                   recipe=replace(TUNING, epochs=1, rate=1e-6))  # fmt: skip
    made = prune_model(victim(), digits_splits(), idle, folder=tmp_path, device="cpu")
    hopeless = [step for step in made.steps if step.lost > idle.budget]
    assert len(hopeless) > 1, "nothing to be shown here"
    assert len(list(tmp_path.glob("final-*"))) == 1 + (made.final.number > 0)
    assert capfd.readouterr().err.count("not fine-tuned for long") == len(hopeless) - 1
    assert made.final.lost <= idle.budget
    assert [step.number for step in made.refused] == [hopeless[-1].number], "what was tried is told"
    assert made.report["refused"][0]["lost"] > idle.budget
    full_report(made, digits_splits(), tmp_path, int8=False)
    assert f"| step {hopeless[-1].number} trained on (refused) | fp32 |" in (tmp_path / "report.md").read_text()


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloister.protect.prune import prune as room
    from cloister.protect.prune.distil import Distillation

    class Stopped(Distillation):
        calls = 0

        def loss(
            self, module: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
        ) -> torch.Tensor:
            type(self).calls += 1
            if type(self).calls == 100:  # 17 batches an epoch, 3 epochs a step
                raise KeyboardInterrupt
            return super().loss(module, images, labels, generator)

    Stopped.__qualname__ = Distillation.__qualname__
    with monkeypatch.context() as patch:
        patch.setattr(room, "Distillation", Stopped)
        with pytest.raises(KeyboardInterrupt):
            prune(folder=tmp_path)
    assert (tmp_path / "step-02" / "checkpoint.pt").exists() and not (tmp_path / "final-02").exists()
    assert equal(prune(folder=tmp_path).module, pruned().module)
    assert equal(prune(folder=tmp_path).module, pruned().module), "a finished run is only loaded"
    with pytest.raises(TrainingError, match=r"target 0.3 there, 0.4 here"):
        prune(replace(SETTINGS, target=0.4), folder=tmp_path)


def test_what_another_run_chose_and_did_not_train_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    small, large = (replace(SETTINGS, steps=1, target=target, final=0, budget=100.0) for target in (0.1, 0.8))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("cloister.protect.prune.prune.fit", interrupted)
        prune(small, folder=tmp_path)
    assert (tmp_path / "step-01" / "step.json").exists()
    made = prune(large, folder=tmp_path)
    assert made.final.macs > 0.5 * made.steps[0].macs


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_criterion_takes_the_least_worthy_channels(criterion: str, scope: str) -> None:
    settings = replace(SETTINGS, criterion=criterion, scope=scope, round_to=1, least=2)
    module = victim()
    groups = prunable(module, SHAPE)
    assert [group.layer for group in groups] == ["0", "3", "8"], "not the answer's layer"
    worth = scores(module, groups, digits_splits(), settings, seed=1, device="cpu")
    assert set(worth) == ({"0", "3"} if criterion == "bn" else {"0", "3", "8"})
    wanted = multiply_accumulates(module, SHAPE) // 2
    smaller, removed = choose(module, groups, worth, wanted, SHAPE, settings)
    assert 0.8 * wanted < multiply_accumulates(smaller, SHAPE) <= wanted
    for layer, gone in removed.items():
        kept = [channel for channel in range(len(worth[layer])) if channel not in gone]
        assert len(kept) == widths(smaller)[layer] >= 2
        assert worth[layer][gone].max() <= worth[layer][kept].min()


def test_channels_that_save_more_instructions_go_first() -> None:
    groups = prunable(victim(), SHAPE)
    worth = {group.layer: torch.ones(group.width) for group in groups}
    wanted = multiply_accumulates(victim(), SHAPE) - 1
    settings = replace(SETTINGS, weigh="instructions", round_to=8, least=8)
    _, removed = choose(victim(), groups, worth, wanted, SHAPE, settings)
    saved = {
        group.layer: instructions(victim(), SHAPE)
        - instructions(remove(victim(), {group.layer: list(range(8))}, SHAPE), SHAPE)
        for group in groups
    }
    assert list(removed) == [max(saved, key=lambda layer: saved[layer])]


def test_the_taylor_criterion_tells_dead_channels_from_living_ones() -> None:
    module = load_model(victim())
    groups = prunable(module, SHAPE)
    dead = remove(module, {}, SHAPE)
    with torch.no_grad():
        dead.get_submodule("3").weight[:, 5] = 0  # nobody reads channel 5 of layer 0
    worth = scores(dead, groups, digits_splits(), SETTINGS, seed=0, device="cpu")
    assert worth["0"][5] == 0 and (worth["0"] > 0).sum() == 15
    smaller = remove(dead, {"0": [5]}, SHAPE)
    given = torch.from_numpy(images(20))
    with torch.no_grad():
        assert torch.allclose(smaller(given), dead(given), atol=1e-4), "removing it changes no answer"


def test_channels_that_are_added_up_go_together() -> None:
    module = network("resnet20", 3, 10, 0)
    groups = {group.layer: group for group in prunable(module, (3, 32, 32))}
    assert len(groups) == 12, "three stages, and the inside of nine blocks"
    smaller = remove(module, {"0": [1, 2], "3.first.0": [0]}, (3, 32, 32))
    after = widths(smaller)
    assert after["0"] == after["3.second.0"] == after["5.second.0"] == 14 and after["3.first.0"] == 15
    assert after["6.second.0"] == 32 and after["14"] == 10


def test_the_compiled_pruned_model_answers_as_torch_does(tmp_path: Path) -> None:
    pruned().save(tmp_path)
    given = images(20)
    with torch.no_grad():
        expected = pruned().module(torch.from_numpy(given)).numpy()
    compiled, engine = compile_onnx(tmp_path / "pruned.onnx"), NativeEngine()
    got = np.concatenate([engine.run(compiled, image[None])["logits"] for image in given])
    assert np.allclose(got, expected, atol=1e-3)
    whole = compile_onnx(export_onnx(victim(), SHAPE, tmp_path / "whole.onnx"))
    assert sum(map(len, compiled.partitions)) < 0.6 * sum(map(len, whole.partitions))
    assert compiled.arena_size < whole.arena_size


def test_the_pruned_model_in_8_bits(tmp_path: Path) -> None:
    pruned().save(tmp_path)
    splits = digits_splits()
    path = quantise(tmp_path / "pruned.onnx", splits, tmp_path / "int8.onnx")
    assert onnx_accuracy(path, splits.test, splits) > pruned().report["test"]["pruned"] - 0.02
    compiled, engine = compile_onnx(path), NativeEngine()
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    given = images(50)
    theirs = session.run(None, {"image": given})[0].argmax(1)
    ours = [int(engine.run(compiled, image[None])["logits"].argmax()) for image in given]
    assert np.mean(theirs == ours) > 0.95


def test_prune_first_then_lock(tmp_path: Path) -> None:
    splits = digits_splits()
    lock = LockSettings(constant_share=0.0, recipe=Recipe(epochs=5, batch=64, rate=0.03, clip=5.0))
    pruned().save(tmp_path)
    locked = lock_model(pruned().module, splits, lock, device="cpu", quiet=True)
    assert locked.report["test"]["with_password"] > 0.9 > 0.35 > locked.report["test"]["without_password"]
    locked.save(tmp_path, "digits")
    assert [tuple(t.dims) for t in onnx.load(tmp_path / "locked.onnx").graph.initializer if len(t.dims) == 4] == [
        tuple(t.dims) for t in onnx.load(tmp_path / "pruned.onnx").graph.initializer if len(t.dims) == 4
    ], "the locked model is as small as the pruned one"
    password = locked.password("digits")
    compile_onnx(tmp_path / "locked.onnx", password=password)
    authorised = password.apply(onnx.load(tmp_path / "locked.onnx"))
    compiled, given = compile_onnx(authorised), images(50)
    with torch.no_grad():
        expected = locked.authorised()(torch.from_numpy(given)).argmax(1).tolist()
    assert [int(NativeEngine().run(compiled, image[None])["logits"].argmax()) for image in given] == expected


def test_the_report_tells_of_every_step(tmp_path: Path) -> None:
    report = full_report(pruned(), digits_splits(), tmp_path)
    rows = {(row["step"], row["precision"]): row for row in report["rows"]}
    assert list(rows)[:2] == [("unpruned", "fp32"), ("unpruned", "int8")] and ("pruned", "int8") in rows
    first, last = rows["unpruned", "fp32"], rows["pruned", "fp32"]
    for key in ("macs", "parameters", "peak_memory", "instructions"):
        assert last[key] < first[key], key
    assert first["macs"] == first["model_macs"] and last["macs"] == last["model_macs"], "the compiler counts the same"
    assert f"{last['macs']:,}" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.svg").read_text().count("<circle") >= 4 * len(pruned().steps)
    assert json.loads((tmp_path / "report.json").read_text())["test"] == report["test"]


def test_the_command_prunes_an_onnx_file(tmp_path: Path) -> None:
    digits_file(tmp_path / "digits.npz")
    export_onnx(victim(), SHAPE, tmp_path / "victim.onnx")
    arguments = [
        "prune", str(tmp_path / "victim.onnx"), "--data", str(tmp_path / "digits.npz"), "-o", str(tmp_path / "out"),
        "--budget-accuracy", "3", "--criterion", "taylor", "--steps", "1", "--target", "0.5", "--epochs", "2",
        "--final", "0", "--device", "cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(cloister, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and "pruned_int8.onnx" in result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["macs"]["pruned"] <= 0.5 * report["macs"]["unpruned"] and report["test"]["pruned"] > 0.9
    assert {"pruned.onnx", "pruned.pt", "pruned_int8.onnx", "report.md", "report.svg"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    wrong = [*arguments[:-2], "--criterion", "bn", "-o", str(tmp_path / "other")]
    with pytest.raises(TrainingError, match="applies to no layer"):
        CliRunner().invoke(cloister, wrong, catch_exceptions=False)


def test_measuring_that_is_not_possible_is_told_before_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits_file(tmp_path / "digits.npz")
    export_onnx(victim(), SHAPE, tmp_path / "victim.onnx")
    monkeypatch.setattr("cloister.protect.prune.report.find_spec", lambda _name: None)
    given = [str(tmp_path / "victim.onnx"), "--data", str(tmp_path / "digits.npz"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cloister, ["prune", *given, "--measure", "qemu", "--device", "cpu"])
    assert "the benchmark, which is not here" in str(result.exception) and not (tmp_path / "out").exists()


def test_the_command_names_only_what_it_wrote(tmp_path: Path) -> None:
    digits_file(tmp_path / "digits.npz")
    export_onnx(victim(), SHAPE, tmp_path / "victim.onnx")
    hopeless = [
        "prune", str(tmp_path / "victim.onnx"), "--data", str(tmp_path / "digits.npz"), "-o", str(tmp_path / "out"),
        "--budget-accuracy", "0", "--criterion", "random", "--steps", "1", "--target", "0.02", "--epochs", "1",
        "--rate", "0.000001", "--final", "0", "--device", "cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(cloister, hopeless, catch_exceptions=False)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["final"]["number"] == 0, "nothing to be shown"
    assert result.exit_code == 0 and "report.svg" in result.output
    told = " ".join(result.output.split())
    assert re.search(r"within 0 points: at [\d.]+% of the multiply-accumulates [\d.]+ were lost; 1 may be; more", told)
    assert "pruned_int8.onnx" not in result.output and not (tmp_path / "out" / "pruned_int8.onnx").exists()


def test_what_loses_exactly_the_budget_is_within_it() -> None:
    images = 5000
    for right in range(images // 2, images):
        before, after = (torch.tensor([True] * count + [False] * (images - count)).float().mean().item()
                         for count in (right, right - images // 100))  # fmt: skip
        assert within(100 * (before - after), 1.0)
    assert not within(1.02, 1.0)


def test_8_bits_that_cost_more_than_the_budget_are_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = accuracy(victim(), digits_splits().validation, digits_splits())
    step = Step(0, victim(), whole, 0.0, True, 1, 1, {}, 0.0, 0, whole)
    kept = Pruned(victim(), [step], step, {"test": {}, "settings": {"budget": 2.0}}, SHAPE)
    for lost, named in ((0.019, "| unpruned | int8"), (0.021, "| unpruned (over the budget) | int8")):
        monkeypatch.setattr("cloister.protect.prune.report.onnx_accuracy", lambda *_, lost=lost: whole - lost)
        rows = full_report(kept, digits_splits(), tmp_path)["rows"]
        assert [row["accepted"] for row in rows] == [True, lost < 0.02]
        assert named in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"target": 1.5}, "target of 1.5"), ({"steps": 0}, "0 steps"), ({"criterion": "best"}, "criterion 'best'"),
     ({"budget": -1.0}, "budget of -1")],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        PruneSettings(**given)  # type: ignore[arg-type]
    assert caught.value.remedy


def test_a_model_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(TrainingError, match="no channel"):
        prune(module=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_what_is_exposed() -> None:
    exposed = PrunedInClear(pruned().module, digits_splits())
    pixels = digits_splits().test.pixels[:50]
    with torch.no_grad():
        assert torch.equal(exposed.query(pixels), pruned().module(digits_splits().normalise(pixels)).argmax(1))
    assert exposed.module() is not exposed.module()

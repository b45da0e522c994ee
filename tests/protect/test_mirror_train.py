# SPDX-License-Identifier: BSD-2-Clause
"""Pairs trained on the digits: the pair answers, the backbone does not; export, 8 bits, resumption, attackers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from digits_data import digits_splits
from foreign_network import Foreign
from torch import nn

from cloister.attack import bench
from cloister.attack.effort import Effort
from cloister.protect.mirror import Mirrored, MirrorSettings, build_pair, mirror_model, settings_with
from cloister.protect.mirror.fine_tuning import FineTuning, unevenness
from cloister.protect.mirror.mirror import REPORT_FILE
from cloister.protect.mirror.objective import PairObjective
from cloister.protect.mirror.onnx_pair import OnnxPair
from cloister.protect.mirror.readers import Readers
from cloister.protect.mirror.saliency import salient_channels
from cloister.protect.strategy import Strategy
from cloister.protect.training import Augmentation, Images, Recipe, TrainingError, accuracy, fit, network
from cloister.protect.training.evaluate import share_right

RECIPE = Recipe(epochs=12, batch=64, rate=0.1, augmentation=Augmentation(crop=1), seed=3)
STRATEGY = Strategy(taps=("2", "6"), pool=2, channels=0.5, cpm_width=12)
CHANCE = 0.1


def settings(strategy: Strategy = STRATEGY, **given: Any) -> MirrorSettings:
    values = {"epochs": 10, "batch": 64, "final": 6, "attack_every": 2, "augmentation": Augmentation(crop=1)}
    return settings_with(strategy, **{**values, **given})


@cache
def victim() -> nn.Module:
    return fit(network("digits", 1, 10, 5), digits_splits(), RECIPE, device="cpu", quiet=True).module


@cache
def mirrored(kind: str) -> Mirrored:
    made = replace(STRATEGY, backbone=kind)  # type: ignore[arg-type]
    return mirror_model(victim(), digits_splits(), settings(made), device="cpu", quiet=True)


def pixels(count: int = 100) -> torch.Tensor:
    splits = digits_splits()
    return splits.normalise(splits.test.pixels[:count])


@pytest.mark.parametrize("kind", ["tampered", "truncated", "random"])
def test_the_pair_answers_and_the_backbone_alone_does_not(kind: str) -> None:
    splits, made = digits_splits(), mirrored(kind)
    right = accuracy(victim(), splits.test, splits)
    assert accuracy(made.pair, splits.test, splits) > right - 0.05
    assert accuracy(made.backbone.alone(), splits.test, splits) < CHANCE + 0.15
    assert made.report["test"]["pair"] == pytest.approx(accuracy(made.pair, splits.test, splits))
    assert made.report["macs"]["cpm"] < 0.5 * made.report["macs"]["victim"]
    sizes = [int(np.prod(entry["shape"])) for entry in made.report["crossing"]]
    assert made.report["crossing_bytes"] == 4 * sum(sizes) == 4 * (8 * 4 * 4 + 12 * 2 * 2)


def test_frozen_backbones_stay_as_they_were_built() -> None:
    for kind in ("truncated", "random"):
        made = mirrored(kind)
        channels = salient_channels(victim(), digits_splits(), made.strategy, 0)
        built = build_pair(victim(), (1, 8, 8), 10, made.strategy, 0, channels=channels)
        state = built.backbone.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in made.backbone.state_dict().items())


@pytest.mark.parametrize("kind", ["tampered", "random"])
def test_the_files_answer_as_the_pair_does(kind: str, tmp_path: Path) -> None:
    made = mirrored(kind)
    made.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone.onnx", "cpm.onnx", "report.json"]
    files = OnnxPair(tmp_path / "backbone.onnx", tmp_path / "cpm.onnx")
    with torch.no_grad():
        own, *crossed = made.backbone(pixels())
        logits = made.pair(pixels())
    taps = files.taps(pixels().numpy())
    assert list(taps) == ["logits", "tap_0", "tap_1"]
    for name, value in zip(taps, (own, *crossed), strict=True):
        assert np.allclose(taps[name], value.numpy(), atol=1e-4), name
    assert np.allclose(files.logits(pixels().numpy()), logits.numpy(), atol=1e-4)
    secret = {value.name for value in onnx.load(tmp_path / "backbone.onnx").graph.initializer}
    assert not any(name.startswith("stages") for name in secret), "the CPM's weights are in the exposed file"
    assert json.loads((tmp_path / REPORT_FILE).read_text())["strategy"]["taps"] == ["2", "6"]


def test_taps_are_computed_as_soon_as_they_can_be(tmp_path: Path) -> None:
    mirrored("tampered").save(tmp_path)
    order = [name for node in onnx.load(tmp_path / "backbone.onnx").graph.node for name in node.output]
    convolutions = [index for index, name in enumerate(order) if name.endswith(":out")]
    assert convolutions[0] < order.index("tap_0") < convolutions[1] < order.index("tap_1") < convolutions[2]


def in_8_bits(kind: str, taps: tuple[str, ...]) -> Mirrored:
    if taps == STRATEGY.taps:  # 8 bits make no difference before the files are written
        pair = copy.deepcopy(mirrored(kind).pair)
        pair.strategy = replace(pair.strategy, precision="int8")
        return replace(mirrored(kind), pair=pair)
    made = settings(replace(STRATEGY, taps=taps, backbone=kind, precision="int8"), attack=0.0)  # type: ignore[arg-type]
    return mirror_model(victim(), digits_splits(), made, device="cpu", quiet=True)


@pytest.mark.parametrize(
    ("kind", "taps"),
    [
        ("tampered", ("2", "6")),
        ("tampered", ("9",)),  # the last layer reads it too
        ("tampered", ("image", "6", "logits")),
        ("random", ("2", "6")),
        ("random", ("image", "6", "logits")),
    ],
)
def test_in_8_bits_taps_cross_in_8_bits(kind: str, taps: tuple[str, ...], tmp_path: Path) -> None:
    splits, made = digits_splits(), in_8_bits(kind, taps)
    made.save(tmp_path)
    files = OnnxPair(tmp_path / "backbone.onnx", tmp_path / "cpm.onnx")
    crossing = files.crossing(pixels().numpy())
    assert {name: value.dtype for name, value in crossing.items()} == {
        name: np.dtype(np.float32 if name == "image" else np.int8) for name in crossing
    }
    assert len(crossing) == len(taps)
    found = share_right(files.logits, splits.test, splits)
    assert found > accuracy(made.pair, splits.test, splits) - 0.02
    report = json.loads((tmp_path / REPORT_FILE).read_text())
    assert report["test"]["pair_int8"] == pytest.approx(found, abs=0.005)


def shown(seed: int, kind: str, taps: tuple[str, ...], folder: Path, **given: Any) -> tuple[bytes, bytes]:
    """Both files of an untrained pair, from a victim and images of their own for each seed."""
    splits = digits_splits()
    dim = Images(splits.train.pixels ** (1 + seed), splits.train.labels)
    splits = replace(splits, train=dim, mean=(0.3 + seed,), std=(0.4 + seed,))
    made = replace(STRATEGY, taps=taps, backbone=kind, precision="int8", **given)  # type: ignore[arg-type]
    of = network("digits", 1, 10, 5 + seed)
    pair = build_pair(of, (1, 8, 8), 10, made, 3, channels=salient_channels(of, splits, made, 3))
    with torch.no_grad():  # as if it had been trained
        pair.cpm.last.weight += 0.1 * seed
    Mirrored(pair, {"test": {}, "validation": {}}, splits).save(folder)
    return (folder / "backbone.onnx").read_bytes(), (folder / "cpm.onnx").read_bytes()


@pytest.mark.parametrize("taps", [("2", "6"), ("image",), ("image", "6", "logits"), ("logits",)])
def test_a_random_backbone_in_8_bits_tells_nothing_of_the_data(taps: tuple[str, ...], tmp_path: Path) -> None:
    (exposed, inside), (same, other) = (shown(seed, "random", taps, tmp_path / f"{seed}") for seed in (0, 1))
    assert exposed == same, "ranges of the owner's data are in the exposed file"
    assert inside != other
    narrow = [shown(seed, "random", taps, tmp_path / f"{seed}", backbone_width=0.5)[0] for seed in (0, 1)]
    assert narrow[0] == narrow[1]
    own = [shown(seed, "truncated", ("2",), tmp_path / f"{seed}")[0] for seed in (0, 1)]
    assert own[0] != own[1], "what learned of the data shows it"


@pytest.mark.parametrize("taps", [("2", "6"), ("image", "6", "logits")])
def test_taps_of_a_random_backbone_have_one_scale_that_takes_real_images_in(
    taps: tuple[str, ...], tmp_path: Path
) -> None:
    shown(0, "random", taps, tmp_path)
    backbone, cpm = (onnx.load(tmp_path / name) for name in ("backbone.onnx", "cpm.onnx"))
    images = digits_splits().normalise(digits_splits().train.pixels).numpy()
    crossing = OnnxPair(tmp_path / "backbone.onnx", tmp_path / "cpm.onnx").crossing(images)
    for name in [value.name for value in cpm.graph.input if value.name != "image"]:
        ends = next(node for node in backbone.graph.node if name in node.output)
        begins = next(node for node in cpm.graph.node if name in node.input)
        assert (ends.op_type, begins.op_type) == ("QuantizeLinear", "DequantizeLinear")
        for one, other in zip(ends.input[1:], begins.input[1:], strict=True):
            values = [
                onnx.numpy_helper.to_array(next(value for value in model.graph.initializer if value.name == constant))
                for model, constant in ((backbone, one), (cpm, other))
            ]
            assert values[0] == values[1], name
        assert (crossing[name] == 127).mean() < 0.001, "values are cut off"
        assert crossing[name].max() > -96, "most of the range is for what never comes"


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def run(folder: Path, stop_at: int = 0) -> Mirrored:
        made = settings(epochs=2, final=2, readers=0.1)
        count = 0
        usual = PairObjective.score

        def score(self: PairObjective, *args: Any) -> float:
            nonlocal count
            count += 1
            if count == stop_at:
                raise StopError
            return usual(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PairObjective, "score", score)
            return mirror_model(victim(), digits_splits(), made, folder=folder, device="cpu", quiet=True)

    whole = run(tmp_path / "whole")
    for stop_at in (2, 2, 2):  # each call gets one epoch further
        with pytest.raises(StopError):
            run(tmp_path / "parts", stop_at)
    parts = run(tmp_path / "parts")
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.pair.state_dict().values(), parts.pair.state_dict().values(), strict=True)
    )
    same = settings(epochs=2, final=2, readers=0.1)
    other_victim = copy.deepcopy(victim())
    next(other_victim.parameters()).data[0] += 0.01
    for changed, of, says in (
        (settings(epochs=3, final=2, readers=0.1), victim(), "its settings differ .*epochs 2 there, 3 here"),
        (
            settings(replace(STRATEGY, select="first"), epochs=2, final=2, readers=0.1),
            victim(),
            "select saliency there",
        ),
        (replace(same, poor=0.5), victim(), "poor 1.0 there, 0.5 here"),
        (same, other_victim, "its model differs"),
    ):
        with pytest.raises(TrainingError, match=says):
            mirror_model(of, digits_splits(), changed, folder=tmp_path / "parts", device="cpu", quiet=True)


def test_the_attacker_in_the_loop_is_foiled_where_his_gradient_leads() -> None:
    splits, made = digits_splits(), settings(attack_steps=1, attack_rates=(0.05,))
    pair = build_pair(victim(), (1, 8, 8), 10, STRATEGY)
    pair.train()
    attacker = FineTuning(made, splits)
    assert len(attacker.images) == pytest.approx(0.1 * len(splits.train), abs=10)
    before = {name: value.clone() for name, value in pair.backbone.state_dict().items()}
    chance = torch.Generator().manual_seed(1)
    success, carrier = attacker.success(pair.backbone, pixels(), chance)
    after = pair.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "he works on a copy"
    assert float(success) > 0.1 and not success.requires_grad
    pair.backbone.zero_grad()
    carrier.backward()
    with torch.no_grad():
        for parameter in pair.backbone.parameters():
            if parameter.grad is not None:
                parameter -= 0.02 * parameter.grad
    weaker, _ = attacker.success(pair.backbone, pixels(), torch.Generator().manual_seed(1))
    assert float(weaker) < 0.9 * float(success)


def steps_of(count: int, **given: Any) -> list[tuple[float, dict[str, torch.Tensor]]]:
    """Losses and gradients of steps in which nothing is learned and the same is drawn."""
    splits, made = digits_splits(), settings(attack_steps=2, attack_rates=(0.05,), **given)
    of = network("digits", 1, 10, 5)
    pair = build_pair(of, (1, 8, 8), 10, STRATEGY)
    pair.train()
    objective = PairObjective(of, made)
    objective.begin(pair, splits, made.recipe)
    found = []
    for _ in range(count):
        pair.zero_grad()
        loss = objective.loss(pair, pixels(), splits.test.labels[:100], torch.Generator().manual_seed(1))
        loss.backward()
        gradients = {name: value.grad.clone() for name, value in pair.named_parameters() if value.grad is not None}
        found.append((float(loss.detach()), gradients))
    return found


def test_the_attacker_is_part_of_what_is_minimised() -> None:
    (without, plain), (attacked, changed), (more, _) = (steps_of(1, attack=weight)[0] for weight in (0.0, 1.0, 2.0))
    assert attacked > without + 0.01, "his success counts"
    assert more - without == pytest.approx(2 * (attacked - without), rel=1e-3), "by its weight"
    differing = {name for name, value in changed.items() if not torch.allclose(value, plain[name], atol=1e-6)}
    assert "backbone.net.0.weight" in differing
    assert all(name.startswith("backbone.") for name in differing), "nothing of his reaches the CPM"


def test_an_attack_is_begun_anew_every_so_many_steps() -> None:
    without = [loss for loss, _ in steps_of(7, attack=0.0)]
    for every in (1, 3):
        added = [loss - plain for (loss, _), plain in zip(steps_of(7, attack_every=every), without, strict=True)]
        attacked = [step for step, success in enumerate(added) if success > 0.01]
        assert attacked == list(range(0, 7, every))
        # each begins with the backbone as it is, not where the one before had arrived
        assert [added[step] for step in attacked] == pytest.approx([added[0]] * len(attacked), rel=1e-3)


def test_readers_learn_what_a_tap_tells_and_pass_a_gradient_that_hides_it() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (200,), generator=generator)
    telling = nn.functional.one_hot(labels, 10).to(torch.float32)[:, :, None, None].repeat(1, 1, 4, 4)
    telling = telling.requires_grad_()
    readers = Readers([(10, 4, 4)], 10, 0, torch.device("cpu"))
    first = float(readers.told([telling], labels).detach())
    for _ in range(30):
        told = readers.told([telling], labels)
    assert float(told.detach()) > 2 * first
    told.backward()
    assert telling.grad is not None and float(telling.grad.abs().sum()) > 0
    assert all(parameter.grad is None or parameter.requires_grad for parameter in readers.nets.parameters())


def test_tampering_costs_the_attacker_more_than_it_costs_the_owner() -> None:
    splits = digits_splits()
    effort = Effort(shares=(0.1,), queries=(50,), rates=(0.02, 0.1), epochs=4, steps=80, trial=20, validation=200)
    report = bench(
        [mirrored("tampered").exposed("tampered"), mirrored("random").exposed("random")], splits, victim(),
        attacks=("direct", "finetune", "head"), effort=effort, device="cpu", quiet=True,
    )  # fmt: skip
    white = report.find("white box (unprotected)", "finetune")["accuracy"]
    for name in ("tampered", "random"):
        assert report.find(name, "direct")["accuracy"] < CHANCE + 0.15
        assert report.find(name, "finetune")["accuracy"] < white
        assert report.find(name, "head")["fidelity"] > 0


def test_saliency_picks_the_channels_that_the_answer_depends_on() -> None:
    copied = network("digits", 1, 10, 5)
    copied.load_state_dict(victim().state_dict())
    second = copied[3]
    assert isinstance(second, nn.Conv2d)
    with torch.no_grad():
        second.weight[:, :8] = 0  # nothing reads the first eight channels of tap 2
    found = salient_channels(copied, digits_splits(), STRATEGY, 0)
    assert found["2"] == list(range(8, 16)) and len(found["6"]) == 12
    assert salient_channels(copied, digits_splits(), replace(STRATEGY, select="first"), 0) == {}


def test_image_and_logits_cross_whole() -> None:
    made = replace(STRATEGY, taps=("image", "logits"))
    assert salient_channels(network("digits", 1, 10, 5), digits_splits(), made, 0) == {}
    pair = build_pair(network("digits", 1, 10, 5), (1, 8, 8), 10, made)
    assert [crossing.shape for crossing in pair.crossings] == [(1, 8, 8), (10,)]


def test_a_network_that_is_not_ours_is_protected_too(tmp_path: Path) -> None:
    splits = digits_splits()
    torch.manual_seed(2)
    module = fit(Foreign(), splits, RECIPE, device="cpu", quiet=True).module
    taps = ("cat", "max_pool2d", "relu")
    made = mirror_model(module, splits, settings(Strategy(taps=taps), attack=0.5), device="cpu", quiet=True)
    assert made.report["test"]["pair"] > made.report["test"]["victim"] - 0.05
    assert made.report["test"]["backbone_alone"] < CHANCE + 0.15
    made.save(tmp_path)
    files = OnnxPair(tmp_path / "backbone.onnx", tmp_path / "cpm.onnx")
    with torch.no_grad():
        assert np.allclose(files.logits(pixels().numpy()), made.pair(pixels()).numpy(), atol=1e-4)


def test_unevenness_is_0_for_equal_chances_only() -> None:
    assert float(unevenness(torch.zeros(4, 10))) == pytest.approx(0, abs=1e-6)
    assert float(unevenness(torch.eye(10))) > 0.01


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"attack": -1.0}, "negative weight"),
        ({"attack_rates": ()}, "rates"),
        ({"attack_steps": 0}, "without steps"),
        ({"attack_share": 0.0}, "share"),
        ({"distil": 2.0}, "distillation"),
        ({"final": -1}, "final"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        settings_with(STRATEGY, **given)

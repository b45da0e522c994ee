# SPDX-License-Identifier: BSD-2-Clause
"""The training groundwork: models, the loop, export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from digits_data import digits_splits
from torch import nn

from cloister.protect.training import (
    Augmentation,
    Images,
    Objective,
    Recipe,
    Splits,
    TrainingError,
    accuracy,
    export_onnx,
    fit,
    load_model,
    logits_of,
    network,
)
from cloister.protect.training.source import check_trained, gives_probabilities

RECIPE = Recipe(epochs=4, batch=64, rate=0.05, augmentation=Augmentation(crop=1), seed=3)


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def train(folder: Path | None = None, recipe: Recipe = RECIPE, objective: Objective | None = None) -> nn.Module:
    return fit(
        network("digits", 1, 10, 5),
        digits_splits(),
        recipe,
        folder=folder,
        objective=objective,
        device="cpu",
        quiet=True,
    ).module


class Interrupt(Objective):
    """Stops the run in the middle of its third epoch, as a signal would."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def loss(
        self, module: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        self.steps += 1
        if self.steps == 45:
            raise KeyboardInterrupt
        return super().loss(module, images, labels, generator)


Interrupt.__qualname__ = "Objective"


def test_it_learns_and_the_same_seed_gives_the_same_network() -> None:
    first, second = train(), train()
    assert accuracy(first, digits_splits().test, digits_splits()) > 0.93
    assert equal(first, second)
    assert not equal(first, train(recipe=RECIPE.with_seed(4)))


def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, objective=Interrupt())
    assert (tmp_path / "checkpoint.pt").exists()
    resumed = train(tmp_path)
    assert equal(resumed, train())
    finished = fit(network("digits", 1, 10, 5), digits_splits(), RECIPE, folder=tmp_path, device="cpu", quiet=True)
    assert equal(finished.module, resumed)
    assert len(finished.history) == RECIPE.epochs


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path, replace(RECIPE, epochs=1))
    with pytest.raises(TrainingError, match="epochs 1 there, 2 here"):
        train(tmp_path, replace(RECIPE, epochs=2))
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match="is no checkpoint"):
        train(tmp_path)


class Watch(Objective):
    """Notes what scores are computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def score(self, module: nn.Module, splits: Splits) -> float:
        self.seen.add(module(splits.normalise(splits.validation.pixels[:2])).dtype)
        return super().score(module, splits)


@pytest.mark.parametrize(
    ("precision", "rough", "seen"),
    [
        ("bfloat16", True, torch.bfloat16),
        ("bfloat16", False, torch.float32),
        ("float32", True, torch.float32),
    ],
)
def test_scores_are_exact_unless_rough_ones_do(precision: str, rough: bool, seen: torch.dtype) -> None:
    recipe, watch, splits = replace(RECIPE, epochs=4, precision=precision), Watch(), digits_splits()
    fitted = fit(network("digits", 1, 10, 5), splits, recipe, objective=watch, device="cpu", quiet=True, rough=rough)
    assert watch.seen == {seen}
    assert fitted.score == pytest.approx(accuracy(fitted.module, splits.validation, splits), abs=0.02)


def test_images_are_not_moved_out_of_sight() -> None:
    recipe = Recipe(1, 64, augmentation=Augmentation(crop=8))
    with pytest.raises(TrainingError, match="8 x 8 cannot be moved by 8"):
        fit(network("digits", 1, 10, 0), digits_splits(), recipe, device="cpu", quiet=True)


def test_a_model_from_a_factory_and_a_checkpoint(tmp_path: Path) -> None:
    trained = train(recipe=replace(RECIPE, epochs=1))
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    loaded = load_model("cloister.protect.training.networks:Digits", tmp_path / "state.pt")
    assert equal(loaded, trained)
    with pytest.raises(TrainingError, match="does not fit"):
        load_model("cloister.protect.training.networks:LeNet5", tmp_path / "state.pt")


def test_a_checkpoint_of_several_gpus_is_loaded(tmp_path: Path) -> None:
    made = network("digits", 1, 10, 3)
    torch.save({"state_dict": nn.DataParallel(made).state_dict()}, tmp_path / "state.pt")
    assert equal(load_model(network("digits", 1, 10, 5), tmp_path / "state.pt"), made)

    class Holder(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.module = network("digits", 1, 10, seed)

    for state in (Holder(3).state_dict(), nn.DataParallel(Holder(3)).state_dict()):
        torch.save(state, tmp_path / "state.pt")
        assert equal(load_model(Holder(5), tmp_path / "state.pt"), made), "a model's own part may be called module"


def test_what_does_not_fit_of_a_checkpoint_is_named_whole(tmp_path: Path) -> None:
    wanted = nn.ModuleDict({f"a_long_name_of_a_layer_{index}": nn.Linear(2, 2, bias=False) for index in range(9)})
    given = nn.ModuleDict({"a_long_name_of_a_layer_0": nn.Linear(3, 2, bias=False), "other": nn.Linear(1, 1)})
    torch.save(given.state_dict(), tmp_path / "state.pt")
    with pytest.raises(TrainingError) as refused:
        load_model(wanted, tmp_path / "state.pt")
    assert refused.value.message.endswith(
        "it lacks a_long_name_of_a_layer_1.weight, a_long_name_of_a_layer_2.weight, a_long_name_of_a_layer_3.weight, "
        "a_long_name_of_a_layer_4.weight and 4 more; the model lacks other.weight, other.bias; "
        "a_long_name_of_a_layer_0.weight is (2, 3) and not (2, 2)"
    )
    torch.save([1], tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="does not fit the model: TypeError"):
        load_model(wanted, tmp_path / "state.pt")


@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 8, 8)), ("lenet5", (1, 28, 28)), ("resnet20", (3, 32, 32))])
def test_an_exported_model_answers_the_same_and_comes_back(
    tmp_path: Path, name: str, shape: tuple[int, int, int]
) -> None:
    module = network(name, shape[0], 10, 1)
    module(torch.randn(64, *shape))  # moves the statistics of batch normalisation
    module.eval()
    path = export_onnx(module, shape, tmp_path / "model.onnx")
    images = torch.randn(5, *shape)
    session = onnxruntime.InferenceSession(str(path))
    with torch.no_grad():
        assert np.allclose(session.run(None, {"image": images.numpy()})[0], module(images).numpy(), atol=1e-3)
        assert torch.allclose(load_model(path)(images), module(images), atol=1e-3)
    graph = onnx.load(path).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert "0:out" in {node.output[0] for node in graph.node}
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    assert b"torch" not in path.read_bytes()


def test_an_exported_model_compiles(tmp_path: Path) -> None:
    from cloister.compile import compile_onnx

    path = export_onnx(network("digits", 1, 10, 1), (1, 8, 8), tmp_path / "model.onnx")
    assert compile_onnx(path).partitions


def test_evaluation_leaves_the_network_in_its_mode() -> None:
    module = network("digits", 1, 10, 1).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert logits_of(module, digits_splits().test, digits_splits()).shape == (450, 10)
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


class Bright(nn.Module):
    """Labels 2x2 images by their mean alone: 1 above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        above = x.mean((1, 2, 3)) - self.threshold
        return torch.stack([-above, above], 1)


def test_a_good_model_of_unbalanced_classes_is_told_from_a_guess() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(2000, generator=generator) < 0.04).long()
    bright = 0.2 + 0.6 * labels.float() + 0.2 * torch.randn(2000, generator=generator)
    images = Images(bright.view(-1, 1, 1, 1).repeat(1, 1, 2, 2), labels)
    splits = Splits.make(images, images, validation=0.5, name="rare")
    middle = float(splits.normalise(torch.full((1, 1, 2, 2), 0.5)).mean())
    right = check_trained(Bright(middle), splits, "net")
    assert right == pytest.approx(accuracy(Bright(middle), splits.validation, splits))
    assert right < 1 - float(splits.validation.labels.float().mean()), "always answering 0 is right more often"
    with pytest.raises(TrainingError, match=r"net labels only 9\d.\d% .* rightly, about what guessing gets"):
        check_trained(Bright(1e6), splits, "net")
    one = replace(splits, validation=splits.validation.take(splits.validation.labels.nonzero().flatten()))
    assert check_trained(Bright(middle), one, "net") > 0.9, "a validation split may have a single class"


@pytest.mark.parametrize(("last", "probabilities"), [
    (nn.Softmax(1), True), (nn.Identity(), False), (nn.LogSoftmax(1), False), (nn.Sigmoid(), False),
])  # fmt: skip
def test_probabilities_are_told_from_logits(last: nn.Module, probabilities: bool) -> None:
    module = nn.Sequential(network("digits", 1, 10, 1), last).train()
    assert gives_probabilities(module, digits_splits()) == probabilities and module.training

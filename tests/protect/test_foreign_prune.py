# SPDX-License-Identifier: BSD-2-Clause
"""Pruning of networks of other styles: group normalisation, tokens, widths that the code fixes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from digits_data import digits_splits
from foreign_styles import Grouped, Tokens, settled
from torch import nn

from cloister.protect.prune import PruneSettings, prune_model
from cloister.protect.prune.channels import prunable, remove, widths
from cloister.protect.prune.criteria import taylor
from cloister.protect.training import Recipe, export_onnx

SHAPE = (1, 8, 8)
SETTINGS = PruneSettings(steps=1, target=0.4, refine=0, final=0, budget=100.0, images=200,
                         recipe=Recipe(epochs=1, batch=64, rate=0.02, clip=5.0))  # fmt: skip


def test_channels_that_are_normalised_together_go_in_equal_parts() -> None:
    module = settled(Grouped())
    groups = {group.layer: group for group in prunable(module, SHAPE)}
    assert groups["conv1"].sections == groups["squeeze.2"].sections == 4
    assert {"stem", "conv2"} <= set(groups["squeeze.2"].makers), "what is added up goes together"
    worth = torch.arange(24.0).flip(0)
    gone = groups["conv1"].lowest(worth, 8)
    assert gone == [4, 5, 10, 11, 16, 17, 22, 23], "the two least worthy of each six"
    smaller, images = remove(module, {"conv1": gone}, SHAPE), torch.randn(3, *SHAPE)
    assert widths(smaller)["conv1"] == 16 and smaller.norm1.num_groups == 4
    kept = torch.tensor([channel for channel in range(24) if channel not in gone])
    with torch.no_grad():
        before = module.conv1(images.expand(-1, 16, -1, -1))[:, kept]
        wanted = nn.functional.group_norm(before, 4, module.norm1.weight[kept], module.norm1.bias[kept])
        assert torch.allclose(smaller.norm1(smaller.conv1(images.expand(-1, 16, -1, -1))), wanted, atol=1e-5)


def test_a_normalisation_across_branches_leaves_them_whole() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 16, 3, padding=1)
            self.norm, self.free = nn.GroupNorm(2, 24), nn.Conv2d(24, 8, 1)
            self.head = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(torch.cat([self.left(x), self.right(x)], 1))
            return self.head(torch.relu(self.free(x)).mean((2, 3)))

    assert [group.layer for group in prunable(Branches(), SHAPE)] == ["free"]


@pytest.mark.parametrize("make", [Grouped, Tokens])
def test_pruned_channels_are_gone_from_the_file(make: type[nn.Module], tmp_path: Path) -> None:
    module = settled(make())
    made = prune_model(module, digits_splits(), SETTINGS, device="cpu", quiet=True)
    assert made.final.macs < 0.75 * made.steps[0].macs
    made.save(tmp_path)
    whole, pruned = (
        sum(torch.Size(tensor.dims).numel() for tensor in onnx.load(path).graph.initializer)
        for path in (export_onnx(module, SHAPE, tmp_path / "whole.onnx"), tmp_path / "pruned.onnx")
    )
    assert pruned < 0.8 * whole


def test_a_dead_feature_of_tokens_is_worth_nothing() -> None:
    module = settled(Tokens())
    with torch.no_grad():
        module.narrow.weight[:, 5] = 0
    groups = prunable(module, SHAPE)
    worth = taylor(module, groups, digits_splits(), 100, torch.device("cpu"))["wide"]
    assert worth[5] == 0 and int((worth == 0).sum()) == 1


def test_what_stays_whole_is_told() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free, self.fixed = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8 * 64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.fixed(torch.relu(self.free(x)))).reshape(-1, 512))

    made = prune_model(
        settled(Fixed()), digits_splits(), replace(SETTINGS, target=0.05, steps=2), device="cpu", quiet=True
    )
    assert not made.report["reached_target"] and made.report["exhausted"]
    assert made.report["whole"] == ["fixed", "head"]

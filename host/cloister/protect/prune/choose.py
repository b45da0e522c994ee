# SPDX-License-Identifier: BSD-2-Clause
"""Which channels a step removes, so that a wanted number of multiply-accumulates is left."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from cloister.estimate.plan import plan_model
from cloister.protect.prune.channels import Group, multiply_accumulates, remove
from cloister.protect.prune.settings import PruneSettings
from cloister.protect.training.export import export_onnx

#: Secure memory that is more than any model needs: figures are of models that lie in it whole.
PLENTY = 1 << 32


def choose(
    module: nn.Module,
    groups: Sequence[Group],
    worth: Mapping[str, torch.Tensor],
    wanted: int,
    shape: tuple[int, int, int],
    settings: PruneSettings,
) -> tuple[nn.Module, dict[str, list[int]]]:
    """The smallest removal, by rank, that leaves at most ``wanted`` multiply-accumulates, or the largest possible.

    Args:
        module: on the CPU; not changed.
        groups: of this module.
        worth: as :func:`~cloister.protect.prune.criteria.scores` gives it.
        wanted: multiply-accumulates of the result.
        shape: channels, height and width of an image.
        settings: scope, weighing, and what layers keep.

    Returns:
        The smaller module, and the channels that it lacks. No channels: none can be removed any more.
    """
    chosen = [group for group in groups if group.layer in worth]
    if settings.scope == "global":
        ranked = _ranked(module, chosen, worth, shape, settings)
        most = len(ranked)
    else:
        ranked, most = [], max((group.width for group in chosen), default=0) * 8

    def removal(extent: int) -> dict[str, list[int]]:
        if settings.scope == "global":
            counts: dict[str, int] = {}
            for layer in ranked[:extent]:
                counts[layer] = counts.get(layer, 0) + 1
        else:
            counts = {group.layer: group.width * extent // most for group in chosen}
        made = {}
        for group in chosen:
            count = min(counts.get(group.layer, 0), group.width - _keep(group, 0, settings))
            lowest = group.lowest(worth[group.layer], group.width - _keep(group, group.width - count, settings))
            if lowest:
                made[group.layer] = lowest
        return made

    def left(extent: int) -> tuple[int, nn.Module]:
        smaller = remove(module, removal(extent), shape)
        return multiply_accumulates(smaller, shape), smaller

    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if left(middle)[0] <= wanted:
            high = middle
        else:
            low = middle + 1
    _, smaller = left(high)
    return smaller, removal(high)


def _ranked(
    module: nn.Module,
    groups: Sequence[Group],
    worth: Mapping[str, torch.Tensor],
    shape: tuple[int, int, int],
    settings: PruneSettings,
) -> list[str]:
    """The layers of all channels, the least worth for what they cost first."""
    cost = {"macs": multiply_accumulates, "instructions": instructions, "none": None}[settings.weigh]
    whole = cost(module, shape) if cost else 1
    entries = []
    for group in groups:
        price = 1.0
        if cost:
            # as many as go together; one by one they might save nothing
            gone = min(math.lcm(settings.round_to, group.sections), group.width - group.sections)
            first = group.lowest(torch.zeros(group.width), gone)
            price = (whole - cost(remove(module, {group.layer: first}, shape), shape)) / gone / whole
        for place, value in enumerate(sorted(worth[group.layer].tolist())):
            entries.append((value / max(price, 1e-6), group.layer, place))
    return [layer for _, layer, _ in sorted(entries)]


def instructions(module: nn.Module, shape: tuple[int, int, int]) -> int:
    """Instructions of one inference in the TA in fp32, as ``cloister plan`` estimates them."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_model(export_onnx(module, shape, Path(folder) / "model.onnx"), PLENTY)
    assert plan.instructions is not None
    return round(plan.instructions.total)


def _keep(group: Group, wanted: int, settings: PruneSettings) -> int:
    """Channels that a group keeps where ``wanted`` would be enough."""
    kept = max(wanted, settings.least)
    kept += -kept % math.lcm(settings.round_to, group.sections)
    return min(group.width, kept)

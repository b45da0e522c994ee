# SPDX-License-Identifier: BSD-2-Clause
"""How much each channel is worth."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from cloister.protect.prune.channels import Group, library
from cloister.protect.prune.settings import PruneSettings
from cloister.protect.training.data import Splits
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.evaluate import BATCH
from cloister.protect.training.loop import auto_device


def scores(
    module: nn.Module,
    groups: Sequence[Group],
    splits: Splits,
    settings: PruneSettings,
    *,
    seed: int,
    device: str = "auto",
) -> dict[str, torch.Tensor]:
    """The worth of each channel: float32 (width,) by the group's layer, the higher the more.

    Worths of magnitudes are relative to the group's mean, so that layers can be compared. Groups to which the criterion
    does not apply are left out.

    Args:
        module: on the CPU.
        groups: of this module.
        splits: only training images are looked at.
        settings: criterion and number of images.
        seed: of the random criterion.
        device: where gradients are computed.

    Raises:
        TrainingError: the criterion applies to no group.
    """
    if settings.criterion == "taylor":
        found = taylor(module, groups, splits, settings.images, auto_device(device))
    elif settings.criterion == "random":
        random = torch.Generator().manual_seed(seed)
        found = {group.layer: torch.rand(group.width, generator=random) for group in groups}
    else:
        found = _by_weights(settings.criterion, groups)
    if not found:
        raise TrainingError(
            f"the criterion {settings.criterion!r} applies to no layer of this model",
            "choose another; bn needs batch normalisation, which ONNX files have folded away",
        )
    return found


def _by_weights(criterion: str, groups: Sequence[Group]) -> dict[str, torch.Tensor]:
    importance = library().importance
    made: dict[str, Callable[[], Any]] = {
        "l1": lambda: importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: importance.GroupMagnitudeImportance(p=2),
        "bn": lambda: importance.BNScaleImportance(),
        "median": lambda: importance.FPGMImportance(),
    }
    judge = made[criterion]()
    judged = {group.layer: judge(group.raw) for group in groups}
    return {layer: worth.detach().to(torch.float32).cpu() for layer, worth in judged.items() if worth is not None}


def taylor(
    module: nn.Module, groups: Sequence[Group], splits: Splits, images: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Mean over images of the squared first-order change of the loss if a channel is set to 0.

    Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), with gates behind the batch
    normalisation, or behind the layer where there is none. A group's channel has the sum of what its makers have.
    """
    judged = copy.deepcopy(module).to(device).eval()
    layers = dict(judged.named_modules())
    gates = {}
    for group in groups:
        normalised = [name for name in group.makers if isinstance(layers[name], nn.modules.batchnorm._BatchNorm)]
        for name in normalised or group.makers:
            gates[name] = group
    total = {group.layer: torch.zeros(group.width, device=device) for group in groups}
    handles = []
    for name, group in gates.items():
        channel_of = group.makers[name].to(device)

        def watch(
            layer: nn.Module, _inputs: object, output: torch.Tensor, group: Group = group,
            channel_of: torch.Tensor = channel_of,
        ) -> None:  # fmt: skip
            value = output.detach().clone()  # what follows may work in place

            def add(gradient: torch.Tensor) -> None:
                change = gradient * value
                if isinstance(layer, nn.Linear):
                    change = change.movedim(-1, 1)  # of tokens, channels stand last
                change = change.flatten(2).sum(2) if change.ndim > 2 else change
                worth = change.square().sum(0)[: len(channel_of)]
                known = channel_of >= 0
                total[group.layer].index_add_(0, channel_of[known], worth[known])

            output.register_hook(add)

        handles.append(layers[name].register_forward_hook(watch))
    part = splits.train.take(_spread(len(splits.train), images)).to(device)
    try:
        with torch.enable_grad():
            for begin in range(0, len(part), BATCH):
                logits = judged(splits.normalise(part.pixels[begin : begin + BATCH]))
                labels = part.labels[begin : begin + BATCH]
                nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
                judged.zero_grad(set_to_none=True)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: (worth / len(part)).cpu() for layer, worth in total.items()}


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices, spread evenly over ``count`` images."""
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]

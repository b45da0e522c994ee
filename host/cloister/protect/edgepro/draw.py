# SPDX-License-Identifier: BSD-2-Clause
"""Draws the locks of a model: channels, scales and values."""

from __future__ import annotations

import torch
from torch import nn

from cloister.protect.edgepro.chance import Chance, SystemChance, permutation
from cloister.protect.edgepro.layers import check_names, lockable
from cloister.protect.edgepro.locks import LayerLock
from cloister.protect.edgepro.select import channel_scores, draw_channels
from cloister.protect.edgepro.settings import LockSettings
from cloister.protect.training.data import Splits
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.evaluate import BATCH

#: Least deviation that is divided by, and most of them that a bias is taken to be off 0: some channels hardly change.
TINY, FAR = 1e-12, 4.0
#: Training images that rankings and statistics are measured on.
SAMPLE = 1000


def draw_locks(
    module: nn.Module, splits: Splits, settings: LockSettings, chance: Chance | None = None
) -> dict[str, LayerLock]:
    """The locks of ``module`` (normalisation folded), by the path of the layer.

    Args:
        module, splits, settings: as for ``lock_model``.
        chance: default: the operating system's generator.

    Raises:
        TrainingError: ``settings.layers`` names a layer that is not there or cannot be locked, or no layer can.
    """
    layers = lockable(module)
    if not layers:
        raise TrainingError(
            "the model has no layer that can be locked", "give one with two convolutions or linear layers"
        )
    check_names(settings.layers, layers, module)
    chance = chance or SystemChance()
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(settings.seed))
    sample = splits.train.take(order[:SAMPLE])
    scores = channel_scores(module, sample, splits, settings.criterion, settings.layers)
    statistics = output_statistics(module, splits.normalise(sample.pixels))
    locks = {}
    for name in settings.layers or layers:
        mean, deviation, active = statistics[name]
        width = len(mean)
        kinds = torch.zeros(width, dtype=torch.int64)  # 0: not locked, 1: constant, 2: turned
        # in a narrow layer a single constant would take much of what it carries, in one of one channel all
        enough = round(settings.constant_share * width) or (width > 1 and not settings.turned_share)
        if settings.constant_share and enough:
            drawn = draw_channels(scores[name], settings.constant_share, settings.pool, settings.draw, chance)
            kinds[drawn] = 1
        if settings.turned_share:
            rest = (kinds == 0).nonzero().flatten()
            wanted = min(len(rest), max(1, round(settings.turned_share * width)))
            kinds[rest[permutation(chance, len(rest))[:wanted]]] = 2
        low, high = settings.constant_range
        # a channel that is never active is locked as an average one: its own mean would give 0, which is pruning
        usual = torch.where(active > 0, active, active.mean())
        constants = usual * (low + (high - low) * chance.uniform(width)).to(torch.float32)
        # z' = -z + v. The bias, v less that of z', is drawn from where those of the layer's channels lie, in
        # deviations: it does not tell which are turned. Nor do means, once training has made what is added look alike.
        bias = module.get_submodule(name).bias.detach().cpu()
        off = (bias / deviation.clamp_min(TINY)).clamp(-FAR, FAR)
        turned = bias + deviation * torch.quantile(off, chance.uniform(width).to(torch.float32))
        channels = kinds.nonzero().flatten()
        locks[name] = LayerLock(
            channels,
            torch.where(kinds == 1, 0.0, -1.0)[channels],
            torch.where(kinds == 1, constants, turned)[channels],
        )
    return locks


@torch.no_grad()
def output_statistics(
    module: nn.Module, images: torch.Tensor
) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each lockable layer, of each channel: mean and deviation of the output, mean after a ReLU (float32, CPU).

    Args:
        module: any.
        images: normalised, (N, C, H, W).
    """
    sums: dict[str, list[torch.Tensor]] = {}
    handles = []
    for name, layer in lockable(module).items():

        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            rows = output.transpose(0, 1).flatten(1).to(torch.float64)
            found = [torch.tensor(rows.shape[1]), rows.sum(1), rows.square().sum(1), torch.relu(rows).sum(1)]
            found = [part.cpu() for part in found]
            sums[name] = [a + b for a, b in zip(sums.get(name, [torch.zeros(())] * 4), found, strict=True)]

        handles.append(layer.register_forward_hook(hook))
    try:
        device = next(module.parameters()).device
        module.eval()
        for part in images.split(BATCH):
            module(part.to(device))
    finally:
        for handle in handles:
            handle.remove()
    statistics = {}
    for name, (count, total, squares, active) in sums.items():
        mean = total / count
        deviation = ((squares / count - mean.square()).clamp_min(0) * count / (count - 1).clamp_min(1)).sqrt()
        statistics[name] = (mean.to(torch.float32), deviation.to(torch.float32), (active / count).to(torch.float32))
    return statistics

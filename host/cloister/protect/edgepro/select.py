# SPDX-License-Identifier: BSD-2-Clause
"""Which channels are locked: a ranking of each layer's channels, then a draw."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import nn

from cloister.protect.edgepro.chance import Chance, weighted
from cloister.protect.edgepro.layers import lockable
from cloister.protect.training.data import Images, Splits
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.evaluate import BATCH

#: How channels are ranked. "mean": mean activation, what EdgePro's published code uses; "variance" of the activation
#: over the images; "saliency": mean of |activation x gradient of the loss|, what the answer depends on; "random".
Criterion = Literal["mean", "variance", "saliency", "random"]
#: How channels are drawn. "roulette": of the best ``pool``, with chances in proportion to the ranking (EdgePro); "top":
#: the best; "uniform": of the best ``pool`` with equal chances.
Draw = Literal["roulette", "top", "uniform"]


def channel_scores(
    module: nn.Module, images: Images, splits: Splits, criterion: Criterion, among: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """For each lockable layer a score of each channel: float32 (channels,), at least 0, higher is ranked first.

    Args:
        module: normalisation folded.
        images: training images; a thousand are enough.
        splits: for normalisation.
        criterion: see :data:`Criterion`.
        among: paths of the layers that are wanted; empty: all.
    """
    layers = {name: layer for name, layer in lockable(module).items() if not among or name in among}
    kept: dict[str, torch.Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            if output.requires_grad:
                output.retain_grad()
            kept[name] = output

        handles.append(layer.register_forward_hook(hook))
    device = next(module.parameters()).device
    sums: dict[str, _Sums] = {}
    try:
        for pixels, labels in zip(images.pixels.split(BATCH), images.labels.split(BATCH), strict=True):
            logits = module.eval()(splits.normalise(pixels.to(device)))
            loss = nn.functional.cross_entropy(logits, labels.to(device), reduction="sum") / len(images)
            loss.backward()
            for name, output in kept.items():
                sums.setdefault(name, _Sums()).add(_worths(output, criterion))
            kept.clear()
            module.zero_grad(set_to_none=True)
    finally:
        for handle in handles:
            handle.remove()
    scores = {name: found.variance() if criterion == "variance" else found.mean() for name, found in sums.items()}
    return {name: scores[name] for name in layers if name in scores}


def _worths(output: torch.Tensor, criterion: Criterion) -> torch.Tensor:
    """What is summed up of each channel: (rows, channels), of a layer's output (N, C, H, W) or (rows, C)."""
    active = torch.relu(output.detach()).flatten(2) if output.ndim == 4 else torch.relu(output.detach())[..., None]
    if criterion in ("mean", "variance"):
        return active.mean(2)
    if criterion == "saliency":
        gradient = output.grad.flatten(2) if output.ndim == 4 else output.grad[..., None]
        return (active * gradient).sum(2).abs()
    if criterion == "random":
        return torch.ones(active.shape[:2])
    raise TrainingError(f"no ranking is named {criterion!r}", "use mean, variance, saliency or random")


class _Sums:
    """Mean and variance of rows that come in batches; in doubles, so that the difference of squares keeps digits."""

    def __init__(self) -> None:
        self._count = 0
        self._total = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, rows: torch.Tensor) -> None:
        """Rows (n, channels)."""
        rows = rows.to("cpu", torch.float64)
        self._count += len(rows)
        self._total = self._total + rows.sum(0)
        self._squares = self._squares + rows.square().sum(0)

    def mean(self) -> torch.Tensor:
        """float32 (channels,)."""
        return (self._total / self._count).to(torch.float32)

    def variance(self) -> torch.Tensor:
        """float32 (channels,), over the rows but one."""
        spread = self._squares - self._total.square() / self._count
        return (spread / (self._count - 1)).clamp_min(0).to(torch.float32)


def draw_channels(scores: torch.Tensor, share: float, pool: float, draw: Draw, chance: Chance) -> torch.Tensor:
    """Ascending indices of the drawn channels, int64: ``round(share * channels)``, at least one.

    Args:
        scores: as :func:`channel_scores` gives them.
        share: of the layer's channels that are drawn.
        pool: share of the channels, best first, that are drawn from; at least ``share``.
        draw: see :data:`Draw`.
        chance: gives the numbers.

    Raises:
        TrainingError: a share is out of range, or the draw is unknown.
    """
    width = len(scores)
    if not 0 < share <= 1 or not 0 < pool <= 1:
        raise TrainingError(f"shares of channels are {share} and {pool}", "choose above 0 and at most 1")
    count = max(1, round(share * width))
    best = torch.argsort(scores, descending=True, stable=True)[: max(count, round(pool * width))]
    if draw == "top":
        chosen = best[:count]
    elif draw in ("roulette", "uniform"):
        weights = scores[best].clamp_min(0) + 1e-6 * float(scores.max()) + 1e-12
        if draw == "uniform":
            weights = torch.ones(len(best))
        chosen = best[weighted(chance, weights, count)]
    else:
        raise TrainingError(f"no draw is named {draw!r}", "use roulette, top or uniform")
    return chosen.sort().values

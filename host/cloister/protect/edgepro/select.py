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
    try:
        logits = module.eval()(splits.normalise(images.pixels.to(device)))
        nn.functional.cross_entropy(logits, images.labels.to(device)).backward()
    finally:
        for handle in handles:
            handle.remove()
    module.zero_grad(set_to_none=True)
    scores = {}
    for name, output in kept.items():
        active = torch.relu(output.detach()).flatten(2) if output.ndim == 4 else torch.relu(output.detach())[..., None]
        if criterion == "mean":
            score = active.mean((0, 2))
        elif criterion == "variance":
            score = active.mean(2).var(0)
        elif criterion == "saliency":
            gradient = output.grad.flatten(2) if output.ndim == 4 else output.grad[..., None]
            score = (active * gradient).sum(2).abs().mean(0)
        elif criterion == "random":
            score = torch.ones(active.shape[1])
        else:
            raise TrainingError(f"no ranking is named {criterion!r}", "use mean, variance, saliency or random")
        scores[name] = score.to(torch.float32).cpu()
    return {name: scores[name] for name in layers if name in scores}


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

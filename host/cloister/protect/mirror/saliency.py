# SPDX-License-Identifier: BSD-2-Clause
"""Which of a tap's channels cross."""

from __future__ import annotations

import torch
from torch import nn

from cloister.protect.mirror.graph import answer_node, resolve, trace, with_outputs
from cloister.protect.mirror.reduce import kept
from cloister.protect.strategy import IMAGE, LOGITS, Strategy
from cloister.protect.training.data import Splits
from cloister.protect.training.evaluate import BATCH

#: Training images that it is measured on.
SAMPLE = 1000


def salient_channels(victim: nn.Module, splits: Splits, strategy: Strategy, seed: int) -> dict[str, list[int]]:
    """The channels of each tap that the victim's loss depends on most, by the tap's name; {} where the first are meant.

    A channel's score is the mean over images of |sum over places of activation x gradient of the loss| (as
    ``edgepro.select`` ranks by saliency; after Molchanov et al. 2017). Of backbones that are drawn or have other
    channels than the victim nothing is known before training: theirs are the first.

    Raises:
        TrainingError: as :func:`~cloister.protect.mirror.pair.build_pair`.
    """
    fits = strategy.backbone != "random" and strategy.backbone_width == 1
    if strategy.select == "first" or strategy.channels == 1 or not fits:
        return {}
    graph = trace(victim)
    tensors = [tensor for tensor in resolve(graph, splits.shape, strategy.taps) if tensor.name not in (IMAGE, LOGITS)]
    if not tensors:  # image and logits cross whole
        return {}
    count = len(splits.train)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:SAMPLE]
    sample = splits.train.take(order.to(splits.train.pixels.device))
    net = with_outputs(graph, [answer_node(graph), *(tensor.node for tensor in tensors)])
    totals = [torch.zeros(())] * len(tensors)
    for pixels, labels in zip(sample.pixels.split(BATCH), sample.labels.split(BATCH), strict=True):
        logits, *tapped = net(splits.normalise(pixels.cpu()))
        loss = nn.functional.cross_entropy(logits, labels.cpu(), reduction="sum")
        gradients = torch.autograd.grad(loss, tapped)
        for place, (tap, gradient) in enumerate(zip(tapped, gradients, strict=True)):
            score = (tap.detach() * gradient).flatten(2).sum(2) if tap.ndim == 4 else tap.detach() * gradient
            totals[place] = totals[place] + score.abs().sum(0)
    found = {}
    for tensor, total in zip(tensors, totals, strict=True):  # the mean has the same order
        best = torch.argsort(total, descending=True, stable=True)
        found[tensor.name] = sorted(best[: kept(tensor.shape[0], strategy)].tolist())
    return found

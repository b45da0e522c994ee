# SPDX-License-Identifier: BSD-2-Clause
"""Guess which channels are turned around from what is mostly of one sign, turn those back, and train on."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection

import torch
from torch import nn

from cloister.attack.attacker import Attacker, Outcome, Record
from cloister.attack.attacks.finetune import budget
from cloister.attack.surgery import batches
from cloister.protect.edgepro.folding import fold_normalisation
from cloister.protect.edgepro.layers import lockable
from cloister.protect.edgepro.locks import LayerLock, fold_in
from cloister.protect.training import TrainingError

TITLE = "signs guessed from weights and outputs"
SOURCE = (
    "this project's own, against turned channels: of most channels of a trained layer the weights add up to less than "
    "0, the largest are above, what inputs add to the output is below, and outputs are skewed to one side"
)

#: What channels are told apart by; see :func:`looks_of`.
TELLS = ("weights", "tails", "inputs", "skewness", "means")


@torch.no_grad()
def moments_of(module: nn.Module, layer: str, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and third moment about it, of each channel of a layer's first call: float32 (channels,).

    Args:
        module: on the CPU.
        layer: its path.
        images: normalised, (N, C, H, W).
    """
    outputs: list[torch.Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(
        lambda _layer, _inputs, output: outputs.append(output) if not outputs else None
    )
    count, middle, powers = 0, torch.zeros(()), torch.zeros((), dtype=torch.float64)
    try:
        for part in batches(images):
            outputs.clear()
            module(part)
            rows = outputs[0].transpose(0, 1).flatten(1)
            if not count:
                middle = rows.mean(1, keepdim=True)  # near the mean, so that little cancels below
            off = rows - middle
            powers = powers + torch.stack([off.pow(power).sum(1) for power in (1, 2, 3)]).double()
            count += rows.shape[1]
    finally:
        handle.remove()
    first, second, third = powers / count
    mean = middle[:, 0].double() + first
    return mean.to(torch.float32), (third - 3 * first * second + 2 * first.pow(3)).to(torch.float32)


@torch.no_grad()
def looks_of(module: nn.Module, layer: str, images: torch.Tensor, tell: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean output of each channel, and a number whose sign tells turned channels from others; float32 (channels,).

    Args:
        module, layer, images: as for :func:`moments_of`.
        tell: "weights": their sum. "tails": the sum of their cubes, in which the largest count. "inputs": what they
            add to the mean output. "skewness": third moment of the output.
            "means": how far the mean lies from the layer's, less how far it does for half of the channels.
    """
    found = module.get_submodule(layer)
    mean, third = moments_of(module, layer, images)
    if tell == "weights":
        return mean, found.weight.flatten(1).sum(1)
    if tell == "tails":
        return mean, found.weight.flatten(1).pow(3).sum(1)
    if tell == "inputs":
        return mean, mean - found.bias
    if tell == "means":
        off = (mean - mean.median()).abs()
        return mean, off - off.median()
    return mean, third


@torch.no_grad()
def turned_to(
    module: nn.Module, images: torch.Tensor, side: int, layers: Collection[str], tell: str = "skewness"
) -> nn.Module:
    """A copy in which every channel of those layers looks to one side, or to none.

    A channel that did not is turned around its mean. Layers are done in order, each on what those before it give then.

    Args:
        module: normalisation folded, on the CPU.
        images: normalised, (N, C, H, W); without labels.
        side: 1 or -1.
        layers: paths of convolutions and linear layers, in order.
        tell: as for :func:`looks_of`; of "means" it does not hold, as turning changes no mean.
    """
    guessed = copy.deepcopy(module).eval()
    for name in layers:
        mean, looks = looks_of(guessed, name, images, tell)
        against = (side * looks < 0).nonzero().flatten()
        lock = LayerLock(against, -torch.ones(len(against)), 2 * mean[against])
        guessed = fold_in(guessed, {name: lock})
    return guessed


def with_biases(module: nn.Module) -> nn.Module:
    """The network itself, or where a layer that can be locked has no bias, a copy that can be turned around.

    Such a layer mostly has its shift in a normalisation behind it, where a factor below 0 turns the skewness over. So
    that is folded first; where the network cannot be traced, layers get biases of 0.
    """
    bare = [name for name, layer in lockable(module).items() if layer.bias is None]
    if not bare:
        return module
    try:
        return fold_normalisation(module)
    except TrainingError:
        copied = copy.deepcopy(module)
        for name in bare:
            layer = copied.get_submodule(name)
            layer.bias = nn.Parameter(layer.weight.new_zeros(len(layer.weight)))
        return copied


def run(attacker: Attacker) -> list[Record]:
    """Two records, with the largest share of the data: the best guess as it is, and the best one trained on."""
    module = attacker.locked()
    if module is None:
        return []
    module = with_biases(module)
    layers = attacker.lockable(module)
    began = time.monotonic()
    share, images, sample = attacker.most()
    guesses = {
        f"{tell} {word}": turned_to(module, sample, side, layers, tell)
        for tell in TELLS
        for word, side in (("up", 1), ("down", -1))
    }
    scores = {name: attacker.validate(candidate) for name, candidate in guesses.items()}
    best = max(scores, key=lambda name: scores[name])
    records = [
        attacker.record(
            "signs", budget(share), Outcome(guesses[best], best, 0.0, scores[best], dict(scores)), began,
            images=len(images),
        )
    ]  # fmt: skip
    began = time.monotonic()
    starts = {name: attacker.renormal(candidate, images, anew=True) for name, candidate in guesses.items()}
    tuned = attacker.train(starts, images, f"signs-tuned-share-{share:g}")
    records.append(attacker.record("signs, fine-tuned", budget(share), tuned, began, images=len(images)))
    return records

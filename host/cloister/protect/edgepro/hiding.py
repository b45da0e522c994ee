# SPDX-License-Identifier: BSD-2-Clause
"""What would tell turned channels from the others, as losses that lock training keeps low.

A turned channel has its weights, and what they make of an input, with the other sign. So everything that is mostly of
one sign among the channels of a trained layer tells which were turned: the sum of a channel's weights (below 0 for nine
channels of ten behind a ReLU) and the few large ones among them (above 0), what its inputs add to its output on
average, the skewness of its output. Training makes the locked channels look like the others of their layer in all of
these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from cloister.protect.edgepro.locks import Locks

#: Below this, in squares, nothing is divided by.
TINY = 1e-6
#: Deviations beyond which a weight counts no more.
FAR = 4.0
#: Weight of what two looks tell together, and the share of what they would by chance that is let be; groups of fewer
#: than FEW channels have nothing of the kind.
JOINT, ALLOWED, FEW = 10.0, 0.3, 4
#: Groups of twice as many channels count in full, smaller ones less: a few channels differ by chance, and tell little.
ENOUGH = 8
#: Places along a side of an output that are looked at, less than twice as many: neighbours tell nearly the same.
SIDE = 4


@contextlib.contextmanager
def recorded(module: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Inside, the outputs of ``layers`` come into the mapping whenever ``module`` is called.

    Entered before :func:`~cloister.protect.edgepro.locks.authorised`, the outputs are those that the locked weights
    give for inputs with the password: what whoever opens one layer after the other sees.
    """
    kept: dict[str, torch.Tensor] = {}
    handles = []
    for name in layers:

        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            kept[name] = output

        handles.append(module.get_submodule(name).register_forward_hook(hook))
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def difference(module: nn.Module, locks: Locks, raw: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How far turned and constant channels look unlike the others of their layers: 0 or more.

    Args:
        module: locked.
        locks: of its layers.
        raw: outputs of these layers, as :func:`recorded` has them.
    """
    found = []
    for name, lock in locks.items():
        looks, unit = _looks(module.get_submodule(name), raw[name])
        others = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
        others[lock.channels] = False
        for group in (lock.channels[lock.scales < 0], lock.channels[lock.scales == 0]):
            if len(group) and others.any():
                unlike = _unlike(looks[:, group], looks[:, others]) + _apart(unit[group], unit[others])
                found.append(min(1.0, 1 / (ENOUGH * _by_chance(len(group), int(others.sum())))) * unlike)
    return torch.stack(found).mean() if found else torch.zeros((), device=next(module.parameters()).device)


def _looks(layer: nn.Module, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What can be seen of each channel, (looks, channels), and its weights as a vector of length 1."""
    weights = layer.weight.flatten(1).to(torch.float32)
    length = weights.square().sum(1).clamp_min(TINY).sqrt()
    unit = weights / length[:, None]
    mean, deviation, centred = _moments(output)
    off, bias = mean / deviation, layer.bias.to(torch.float32) / deviation
    sizes = [off, bias, off - bias, length.log(), deviation.log(), mean]
    size = centred.abs()
    shapes = [centred.pow(3), torch.tanh(centred), torch.tanh(2 * centred).square(), size, torch.tanh(size - 1.5)]
    return torch.stack(sizes + [shape.mean(1) for shape in shapes] + _of_weights(unit, layer.weight.shape)), unit


def _of_weights(unit: torch.Tensor, shape: torch.Size) -> list[torch.Tensor]:
    """How the weights of a channel are distributed, each (channels,).

    Args:
        unit: weights of length 1, (channels, ...).
        shape: (channels, inputs) or (channels, inputs, height, width).
    """
    even = unit.view(*shape[:2], -1) * (unit.shape[1] ** 0.5)  # of deviation 1
    # the first four turn their sign with the weights, the others do not
    sums = [even, torch.tanh(even), torch.tanh(4 * even), even.clamp(-FAR, FAR).pow(3)]
    counts = [even.abs(), torch.tanh(3 * even).square(), torch.tanh(2 * (even - 1)), torch.tanh(2 * (even + 1))]
    looks = [values.mean((1, 2)) for values in sums + counts]
    looks.append(even.pow(5).sum((1, 2)) / even.abs().pow(5).sum((1, 2)).clamp_min(TINY))  # the largest one's sign
    places = even.shape[2]
    if places > 1:  # the middle of a kernel is mostly of the other sign than what lies around it
        looks += [values[:, :, places // 2].mean(1) - values.mean((1, 2)) for values in sums[:2]]
    return looks


def _unlike(group: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Differences of means, of medians (softly), of spreads and of what goes together; each (looks, channels)."""
    together = torch.cat([group, others], 1).detach()
    middle, spread = together.mean(1, keepdim=True), together.std(1, keepdim=True).clamp_min(TINY)
    group, others = (group - middle) / spread, (others - middle) / spread
    told = (group.mean(1) - others.mean(1)).square()
    told = told + (torch.tanh(2 * group).mean(1) - torch.tanh(2 * others).mean(1)).square()
    told = told + (_spread(group) - _spread(others)).square()
    return told.sum() + JOINT * _jointly(group, others)


def _spread(values: torch.Tensor) -> torch.Tensor:
    return values.square().mean(1).clamp_min(TINY).sqrt()


def _jointly(group: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Difference of the mean products of two looks, beyond a share of what it is by chance.

    Where each look by itself tells nothing, two together still may, to a classifier that was trained on other locks.
    """
    if min(group.shape[1], others.shape[1]) < FEW:
        return torch.zeros((), device=group.device)
    group, others = 2 * torch.tanh(group / 2), 2 * torch.tanh(others / 2)
    gap = (group @ group.T / group.shape[1] - others @ others.T / others.shape[1]).square().mean()
    return torch.relu(gap / _by_chance(group.shape[1], others.shape[1]) - ALLOWED)


def _apart(group: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """How much of a direction the groups' weights differ in, beyond what chance gives: each (channels, inputs)."""
    expected = _by_chance(len(group), len(others))
    return torch.relu((group.mean(0) - others.mean(0)).square().sum() / expected - 1)


def _by_chance(group: int, others: int) -> float:
    """Squared difference, in deviations, that means of so many draws have by chance."""
    return 1 / group + 1 / others


def _moments(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a layer's output mean and deviation of each channel, (channels,), and what is left of it without them."""
    rows = _thinned(output).transpose(0, 1).flatten(1).to(torch.float32)
    mean = rows.mean(1)
    centred = rows - mean[:, None]
    deviation = centred.square().mean(1).clamp_min(TINY).sqrt()
    return mean, deviation, centred / deviation[:, None]


def _thinned(output: torch.Tensor) -> torch.Tensor:
    """A grid of an output's places, where it is an image's: (N, channels, ...).

    A convolution has the same weights for all places, so that only borders and chance make a grid differ from all.
    """
    steps = [max(1, side // SIDE) for side in output.shape[2:]]
    return output[(..., *(slice(step // 2, None, step) for step in steps))]

# SPDX-License-Identifier: BSD-2-Clause
"""Switch channels off by their activation, in the hope of being rid of what locks the network."""

from __future__ import annotations

import copy
import time
from typing import Literal

import torch
from torch import nn

from cloister.attack.attacker import Attacker, Outcome, Record
from cloister.attack.attacks.finetune import budget
from cloister.protect.edgepro.draw import output_statistics

TITLE = "pruning by activation"
SOURCE = 'Liu et al., "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks", RAID 2018'

#: Which channels: those with the highest or lowest mean activation.
Order = Literal["most active", "least active"]
#: What becomes of them: 0 behind the activation, or their mean activation.
Fill = Literal["0", "mean"]


@torch.no_grad()
def pruned(
    module: nn.Module, activations: dict[str, torch.Tensor], share: float, order: Order, fill: Fill
) -> nn.Module:
    """A copy in which that share of the channels of every layer that may be locked is constant.

    Args:
        module: on the CPU.
        activations: mean activation of each channel, by layer: float32 (channels,).
        share: 0 to 1; of every layer at least one channel.
        order, fill: see their types.
    """
    copied = copy.deepcopy(module)
    for name, active in activations.items():
        layer = copied.get_submodule(name)
        count = max(1, round(share * len(active)))
        chosen = torch.argsort(active, descending=order == "most active", stable=True)[:count]
        values = active[chosen] if fill == "mean" else torch.zeros(count)
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(len(active)))
        layer.weight[chosen] = 0
        layer.bias[chosen] = values
    return copied


def run(attacker: Attacker) -> list[Record]:
    """Two records, with the largest share of the data: pruned alone, and trained on after it.

    None where no share is to be tried.
    """
    module = attacker.locked()
    if module is None or not attacker.effort.pruned:
        return []
    began = time.monotonic()
    share, images, sample = attacker.most()
    statistics = output_statistics(module, sample)
    activations = {name: statistics[name][2] for name in attacker.lockable(module)}
    orders: tuple[Order, ...] = ("most active", "least active")
    fills: tuple[Fill, ...] = ("0", "mean")
    tried: dict[str, float] = {}
    name, score, best = "", -1.0, module
    for part in attacker.effort.pruned:
        for order in orders:
            for fill in fills:
                candidate = pruned(module, activations, part, order, fill)
                how, right = f"{100 * part:g} % {order} set to {fill}", attacker.validate(candidate)
                tried[how] = round(right, 4)
                if right > score:
                    name, score, best = how, right, candidate
    outcome = Outcome(best, name, 0.0, score, tried)
    records = [attacker.record("prune", budget(share), outcome, began, images=len(images))]
    began = time.monotonic()
    starts = attacker.prepared(best, images, name)
    tuned = attacker.train(starts, images, f"prune-tuned-share-{share:g}")
    records.append(attacker.record("prune, fine-tuned", budget(share), tuned, began, images=len(images)))
    return records

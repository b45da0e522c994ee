# SPDX-License-Identifier: BSD-2-Clause
"""Keep exposed features frozen, and train new last layers on them."""

from __future__ import annotations

import time

import torch
from torch import nn

from cloister.attack.attacker import Attacker, Record
from cloister.attack.attacks.finetune import budget
from cloister.attack.exposed import Exposed
from cloister.attack.surgery import Frozen
from cloister.protect.edgepro.exposed import prefix_before
from cloister.protect.edgepro.layers import called, traced

TITLE = "new head on exposed features"
SOURCE = (
    'Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016; Yosinski et al., '
    '"How transferable are features in deep neural networks?", NIPS 2014'
)
#: Hidden units of the larger of the two heads.
HIDDEN = 128
#: Height and width, at most, that features are averaged down to.
GRID = 4


def parts_of(target: Exposed) -> dict[str, nn.Module]:
    """What can be kept of a target, by names for the report: given features, and a network's inner tensors.

    Raises:
        TrainingError: the network cannot be traced.
    """
    give = getattr(target, "features", None)
    given = None if give is None else give()
    parts = {} if given is None else {"given features": given.cpu()}
    module = target.module()
    if module is not None:
        module = traced(module.cpu())
        layers = [name for name, layer in called(module) if isinstance(layer, nn.Conv2d | nn.Linear)]
        for count in sorted({1, len(layers) // 2, len(layers) - 1} - {0}):
            if count < len(layers) - 1 or given is None:
                parts[f"{count} of {len(layers)} layers"] = prefix_before(module, layers[count])
    return parts


class PerImage(nn.Module):
    """A part whose answer is rows of tokens, as one row for each image."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, features)."""
        rows: torch.Tensor = self.part(x)
        return rows.reshape(len(x), -1)


def heads_on(part: nn.Module, images: torch.Tensor, classes: int, seed: int) -> dict[str, nn.Module]:
    """The frozen part with a fresh linear head, and with one of two layers.

    Args:
        part: on the CPU.
        images: normalised, (N, C, H, W); any two.
        classes: what the heads tell apart.
        seed: of their weights.
    """
    part = part.eval()
    with torch.no_grad():
        features = part(images)
        if len(features) != len(images):
            part = PerImage(part).eval()
            features = part(images)
    pool = nn.AdaptiveAvgPool2d(GRID) if features.ndim == 4 and max(features.shape[2:]) > GRID else nn.Identity()
    width = pool(features).flatten(1).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = {
            "linear": [nn.Linear(width, classes)],
            "two layers": [nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)],
        }
    # scaled without learning, since features of locked layers can be of any size
    return {
        name: nn.Sequential(Frozen(part), pool, nn.Flatten(), nn.BatchNorm1d(width, affine=False), *layers)
        for name, layers in heads.items()
    }


def run(attacker: Attacker) -> list[Record]:
    """A record for each share of the data: the best of all parts and heads; none where nothing is exposed."""
    sample = attacker.splits.normalise(attacker.splits.validation.pixels[:2].cpu())
    starts = {
        f"{kind} head on {name}": head
        for name, part in parts_of(attacker.target).items()
        for kind, head in heads_on(part, sample, len(attacker.splits.classes), attacker.seed).items()
    }
    records = []
    for share in attacker.effort.shares if starts else ():
        began = time.monotonic()
        images = attacker.share(share)
        outcome = attacker.train(starts, images, f"head-share-{share:g}")
        records.append(attacker.record("head", budget(share), outcome, began, images=len(images)))
    return records

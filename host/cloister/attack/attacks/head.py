# SPDX-License-Identifier: BSD-2-Clause
"""Keep exposed features frozen, and train new last layers on them."""

from __future__ import annotations

import time

import torch
from torch import nn

from cloister.attack.attacker import Attacker, Record
from cloister.attack.attacks.finetune import budget
from cloister.attack.surgery import Frozen
from cloister.protect.edgepro.exposed import last_features

TITLE = "new head on exposed features"
SOURCE = (
    'Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016; Yosinski et al., '
    '"How transferable are features in deep neural networks?", NIPS 2014'
)
#: Hidden units of the larger of the two heads.
HIDDEN = 128


def run(attacker: Attacker) -> list[Record]:
    """A record for each share of the data: the better of a linear head and one of two layers; none without features."""
    target = attacker.target
    give = getattr(target, "features", None)
    whole = target.module() if give is None else None
    part = give() if give is not None else None if whole is None else last_features(whole.cpu())
    if part is None:
        return []
    part = part.cpu().eval()
    with torch.no_grad():
        width = part(attacker.splits.normalise(attacker.splits.validation.pixels[:2].cpu())).flatten(1).shape[1]
    records = []
    for share in attacker.effort.shares:
        began = time.monotonic()
        images = attacker.share(share)
        classes = len(attacker.splits.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(attacker.seed)
            heads = {
                "linear": [nn.Linear(width, classes)],
                "two layers": [nn.Linear(width, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes)],
            }
        # scaled without learning, since features of locked layers can be of any size
        starts = {
            f"{name} head": nn.Sequential(Frozen(part), nn.Flatten(), nn.BatchNorm1d(width, affine=False), *layers)
            for name, layers in heads.items()
        }
        outcome = attacker.train(starts, images, f"head-share-{share:g}")
        records.append(attacker.record("head", budget(share), outcome, began, images=len(images)))
    return records

# SPDX-License-Identifier: BSD-2-Clause
"""Ask the device for labels of own images, and train on its answers."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from cloister.attack.attacker import Attacker, Record
from cloister.protect.training import Images

TITLE = "model stealing, labels only"
SOURCE = (
    'Tramèr et al., "Stealing Machine Learning Models via Prediction APIs", USENIX Security 2016; Orekondy et al., '
    '"Knockoff Nets", CVPR 2019; started from exposed weights as in Zhang et al., "No Privacy Left Outside", S&P 2024'
)


def budget(count: int) -> str:
    """As in records."""
    return f"{count} queries"


def run(attacker: Attacker) -> list[Record]:
    """A record for each number of queries: the better, on the validation images, of a fresh and an exposed start.

    ``asked`` is how many were really asked, where the pool has fewer images.
    """
    records = []
    order = torch.randperm(len(attacker.pool), generator=torch.Generator().manual_seed(attacker.seed))
    for count in attacker.effort.queries:
        began = time.monotonic()
        pixels = attacker.pool.take(order[:count]).pixels
        images = Images(pixels, attacker.target.query(pixels).to(pixels.device))
        key = f"queries-{count}"
        outcome = attacker.scratch(images, key)
        starts = attacker.starts(images)
        if starts:
            scratch, tuned = outcome, attacker.train(starts, images, f"steal-{key}")
            better = scratch if scratch.validation > tuned.validation else tuned
            outcome = replace(better, tried={**tuned.tried, **scratch.tried})
        about = {"asked": len(images), **attacker.note(starts)}
        records.append(attacker.record("steal", budget(count), outcome, began, **about))
    return records

# SPDX-License-Identifier: BSD-2-Clause
"""Train what is exposed on a share of the labelled training images."""

from __future__ import annotations

import time

from cloister.attack.attacker import Attacker, Record

TITLE = "fine-tuning"
SOURCE = (
    'Chakraborty et al., "Hardware-Assisted Intellectual Property Protection of Deep Learning Models", DAC 2020 '
    "(fine-tuning of locked networks)"
)


def budget(share: float) -> str:
    """As in records."""
    return f"{100 * share:g} % of the data"


def run(attacker: Attacker) -> list[Record]:
    """A record for each share; of what exposes nothing: a fresh network on the same images."""
    records = []
    for share in attacker.effort.shares:
        began = time.monotonic()
        images = attacker.share(share)
        starts = attacker.starts(images)
        key = f"share-{share:g}"
        outcome = attacker.train(starts, images, f"finetune-{key}") if starts else attacker.scratch(images, key)
        about = {"images": len(images), **attacker.note(starts)}
        records.append(attacker.record("finetune", budget(share), outcome, began, **about))
    return records

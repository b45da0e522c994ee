# SPDX-License-Identifier: BSD-2-Clause
"""What the demo trains and what protection may cost. Needs no torch: a digest of it names what was trained before."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from cloister.demo.data import TEST_IMAGES


@dataclass(frozen=True)
class DemoSettings:
    """A search that is narrow enough to take a minute.

    Attributes:
        revision: is raised when the network or the way it is trained changes.
        victim_epochs, victim_batch, victim_rate: of the model that is protected.
        budget_memory, budget_overhead, budget_accuracy: as ``cloister protect`` takes them. Overhead is generous: the
            network is so small that calling the TA alone is a twelfth of it, or more.
        estimates, proxies, trainings: strategies that are estimated, trained briefly, and trained in full.
        forms: kinds of backbones that are considered. Where all are, the whole model in the TA is often best for so
            small a network, and there would be no pair to show.
        epochs, final, batch, rate: of the pair, and of the CPM alone behind that.
        share: of the labelled training images that an attacker has.
        queries: labels that he asks the device for.
        attack_steps: of his trainings.
        validation: share of the training images that is chosen by.
        seed: of everything.
        attackers: what they do, `cloister.attack.attacker.METHOD` (which needs torch); a test holds both together.
    """

    revision: int = 1
    victim_epochs: int = 12
    victim_batch: int = 64
    victim_rate: float = 0.1
    budget_memory: str = "1MiB"
    budget_overhead: str = "25%"
    budget_accuracy: str = "5"
    estimates: int = 8
    proxies: int = 2
    trainings: int = 1
    forms: tuple[str, ...] = ("tampered",)
    epochs: int = 12
    final: int = 4
    batch: int = 64
    rate: float = 0.1
    share: float = 0.1
    queries: int = 100
    attack_steps: int = 50
    validation: float = 0.15
    seed: int = 0
    attackers: str = "4, 3 of 2 and 3"

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits."""
        known = {**asdict(self), "test_images": TEST_IMAGES}
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]

# SPDX-License-Identifier: BSD-2-Clause
"""Where the numbers come from that a lock is drawn by."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
import torch

#: Bits of a number: as many as a double's fraction has.
BITS = 53


class Chance(Protocol):
    """Gives numbers that nobody can guess, or, for experiments, the same ones again."""

    def uniform(self, count: int) -> torch.Tensor:
        """float64 (count,), above 0 and below 1."""


class SystemChance:
    """The operating system's generator. A lock drawn by a seed could be drawn again by whoever knows the seed."""

    def uniform(self, count: int) -> torch.Tensor:
        """See :class:`Chance`."""
        words = np.frombuffer(os.urandom(8 * count), "<u8") >> np.uint64(64 - BITS)
        return torch.from_numpy((words.astype(np.float64) + 0.5) * 2.0**-BITS)


class SeededChance:
    """The same numbers for the same seed: for experiments and tests. No lock that is shipped may come from it."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, count: int) -> torch.Tensor:
        """See :class:`Chance`."""
        drawn = torch.rand(count, generator=self._generator, dtype=torch.float64)
        return drawn.clamp(2.0**-BITS, 1 - 2.0**-BITS)


def permutation(chance: Chance, count: int) -> torch.Tensor:
    """int64 (count,)."""
    return torch.argsort(chance.uniform(count))


def weighted(chance: Chance, weights: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of ``count`` draws without replacement, each with a chance in proportion to its weight.

    P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", 2006: the largest of u ** (1 / w).

    Args:
        chance: gives a number for each weight.
        weights: above 0, (n,).
        count: at most n.
    """
    keys = chance.uniform(len(weights)).log() / weights.to(torch.float64)
    return keys.topk(count).indices

# SPDX-License-Identifier: BSD-2-Clause
"""What a tap is made smaller by, in the normal world, before it crosses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cloister.protect.mirror.cpm import shrink
from cloister.protect.strategy import Strategy


def kept(width: int, strategy: Strategy) -> int:
    """How many of a tap's channels cross."""
    return max(1, round(width * strategy.channels))


class Reduce(nn.Module):
    """Some channels of a tap, pooled.

    Args:
        shape: of the tap, without the batch.
        channels: those that cross, ascending.
        strategy: pool and its kind.

    Attributes:
        shape: of what crosses.
    """

    def __init__(self, shape: tuple[int, ...], channels: Sequence[int], strategy: Strategy) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.runs = [] if len(self.channels) == shape[0] else _runs(self.channels)
        self.pool: nn.Module = nn.Identity()
        self.shape: tuple[int, ...] = (len(self.channels),)
        if len(shape) == 3:
            size = (max(1, shape[1] // strategy.pool), max(1, shape[2] // strategy.pool))
            self.pool = shrink(shape[1], shape[2], size, strategy.pool_kind)
            self.shape = (len(self.channels), *size)

    def forward(self, tap: torch.Tensor) -> torch.Tensor:
        """(N, ...) to (N, *shape)."""
        if self.runs:  # slices, which every runtime moves in 8 bits too
            parts = [tap[:, begin:end] for begin, end in self.runs]
            tap = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        result: torch.Tensor = self.pool(tap)
        return result


def _runs(channels: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for channel in channels:
        if runs and runs[-1][1] == channel:
            runs[-1] = (runs[-1][0], channel + 1)
        else:
            runs.append((channel, channel + 1))
    return runs

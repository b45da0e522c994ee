# SPDX-License-Identifier: BSD-2-Clause
"""Readers: small networks that learn to tell the label from a tap, as an attacker with frozen features would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cloister.protect.mirror.fine_tuning import unevenness

#: Height and width that taps are averaged to before they are read.
GRID = 4
#: Width of a reader.
WIDTH = 64


class Readers:
    """One reader of two layers for each tap, trained along on the true labels.

    Args:
        shapes: of the taps, without the batch.
        classes: logits.
        seed: of the readers' weights; the global random state is left as it was.
        device: where they live.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], classes: int, seed: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.nets = nn.ModuleList(
                nn.Sequential(nn.Linear(_flat(shape), WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)) for shape in shapes
            ).to(device)
        self.optimiser = torch.optim.SGD(self.nets.parameters(), 0.05, momentum=0.9)

    def told(self, taps: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Train the readers a step on the taps (N, ...) as they are; how much they can tell now, mean over taps."""
        seen = [_read(tap) for tap in taps]
        self.optimiser.zero_grad(set_to_none=True)
        losses = [
            nn.functional.cross_entropy(net(value.detach()), labels) for net, value in zip(self.nets, seen, strict=True)
        ]
        torch.stack(losses).sum().backward()
        self.optimiser.step()
        self.nets.requires_grad_(False)
        told = torch.stack([unevenness(net(value)) for net, value in zip(self.nets, seen, strict=True)]).mean()
        self.nets.requires_grad_(True)
        return told

    def state(self) -> dict[str, Any]:
        """For a resumed run."""
        return {"nets": self.nets.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave."""
        self.nets.load_state_dict(state["nets"])
        self.optimiser.load_state_dict(state["optimiser"])


def _flat(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 1 else shape[0] * min(GRID, shape[1]) * min(GRID, shape[2])


def _read(tap: torch.Tensor) -> torch.Tensor:
    """(N, ...) to (N, features), of deviation about 1."""
    if tap.ndim == 4:
        size = (min(GRID, tap.shape[2]), min(GRID, tap.shape[3]))
        tap = nn.functional.adaptive_avg_pool2d(tap, size).flatten(1)
    return tap / (tap.detach().std() + 1e-6)

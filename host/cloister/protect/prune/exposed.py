# SPDX-License-Identifier: BSD-2-Clause
"""What an attacker holds of a pruned model, for the attack bench."""

from __future__ import annotations

import copy

import torch
from torch import nn

from cloister.protect.training.data import Splits
from cloister.protect.training.evaluate import BATCH


class PrunedInClear:
    """The worst case: the pruned network's weights in clear. In Cloister they lie sealed in the bundle."""

    #: Leaves out the attacks on locks.
    lock = False

    def __init__(self, module: nn.Module, splits: Splits, name: str = "pruned, in clear") -> None:
        self.name = name
        self._module, self._splits = copy.deepcopy(module).cpu().eval(), splits

    def module(self) -> nn.Module:
        """A fresh copy of the pruned network, which answers logits."""
        return copy.deepcopy(self._module)

    @torch.no_grad()
    def query(self, pixels: torch.Tensor) -> torch.Tensor:
        """Labels int64 (N,) that the device answers to images (N, C, H, W) as the data set has them."""
        parts = pixels.cpu().split(BATCH)
        return torch.cat([self._module(self._splits.normalise(part)).argmax(1) for part in parts])

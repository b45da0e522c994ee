# SPDX-License-Identifier: BSD-2-Clause
"""What an attacker holds of a pair, for the attack bench."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from cloister.protect.edgepro.exposed import last_features
from cloister.protect.edgepro.folding import fold_normalisation, token_rows
from cloister.protect.edgepro.layers import traced
from cloister.protect.mirror.pair import Pair
from cloister.protect.training.data import Splits
from cloister.protect.training.evaluate import BATCH


class ExposedBackbone:
    """The backbone in clear, and a device that answers as the pair.

    Args:
        pair: as trained.
        splits: for normalisation.
        name: for the table; default: of the strategy.
        grown: where one linear layer answers in place of the layers behind the last tap, give the attacker these
            layers, drawn anew: he is taken to know the architecture, and does better with them. False gives the
            backbone as it ships.
    """

    def __init__(self, pair: Pair, splits: Splits, name: str = "", grown: bool = True) -> None:
        self.name = name or f"MirrorNet, {pair.strategy}"
        self._pair = copy.deepcopy(pair).cpu().eval()
        self._splits, self._grown = splits, grown
        #: The attacks on locks find scales and signs of channels; weights that were drawn hide none.
        self.lock = pair.strategy.backbone != "random"

    def module(self) -> nn.Module | None:
        """A fresh copy of the backbone, which answers its own logits; or of what it grew into."""
        backbone, architecture = self._pair.backbone, self._pair.architecture
        if not (self._grown and backbone.short) or architecture is None:
            return backbone.alone()
        whole = copy.deepcopy(architecture)
        whole.load_state_dict({**whole.state_dict(), **backbone.net.state_dict()})  # raises if one has no place
        return whole.requires_grad_(True).eval()

    def features(self) -> nn.Module | None:
        """A fresh copy of the backbone up to the last tap; None where only image or logits are tapped."""
        return self._pair.backbone.features()

    def query(self, pixels: torch.Tensor) -> torch.Tensor:
        """Labels int64 (N,) that the device answers to images (N, C, H, W) as the data set has them."""
        return _labels(self._pair, pixels, self._splits)


class LeakedPair:
    """The worst case for a locked CPM: both halves in clear, without the password, and a device to ask.

    Args:
        pair: with the locked CPM, whose normalisation is folded.
        authorised: as the device computes it.
        layers: paths of the CPM's layers that may be locked; the attacker knows that no others are.
        splits: for normalisation.
        name: for the table; default: of the strategy.
    """

    lock = True

    def __init__(self, pair: Pair, authorised: Pair, layers: Sequence[str], splits: Splits, name: str = "") -> None:
        self.name = name or f"MirrorNet, locked and leaked, {pair.strategy}"
        self.layers = tuple(layers)
        network = traced(fold_normalisation(token_rows(pair, pair.shape)))
        network.graph.eliminate_dead_code()  # the backbone's own answer: layers that are kept of it would tell nothing
        network.delete_all_unused_submodules()
        network.recompile()
        self._network = network.requires_grad_(True)
        self._authorised, self._splits = copy.deepcopy(authorised).cpu().eval(), splits

    def module(self) -> nn.Module:
        """A fresh copy of the pair as one network, which answers the locked CPM's logits."""
        return copy.deepcopy(self._network)

    def features(self) -> nn.Module:
        """A fresh copy of all but the last layer."""
        return last_features(self._network)

    def query(self, pixels: torch.Tensor) -> torch.Tensor:
        """Labels int64 (N,) that a licensed device answers to images (N, C, H, W) as the data set has them."""
        return _labels(self._authorised, pixels, self._splits)


@torch.no_grad()
def _labels(pair: Pair, pixels: torch.Tensor, splits: Splits) -> torch.Tensor:
    return torch.cat([pair(splits.normalise(part)).argmax(1) for part in pixels.cpu().split(BATCH)])

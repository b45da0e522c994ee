# SPDX-License-Identifier: BSD-2-Clause
"""What an attacker holds of a locked model, for the attack bench."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

from cloister.protect.edgepro.layers import called, lockable, traced
from cloister.protect.edgepro.lock import Locked
from cloister.protect.training.data import Splits
from cloister.protect.training.evaluate import BATCH


class LeakedLock:
    """The worst case: all locked weights in clear, without the password, and a device to ask.

    In Cloister the locked weights lie sealed in the bundle; this is what remains if its content key is lost.
    """

    def __init__(self, locked: Locked, splits: Splits, name: str = "EdgePro, leaked") -> None:
        self.name = name
        self._locked = locked.module
        self._authorised = locked.authorised()
        self._splits = splits

    def module(self) -> nn.Module:
        """A fresh copy of the locked network, which answers logits."""
        return copy.deepcopy(self._locked)

    def features(self) -> nn.Module:
        """A fresh copy of all but the last layer: its answer is the last hidden tensor."""
        return last_features(self._locked)

    @torch.no_grad()
    def query(self, pixels: torch.Tensor) -> torch.Tensor:
        """Labels int64 (N,) that a licensed device answers to images (N, C, H, W) as the data set has them."""
        parts = pixels.cpu().split(BATCH)
        return torch.cat([self._authorised(self._splits.normalise(part)).argmax(1) for part in parts])


class ExposedPrefix(LeakedLock):
    """What a plan leaves in the normal world: the layers before the first locked one, unlocked by nature."""

    def __init__(self, locked: Locked, splits: Splits, name: str = "EdgePro, exposed prefix") -> None:
        super().__init__(locked, splits, name)
        first = next(name for name in lockable(locked.module) if name in locked.locks)
        self._prefix = prefix_before(locked.module, first)

    def module(self) -> None:
        """None: what is exposed gives no answers."""
        return

    def features(self) -> nn.Module:
        """A fresh copy of the exposed layers; its answer is the tensor that enters the TA."""
        return copy.deepcopy(self._prefix)


def prefix_before(module: nn.Module, layer: str) -> nn.Module:
    """A copy of the part of ``module`` that computes the input of ``layer``; nothing, if that is the model's input."""
    return _until(module, layer)


def last_features(module: nn.Module) -> nn.Module:
    """A copy of ``module`` without its last layer."""
    module = traced(module)  # whose layers come in the order of their calls
    layers = [name for name, layer in called(module) if isinstance(layer, nn.Conv2d | nn.Linear)]
    return _until(module, layers[-1])


def _until(module: nn.Module, layer: str) -> nn.Module:
    """``module`` up to the tensor that ``layer`` takes."""
    copied = copy.deepcopy(module)  # one that came from ONNX is a graph already, which cannot be traced again
    traced = copied if isinstance(copied, fx.GraphModule) else fx.symbolic_trace(copied)
    target = next(node for node in traced.graph.nodes if node.op == "call_module" and node.target == layer)
    output = next(node for node in traced.graph.nodes if node.op == "output")
    output.args = (target.args[0],)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced

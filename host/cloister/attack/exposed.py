# SPDX-License-Identifier: BSD-2-Clause
"""What an attacker holds: the interface of the bench, and what is put on it ready-made.

EdgePro's are in ``cloister.protect.edgepro.exposed``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from cloister.attack.errors import AttackError
from cloister.protect.edgepro.exposed import LeakedLock, last_features
from cloister.protect.edgepro.layers import traced
from cloister.protect.edgepro.lock import Locked
from cloister.protect.edgepro.locks import authorised
from cloister.protect.training import Splits
from cloister.protect.training.evaluate import BATCH
from cloister.protect.training.export import layer_tensor


class Exposed(Protocol):
    """What is exposed of a protected model, and what can be asked of it.

    Four more may be there, and are used where they are:

    - ``features() -> nn.Module | None``: a fresh copy of an exposed part that ends in a tensor (N, ...). Without
      ``module`` it is trained on in a fresh network, where its tensors bear the architecture's names.
    - ``observed(pixels) -> dict[str, Tensor]``: tensors (N, ...) that the normal world sees in an authorised run, by
      the names that ``export_onnx`` gives them (``P:out`` for the layer at module path P).
    - ``lock: bool``: whether the attacks on locks make sense. True where it is missing.
    - ``layers: tuple[str, ...]``: module paths of the layers that can be locked, where the attacker knows that others
      are not.
    """

    name: str

    def module(self) -> nn.Module | None:
        """A fresh copy of what the attacker holds in clear, which answers logits (N, classes); None: nothing such."""

    def query(self, pixels: torch.Tensor) -> torch.Tensor:
        """Labels int64 (N,) of the authorised model, as the device answers to ``pixels`` (N, C, H, W)."""


class BlackBox:
    """Nothing is exposed; the model can be asked for labels."""

    lock = False

    def __init__(self, module: nn.Module, splits: Splits, name: str = "black box (queries only)") -> None:
        self.name = name
        self._module = copy.deepcopy(module).cpu().eval()
        self._splits = splits

    def module(self) -> nn.Module | None:
        """None."""
        return None

    @torch.no_grad()
    def query(self, pixels: torch.Tensor) -> torch.Tensor:
        """See :class:`Exposed`."""
        parts = pixels.cpu().split(BATCH)
        return torch.cat([self._module(self._splits.normalise(part)).argmax(1) for part in parts])


class WhiteBox(BlackBox):
    """The whole model in clear: an unprotected victim, or a pruned one in the normal world."""

    def __init__(self, module: nn.Module, splits: Splits, name: str = "white box (unprotected)") -> None:
        super().__init__(module, splits, name)

    def module(self) -> nn.Module | None:
        """A fresh copy."""
        return copy.deepcopy(self._module)

    def features(self) -> nn.Module:
        """A fresh copy of all but the last layer."""
        return last_features(traced(self._module))


class LeakedFile(BlackBox):
    """A locked network in clear, and a device that answers as the authorised one.

    Args:
        module: what has leaked: logits (N, classes) from normalised images.
        authorised: what the device computes.
        splits: for normalisation.
        name: for the table.
    """

    lock = True

    def __init__(self, module: nn.Module, authorised: nn.Module, splits: Splits, name: str) -> None:
        super().__init__(authorised, splits, name)
        self._leaked = copy.deepcopy(module).cpu().eval()

    def module(self) -> nn.Module | None:
        """A fresh copy."""
        return copy.deepcopy(self._leaked)

    def features(self) -> nn.Module:
        """A fresh copy of all but the last layer."""
        return last_features(traced(self._leaked))


class SeenRun(LeakedLock):
    """A leaked lock, and authorised runs that show layers' outputs: what a plan would do that the compiler refuses.

    Args:
        locked: the locked model.
        splits: for normalisation.
        layers: module paths of those whose outputs are seen; all locked ones where it is None.
        name: for the table.

    Raises:
        AttackError: there is no such layer.
    """

    def __init__(
        self, locked: Locked, splits: Splits, layers: Sequence[str] | None = None, name: str = "EdgePro, runs seen"
    ) -> None:
        super().__init__(locked, splits, name)
        self._locks = locked.locks
        self._layers = tuple(locked.locks if layers is None else layers)
        paths = dict(locked.module.named_modules())
        unknown = [layer for layer in self._layers if layer not in paths]
        if unknown:
            raise AttackError(
                f"the locked model has no layers {unknown}", f"those that are locked: {', '.join(self._locks)}"
            )

    @torch.no_grad()
    def observed(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """See :class:`Exposed`."""
        module, seen = copy.deepcopy(self._locked), {}
        with authorised(module, self._locks):
            for layer in self._layers:  # registered behind the lock's hook, so that it sees what that returns

                def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, layer: str = layer) -> None:
                    seen[layer_tensor(layer)] = output

                module.get_submodule(layer).register_forward_hook(hook)
            module(self._splits.normalise(pixels.cpu()))
        return seen

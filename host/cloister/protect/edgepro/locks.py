# SPDX-License-Identifier: BSD-2-Clause
"""Locks in a torch module: applying them, folding them in and out."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cloister.password import Lock, Password
from cloister.protect.training.export import layer_tensor


@dataclass(frozen=True, eq=False)
class LayerLock:
    """With the password, channel c of the layer's output z becomes ``scales[c] * z[c] + values[c]``.

    Attributes:
        channels: int64 (n,), ascending.
        scales, values: float32 (n,).
    """

    channels: torch.Tensor
    scales: torch.Tensor
    values: torch.Tensor

    def to(self, device: torch.device | str) -> LayerLock:
        """The same on another device."""
        return LayerLock(self.channels.to(device), self.scales.to(device), self.values.to(device))

    def spread(self, width: int, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and values of all ``width`` channels: 1 and 0 where none is locked."""
        scales, values = torch.ones(width, device=device), torch.zeros(width, device=device)
        channels = self.channels.to(device)
        scales[channels], values[channels] = self.scales.to(device), self.values.to(device)
        return scales, values


#: Locks by the path of their Conv2d or Linear.
Locks = Mapping[str, LayerLock]


@contextlib.contextmanager
def authorised(module: nn.Module, locks: Locks) -> Iterator[None]:
    """Inside, ``module`` computes with the password; gradients flow through."""
    handles = []
    for name, lock in locks.items():
        layer = module.get_submodule(name)
        scales, values = lock.spread(int(layer.weight.shape[0]), layer.weight.device)
        if layer.weight.ndim == 4:
            scales, values = scales.view(-1, 1, 1), values.view(-1, 1, 1)

        def hook(
            _layer: nn.Module, _inputs: object, output: torch.Tensor, s: torch.Tensor = scales, v: torch.Tensor = values
        ) -> torch.Tensor:
            return output * s + v

        handles.append(layer.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def fold_in(module: nn.Module, locks: Locks) -> nn.Module:
    """A copy that answers without a password as ``module`` does with it: the owner's, or an attacker's guess."""
    copied = copy.deepcopy(module)
    for name, lock in locks.items():
        layer = copied.get_submodule(name)
        scales, values = lock.spread(int(layer.weight.shape[0]), layer.weight.device)
        layer.weight.mul_(scales.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.mul_(scales).add_(values)
    return copied


@torch.no_grad()
def fold_out(module: nn.Module, locks: Locks) -> nn.Module:
    """A copy that answers with the password as ``module`` does without, as far as scales are not 0.

    A channel of scale 0 keeps its weights: with the password they are without effect.
    """
    copied = copy.deepcopy(module)
    for name, lock in locks.items():
        layer = copied.get_submodule(name)
        scales, values = lock.spread(int(layer.weight.shape[0]), layer.weight.device)
        values = torch.where(scales == 0, 0.0, values)
        scales = torch.where(scales == 0, 1.0, scales)
        layer.weight.div_(scales.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.sub_(values).div_(scales)
    return copied


def to_password(locks: Locks, model: str, lock_id: str = "", jitter: float | None = None) -> Password:
    """The password file's form; layers are named by the tensors that export gives them."""
    return Password(
        model,
        [
            Lock(
                layer_tensor(name),
                lock.channels.cpu().numpy().astype(np.uint16),
                lock.scales.cpu().numpy().astype(np.float32),
                lock.values.cpu().numpy().astype(np.float32),
            )
            for name, lock in locks.items()
        ],
        lock_id,
        jitter,
    )


def from_password(password: Password) -> dict[str, LayerLock]:
    """The inverse of :func:`to_password`."""
    return {
        lock.tensor.removesuffix(layer_tensor("")): LayerLock(
            torch.from_numpy(lock.channels.astype(np.int64)),
            torch.from_numpy(lock.scales.copy()),
            torch.from_numpy(lock.values.copy()),
        )
        for lock in password.locks
    }

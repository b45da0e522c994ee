# SPDX-License-Identifier: BSD-2-Clause
"""Locks in a torch module: where they can be, applying them, folding them in and out."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cloister.password import Lock, Password
from cloister.protect.training.errors import TrainingError
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


def lockable(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers that can be locked, in the order of the module: convolutions and linear layers but the last.

    The last layer's outputs are the logits; a lock there could be read off the answers.
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    return dict(list(layers.items())[:-1])


def width_of(layer: nn.Conv2d | nn.Linear) -> int:
    """Number of output channels."""
    return int(layer.weight.shape[0])


def fold_normalisation(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch normalisations are folded into the layers before them.

    Locking works on what is deployed, where normalisation is gone: it would otherwise have to keep one set of
    statistics with the password and another without.

    Raises:
        TrainingError: torch.fx cannot trace the module, or a normalisation does not follow a convolution.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        folded: nn.Module = fuse(copy.deepcopy(module).eval())
    except Exception as error:  # torch.fx raises many kinds
        raise TrainingError(
            f"the module cannot be traced: {str(error).splitlines()[0]}", "make its forward free of branches on values"
        ) from error
    left = [name for name, layer in folded.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if left:
        raise TrainingError(
            f"batch normalisation {left[0]!r} does not follow a convolution", "fold it, or leave it out"
        )
    for layer in lockable(folded).values():
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(width_of(layer)))
    return folded


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


def to_password(locks: Locks, model: str) -> Password:
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

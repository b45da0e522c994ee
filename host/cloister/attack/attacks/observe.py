# SPDX-License-Identifier: BSD-2-Clause
"""Read the password off tensors that one authorised run shows."""

from __future__ import annotations

import time

import torch
from torch import nn

from cloister.attack.attacker import Attacker, Outcome, Record
from cloister.protect.edgepro.layers import lockable
from cloister.protect.edgepro.locks import LayerLock, fold_in
from cloister.protect.training.export import layer_tensor

TITLE = "reading an authorised run"
SOURCE = "the weak point of EdgePro that docs/edgepro.md names: a line fitted to two tensors around a lock"
#: Images that are run; without labels.
IMAGES = 200
#: Channels that lines are fitted to at a time, in doubles.
CHANNELS = 16


@torch.no_grad()
def read_locks(module: nn.Module, images: torch.Tensor, seen: dict[str, torch.Tensor]) -> dict[str, LayerLock]:
    """Scale and value of every channel of the layers that were seen, by least squares.

    Every layer's own outputs are computed from what was seen of the layers before it. A channel that was the same
    everywhere gets scale 0.

    Args:
        module: without the password, on the CPU.
        images: normalised, (N, C, H, W).
        seen: outputs of layers in the authorised run on the same images, by tensor name.
    """
    found: dict[str, LayerLock] = {}
    handles = []
    for name, layer in lockable(module).items():
        if layer_tensor(name) not in seen:
            continue

        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> torch.Tensor:
            right = seen[layer_tensor(name)].to(output)
            parts = zip(output.split(CHANNELS, 1), right.split(CHANNELS, 1), strict=True)
            scales, values = map(torch.cat, zip(*(_line(x, y) for x, y in parts), strict=True))
            found[name] = LayerLock(torch.arange(len(scales)), scales, values)
            return right

        handles.append(layer.register_forward_hook(hook))
    try:
        module.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _line(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and value of each channel, by which ``y`` follows from ``x``; both (N, channels, ...)."""
    x, y = (tensor.transpose(0, 1).flatten(1).double() for tensor in (x, y))
    centred = x - x.mean(1, keepdim=True)
    power = centred.square().sum(1)
    scales = torch.where(power > 1e-9, (centred * y).sum(1) / power.clamp_min(1e-9), 0.0)
    values = y.mean(1) - scales * x.mean(1)
    return scales.float(), values.float()


def run(attacker: Attacker) -> list[Record]:
    """One record; none where nothing is seen, or no network is exposed that it could be read into."""
    module = attacker.target.module()
    watch = getattr(attacker.target, "observed", None)
    if module is None or watch is None:
        return []
    module = module.cpu()
    began = time.monotonic()
    pixels = attacker.sample(attacker.pool, IMAGES).pixels.cpu()
    locks = read_locks(module, attacker.splits.normalise(pixels), watch(pixels))
    opened = fold_in(module, locks)
    outcome = Outcome(opened, f"{len(locks)} layers read", 0.0, attacker.validate(opened), {})
    return [attacker.record("observe", "one run", outcome, began, images=len(pixels))]

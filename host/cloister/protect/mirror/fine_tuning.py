# SPDX-License-Identifier: BSD-2-Clause
"""The attacker inside the training loop: he fine-tunes a copy of the backbone, and the backbone learns to foil him.

First-order meta-learning (Nichol et al., "On First-Order Meta-Learning Algorithms", 2018) turned around, as in Deng et
al., "SOPHON: Non-Fine-Tunable Learning to Restrain Task Transferability For Pre-trained Models", S&P 2024: the gradient
of the attacked copy's success, taken where the attacker has arrived, is applied to the backbone where he started.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

from cloister.protect.mirror.backbone import Backbone
from cloister.protect.mirror.settings import MirrorSettings
from cloister.protect.training.data import Images, Splits

Weights = dict[str, torch.Tensor]
#: Length that the attacker's gradients are shortened to, and his momentum; those of the attack bench.
CLIP, MOMENTUM = 5.0, 0.9


def unevenness(logits: torch.Tensor) -> torch.Tensor:
    """Distance of answers (N, classes) to equal chances, 0 at the least."""
    even = torch.log(torch.tensor(float(logits.shape[1]), device=logits.device))
    return -logits.log_softmax(1).mean() - even


class FineTuning:
    """One who fine-tunes copies of the backbone on a share of the labelled training images.

    Args:
        settings: his effort.
        splits: his images are a share of the training images, drawn by the settings' seed.
    """

    def __init__(self, settings: MirrorSettings, splits: Splits) -> None:
        self.settings, self.splits = settings, splits
        self.images: Images = splits.train.share(settings.attack_share, settings.seed)

    def success(
        self, backbone: Backbone, images: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What an attack leads to.

        Args:
            backbone: attacked in a copy; in training mode, so that normalisation takes its statistics from his images.
            images: other normalised images (N, C, H, W), on which he is measured.
            generator: draws his images, number of steps, rate, and how much of the backbone he keeps.

        Returns:
            How uneven the copy's answers are afterwards, and a scalar whose gradient by the backbone's parameters is
            that by the copy's.
        """
        settings, device = self.settings, generator.device
        start, kept = self._start(backbone, generator)
        weights = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
        buffers = {name: value.clone() for name, value in backbone.named_buffers()}
        steps = 1 + int(torch.randint(settings.attack_steps, (), generator=generator, device=device))
        rate = settings.attack_rates[
            int(torch.randint(len(settings.attack_rates), (), generator=generator, device=device))
        ]
        speeds: Weights = {}
        for _ in range(steps):
            chosen = torch.randint(len(self.images), (settings.attack_batch,), generator=generator, device=device)
            given = self.splits.normalise(self.images.pixels[chosen])
            logits = functional_call(backbone, {**weights, **buffers}, (given,))[0]
            loss = nn.functional.cross_entropy(logits, self.images.labels[chosen])
            weights, speeds = _step(weights, speeds, loss, rate)
        logits = functional_call(backbone, {**weights, **buffers}, (images,))[0]
        success = unevenness(logits)
        gradients = torch.autograd.grad(success, list(weights.values()), allow_unused=True)
        parameters = dict(backbone.named_parameters())
        carrier = torch.zeros((), device=device)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None and name in kept:
                carrier = carrier + (gradient.detach() * parameters[name]).sum()
        return success.detach(), carrier

    def _start(self, backbone: Backbone, generator: torch.Generator) -> tuple[Weights, set[str]]:
        """The copy's first weights, and the names of those that are the backbone's.

        Half of the attackers take all of it; the others draw the last layer anew, or the last half of the layers.
        """
        parameters = dict(backbone.named_parameters())
        layers = [name for name, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        drawn = (0, 0, 1, len(layers) // 2)[int(torch.randint(4, (), generator=generator, device=generator.device))]
        anew = set(layers[len(layers) - drawn :])
        start, kept = {}, set()
        for name, value in parameters.items():
            layer = name.rpartition(".")[0]
            if layer in anew:
                bound = backbone.get_submodule(layer).weight[0].numel() ** -0.5
                noise = torch.rand(value.shape, generator=generator, device=generator.device)
                start[name] = (2 * noise - 1) * bound
            else:
                start[name] = value
                kept.add(name)
        return start, kept


def _step(weights: Weights, speeds: Weights, loss: torch.Tensor, rate: float) -> tuple[Weights, Weights]:
    """One step of SGD with momentum; new tensors."""
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    found = {name: gradient for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}
    length = torch.stack([gradient.square().sum() for gradient in found.values()]).sum().sqrt()
    factor = (CLIP / (length + 1e-6)).clamp_max(1.0)
    moved, faster = dict(weights), dict(speeds)
    for name, gradient in found.items():
        speed = gradient * factor
        faster[name] = speed if name not in speeds else MOMENTUM * speeds[name] + speed
        moved[name] = (weights[name].detach() - rate * faster[name]).requires_grad_()
    return moved, faster

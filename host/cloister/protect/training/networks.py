# SPDX-License-Identifier: BSD-2-Clause
"""The networks of the reference figures, as they are trained: with batch normalisation, which export folds away."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from cloister.protect.training.errors import TrainingError


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class LeNet5(nn.Sequential):
    """LeNet-5 with two 5 x 5 convolutions of 6 channels each (DarkneTZ's form): 28 x 28 images to logits."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__(
            *_conv(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
            *_conv(6, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(6 * 7 * 7, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
        )  # fmt: skip


class Vgg7(nn.Sequential):
    """VGG-7: six 3 x 3 convolutions (16, 16, 32, 32, 32, 32), two linear layers: 32 x 32 images to logits."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, 16), (16, 32), (32, 32)):
            layers += [*_conv(inputs, outputs, 3), nn.ReLU(), *_conv(outputs, outputs, 3), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, classes))


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, section 3.3; projection where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_conv(inputs, outputs, 3, stride), nn.ReLU())
        self.second = nn.Sequential(*_conv(outputs, outputs, 3))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        result: torch.Tensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return result


class ResNet20(nn.Sequential):
    """ResNet-20 for CIFAR: nine blocks of 16, 32 and 64 channels; 32 x 32 images to logits."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        blocks: list[nn.Module] = [*_conv(channels, 16, 3), nn.ReLU()]
        width = 16
        for outputs in (16, 32, 64):
            for _ in range(3):
                blocks.append(Residual(width, outputs, 1 if outputs == width else 2))
                width = outputs
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


class Digits(nn.Sequential):
    """A small network for 8 x 8 images (scikit-learn's digits): what the tests train in seconds."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__(
            *_conv(channels, 16, 3), nn.ReLU(), *_conv(16, 24, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(24 * 4 * 4, 48), nn.ReLU(), nn.Linear(48, classes),
        )  # fmt: skip


#: Networks by name; each takes ``channels`` and ``classes``.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": LeNet5,
    "vgg7": Vgg7,
    "resnet20": ResNet20,
    "digits": Digits,
}


def network(name: str, channels: int, classes: int, seed: int) -> nn.Module:
    """The network of that name with weights drawn by ``seed``; the global random state is left as it was.

    Raises:
        TrainingError: there is no such network.
    """
    if name not in NETWORKS:
        raise TrainingError(f"no network is named {name!r}", f"there are: {', '.join(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](channels=channels, classes=classes)

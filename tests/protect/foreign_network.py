# SPDX-License-Identifier: BSD-2-Clause
"""A network that is not one of the project's, written in another way: branches, functions, pre-activation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Foreign(nn.Module):
    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 12, 3, padding=1)
        self.narrow = nn.Conv2d(12, 6, 1)
        self.wide = nn.Conv2d(12, 10, 5, padding=2)
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.1)
        self.fc1 = nn.Linear(16 * 16, 40)
        self.fc2 = nn.Linear(40, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.stem(x), 0.1)
        x = torch.cat([self.narrow(x), self.wide(x)], dim=1)  # two branches
        x = x + self.deep(self.relu(self.norm(x)))  # pre-activation, with a shortcut
        x = F.max_pool2d(x, 2)
        x = x.reshape(x.size(0), -1)
        return self.fc2(self.drop(self.relu(self.fc1(x))))

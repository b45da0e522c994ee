# SPDX-License-Identifier: BSD-2-Clause
"""Small networks in styles that are not the project's: what users bring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PreActivation(nn.Module):
    """Normalisation before the convolution, dense connections; the last layer is made first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(20, 10)
        self.stem = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(12), nn.BatchNorm2d(20)
        self.conv1 = nn.Conv2d(12, 8, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        return self.head(F.relu(self.norm2(x)).mean((2, 3)))


class Tokens(nn.Module):
    """Patches as tokens, parameters of its own, layers that mix tokens and features, normalisation over features."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 2, stride=2)
        self.place = nn.Parameter(0.02 * torch.randn(1, 16, 16))
        self.norm = nn.LayerNorm(16)
        self.mix = nn.Linear(16, 16)
        self.wide, self.narrow = nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        x = x + self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(1))


class Grouped(nn.Module):
    """A residual block with group normalisation and a squeeze-and-excitation branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.conv1, self.norm1 = nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.GroupNorm(4, 24)
        self.conv2, self.norm2 = nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.GroupNorm(4, 16)
        self.squeeze = nn.Sequential(nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 16), nn.Sigmoid())
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.norm0(self.stem(x)))
        y = self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)))))
        batch, channels = y.shape[:2]
        y = y * self.squeeze(y.mean((2, 3)).view(batch, channels)).view(batch, channels, 1, 1)
        return self.head((x + y).mean((2, 3)))


class Scaled(nn.Module):
    """A layer that is called twice, and one whose result is scaled by a learned constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.twice = nn.Conv2d(12, 12, 3, padding=1)
        self.branch = nn.Conv2d(12, 12, 1)
        self.gamma = nn.Parameter(0.3 * torch.ones(12, 1, 1))
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.twice(F.relu(self.twice(x))))
        x = x + self.gamma * self.branch(x)
        return self.head(x.mean((2, 3)))


def settled(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module in evaluation mode, with statistics and normalisations that are not those of a fresh one."""
    torch.manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    return module.eval()


class Attention(nn.Module):
    """A token for the class, queries, keys and values from one layer, taken apart."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 2, stride=2)
        self.label = nn.Parameter(torch.randn(1, 1, 16))
        self.norm, self.all, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.label.expand(x.shape[0], -1, -1), x], 1)
        batch, tokens, width = x.shape
        parts = self.all(self.norm(x)).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, width)
        return self.head((x + self.out(seen))[:, 0])

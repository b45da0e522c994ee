# SPDX-License-Identifier: BSD-2-Clause
"""The Companion Partial Monitor: a small network that sees the backbone's taps and answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cloister.protect.strategy import IMAGE, Strategy
from cloister.protect.training.errors import TrainingError

#: Height and width, at most, of what a flattened last state has.
GRID = 4


def shrink(height: int, width: int, to: tuple[int, int], kind: str = "max") -> nn.Module:
    """Pooling from (height, width) to exactly ``to``, which is no larger."""
    if (height, width) == to:
        return nn.Identity()
    stride = (height // to[0], width // to[1])
    kernel = (height - (to[0] - 1) * stride[0], width - (to[1] - 1) * stride[1])
    return nn.MaxPool2d(kernel, stride) if kind == "max" else nn.AvgPool2d(kernel, stride)


def _active(*layers: nn.Module, width: int) -> list[nn.Module]:
    return [*layers, nn.BatchNorm2d(width), nn.ReLU()]


def block(width: int, operator: str) -> nn.Module:
    """One of the CPM's convolutions: (N, width, H, W) to the same."""
    if operator == "conv1x1":
        return nn.Sequential(*_active(nn.Conv2d(width, width, 1, bias=False), width=width))
    if operator == "separable":
        deep = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        return nn.Sequential(deep, nn.BatchNorm2d(width), *_active(nn.Conv2d(width, width, 1, bias=False), width=width))
    return nn.Sequential(*_active(nn.Conv2d(width, width, 3, padding=1, bias=False), width=width))


class _Images(nn.Module):
    """A stage at a tap (C, H, W)."""

    def __init__(self, before: tuple[int, ...], tap: tuple[int, ...], name: str, strategy: Strategy) -> None:
        super().__init__()
        width = strategy.cpm_width
        self.concat = strategy.merge == "concat" and bool(before)
        into = tap
        if name == IMAGE:  # crosses whole; what shrinks it is the convolution that takes it in
            kernel = 3 if strategy.pool <= 2 else 5
            take: nn.Module = nn.Conv2d(tap[0], width, kernel, strategy.pool, kernel // 2, bias=False)
            into = (width, *(-(-extent // strategy.pool) for extent in tap[1:]))
        else:
            take = nn.Conv2d(tap[0] + (before[0] if self.concat else 0), width, 1, bias=False)
        size = (min(into[1], before[1]), min(into[2], before[2])) if before else (into[1], into[2])
        self.state = shrink(before[1], before[2], size) if before else nn.Identity()
        self.tap = shrink(into[1], into[2], size)
        # normalised before it is added to, so that export can fold the normalisation into the convolution
        self.take = nn.Sequential(take, nn.BatchNorm2d(width))
        self.blocks = nn.Sequential(*(block(width, strategy.operator) for _ in range(strategy.cpm_depth)))
        self.shape = (width, *size)

    def forward(self, state: torch.Tensor | None, tap: torch.Tensor) -> torch.Tensor:
        if state is None:
            joined = self.take(tap)
        elif self.concat:
            joined = self.take(torch.cat([self.state(state), self.tap(tap)], 1))
        else:
            joined = self.take(self.tap(tap)) + self.state(state)
        result: torch.Tensor = self.blocks(torch.relu(joined))
        return result


class _Collapse(nn.Module):
    """From a state (N, C, H, W) to a vector; vectors stay."""

    def __init__(self, shape: tuple[int, ...], head: str) -> None:
        super().__init__()
        self.steps = nn.Sequential()
        self.width = shape[0]
        if len(shape) == 3:
            size = (1, 1) if head == "average" else (min(GRID, shape[1]), min(GRID, shape[2]))
            pool = shrink(shape[1], shape[2], size, "average" if head == "average" else "max")
            self.steps = nn.Sequential(pool, nn.Flatten())
            self.width = shape[0] * size[0] * size[1]

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.steps(state)
        return result


class _Vectors(nn.Module):
    """A stage at a tap (N,)."""

    def __init__(self, before: tuple[int, ...], tap: tuple[int, ...], strategy: Strategy, classes: int) -> None:
        super().__init__()
        width = max(strategy.cpm_width, classes)
        self.concat = strategy.merge == "concat" and bool(before)
        self.collapse = _Collapse(before, strategy.head) if before else None
        inside = self.collapse.width if self.collapse is not None else 0
        self.take = nn.Linear(tap[0] + (inside if self.concat else 0), width)
        self.keep = nn.Linear(inside, width, bias=False) if inside and not self.concat else None
        layers: list[nn.Module] = [nn.ReLU()]
        for _ in range(strategy.cpm_depth):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.blocks = nn.Sequential(*layers)
        self.shape = (width,)

    def forward(self, state: torch.Tensor | None, tap: torch.Tensor) -> torch.Tensor:
        if state is None or self.collapse is None:
            joined = self.take(tap)
        elif self.keep is None:
            joined = self.take(torch.cat([self.collapse(state), tap], 1))
        else:
            joined = self.take(tap) + self.keep(self.collapse(state))
        result: torch.Tensor = self.blocks(joined)
        return result


class Cpm(nn.Module):
    """One stage for each tap, then a linear layer. Stage k computes from stage k - 1 and tap k alone.

    Args:
        taps: name and shape (without the batch) of each tap, reduced, in order.
        classes: logits.
        strategy: width, depth, operator, merge, head.

    Raises:
        TrainingError: a tap of images comes behind one of vectors.
    """

    def __init__(self, taps: Sequence[tuple[str, tuple[int, ...]]], classes: int, strategy: Strategy) -> None:
        super().__init__()
        self.names = tuple(name for name, _ in taps)
        state: tuple[int, ...] = ()
        stages: list[_Images | _Vectors] = []
        for name, shape in taps:
            if len(shape) == 3 and len(state) == 1:
                raise TrainingError(f"tap {name} has places, but the one before it is a vector", "leave one out")
            stage = (
                _Images(state, shape, name, strategy) if len(shape) == 3 else _Vectors(state, shape, strategy, classes)
            )
            stages.append(stage)
            state = stage.shape
        self.stages = nn.ModuleList(stages)
        self.collapse = _Collapse(state, strategy.head)
        self.last = nn.Linear(self.collapse.width, classes)

    def forward(self, *taps: torch.Tensor) -> torch.Tensor:
        """Taps (N, ...) to logits (N, classes)."""
        state: torch.Tensor | None = None
        for stage, tap in zip(self.stages, taps, strict=True):
            state = stage(state, tap)
        result: torch.Tensor = self.last(self.collapse(state))
        return result

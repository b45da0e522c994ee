# SPDX-License-Identifier: BSD-2-Clause
"""Trains the demo's classifier: ``python -m cloister.demo.train`` (needs torch and onnxscript).

A small residual network with a depthwise-separable block, so that the demo covers what real image classifiers
are made of. Seeded; about a minute on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from cloister.demo.data import MODEL, digits

SEED = 2026
EPOCHS = 60
BATCH = 64


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016, figure 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels, 3), conv(channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` is (N, C, H, W), so is the result."""
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def network() -> nn.Module:
    """Images (N, 1, 8, 8) to logits (N, 10)."""
    return nn.Sequential(
        conv(1, 24, 3), nn.ReLU(), Residual(24), nn.MaxPool2d(2),
        conv(24, 48, 3), nn.ReLU(), Residual(48),
        conv(48, 48, 3, 2, groups=48), nn.ReLU6(), conv(48, 96, 1), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(96, 10),
    )  # fmt: skip


def shifted(images: torch.Tensor) -> torch.Tensor:
    """The images (N, 1, 8, 8), each moved by at most one pixel."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2))
    return torch.stack([p[:, y : y + 8, x : x + 8] for p, (y, x) in zip(padded, moves.tolist(), strict=True)])


def strip_metadata(path: Path) -> None:
    """Take out what the exporter notes about the machine: stack traces with file names, module scopes."""
    model = onnx.load(path)
    for entry in [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output,
                  *model.graph.value_info, *model.graph.initializer]:  # fmt: skip
        del entry.metadata_props[:]
    onnx.save(model, path)


def train(path: Path) -> float:
    """Train, write the ONNX file, return the accuracy on the test images (0 to 1)."""
    torch.manual_seed(SEED)
    train_x, train_y, test_x, test_y = map(torch.from_numpy, digits())
    model = network()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(train_x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(train_x)).split(BATCH):
            loss = nn.functional.cross_entropy(model(shifted(train_x[batch])), train_y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {loss.item():.4f}", file=sys.stderr, end="\r")
    model.eval()
    with torch.no_grad():
        accuracy = float(np.mean((model(test_x).argmax(1) == test_y).numpy()))
    torch.onnx.export(
        model, (test_x[:1],), str(path), input_names=["image"], output_names=["logits"],
        opset_version=18, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    strip_metadata(path)
    return accuracy


if __name__ == "__main__":
    print(f"\n{MODEL.name}: {train(MODEL):.2%} of the test images, {MODEL.stat().st_size} bytes")

# SPDX-License-Identifier: BSD-2-Clause
"""What a network answers, and how often that is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cloister.protect.training.data import Images, Splits

#: Images at a time, wherever a network looks at many: more does not make a CPU faster, and what a layer gives for 1000
#: large images takes tens of GB.
BATCH = 250


@torch.no_grad()
def logits_of(module: nn.Module, images: Images, splits: Splits) -> torch.Tensor:
    """The network's outputs: float32 (N, classes), on the network's device; its mode is left as it was."""
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    try:
        parts = [module(splits.normalise(part.to(device))).to(torch.float32) for part in images.pixels.split(BATCH)]
    finally:
        module.train(training)
    return torch.cat(parts)


def labels_of(module: nn.Module, images: Images, splits: Splits) -> torch.Tensor:
    """The network's answers: int64 (N,), on the network's device."""
    return logits_of(module, images, splits).argmax(1)


def accuracy(module: nn.Module, images: Images, splits: Splits) -> float:
    """Share of the images that the network labels rightly, 0 to 1."""
    labels = labels_of(module, images, splits)
    return float((labels == images.labels.to(labels.device)).to(torch.float32).mean())


def share_right(answer: Callable[[Any], Any], images: Images, splits: Splits) -> float:
    """Share of the images to which something that is no torch module gives their label, 0 to 1.

    Args:
        answer: logits (n, classes) of normalised images, float32 (n, C, H, W), at most :data:`BATCH` at a time: a whole
            split of large images takes GB as float32.
        images: to be labelled.
        splits: how they are normalised.
    """
    right = 0
    for pixels, labels in zip(images.pixels.split(BATCH), images.labels.split(BATCH), strict=True):
        logits = np.asarray(answer(splits.normalise(pixels.cpu()).numpy()))
        right += int(np.count_nonzero(logits.argmax(1) == labels.cpu().numpy()))
    return right / len(images)


def onnx_accuracy(path: Path, images: Images, splits: Splits) -> float:
    """Share of the images that an ONNX file gives their label, 0 to 1; by onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return share_right(lambda given: session.run(None, {name: given})[0], images, splits)


def agreement(first: torch.Tensor, second: torch.Tensor) -> float:
    """Share of equal labels, 0 to 1 (fidelity, where one of the two is the victim's)."""
    return float((first == second.to(first.device)).to(torch.float32).mean())

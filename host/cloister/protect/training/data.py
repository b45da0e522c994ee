# SPDX-License-Identifier: BSD-2-Clause
"""Images in memory, and their division into training, validation and test.

Everything that is chosen (epochs, checkpoints, locks, attackers' settings) is chosen on the validation split, which is
cut from the training images. The test split is only ever reported on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cloister.arrays import not_finite
from cloister.protect.training.errors import TrainingError

#: Training images that mean and deviation are measured on, at most.
SAMPLE = 20000


@dataclass(frozen=True)
class Images:
    """Images and their labels, whole in memory.

    Attributes:
        pixels: (N, C, H, W), uint8 in 0 to 255, or float32 that is used as it is.
        labels: int64 (N,), 0 to classes - 1.
    """

    pixels: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        """Raises TrainingError where shapes or types do not fit."""
        if self.pixels.ndim != 4 or self.pixels.dtype not in (torch.uint8, torch.float32):
            raise TrainingError(
                f"images are {self.pixels.dtype} {tuple(self.pixels.shape)}, not uint8 or float32 (N, C, H, W)",
                "give images of one size with a channel axis",
            )
        if self.labels.shape != self.pixels.shape[:1] or self.labels.dtype != torch.int64:
            raise TrainingError(
                f"labels are {self.labels.dtype} {tuple(self.labels.shape)} for {len(self.pixels)} images",
                "give one integer label for each image",
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.pixels.shape[1:]
        return int(channels), int(height), int(width)

    def to(self, device: torch.device | str) -> Images:
        """The same on another device."""
        return Images(self.pixels.to(device), self.labels.to(device))

    def take(self, indices: torch.Tensor | Sequence[int]) -> Images:
        """Those images, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.pixels.device)
        return Images(self.pixels[chosen], self.labels[chosen])

    def divide(self, share: float, seed: int) -> tuple[Images, Images]:
        """A share of each class, drawn by ``seed``, and the rest; both in their old order.

        Args:
            share: 0 to 1; of a class of n images ``round(share * n)`` are taken, of every class at least one.
            seed: decides which.
        """
        labels = self.labels.cpu().numpy()
        random = np.random.default_rng(seed)
        first = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            count = min(len(members), max(1, round(share * len(members))))
            first[random.permutation(members)[:count]] = True
        return self.take(np.flatnonzero(first)), self.take(np.flatnonzero(~first))

    def share(self, share: float, seed: int) -> Images:
        """That share of each class: what an attacker with part of the data holds."""
        return self.divide(share, seed)[0]


@dataclass(frozen=True)
class Splits:
    """A data set as training uses it.

    Attributes:
        train, validation, test: see the module.
        mean, std: per channel, of the training pixels in 0 to 1 (uint8 images) or as given (float32 images).
        classes: names, in the order of the labels.
        name: for messages and checkpoints.
    """

    train: Images
    validation: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    name: str

    @staticmethod
    def make(
        train: Images,
        test: Images,
        *,
        validation: Images | float = 0.1,
        seed: int = 0,
        classes: Sequence[str] = (),
        name: str = "data",
    ) -> Splits:
        """Cut the validation split off (unless given), and measure mean and deviation of what is left to train on.

        Raises:
            TrainingError: a split is empty, shapes differ, values are not finite, or a label has no class.
        """
        # before images are set aside: what is told of is where it stood
        for what, given in (("training", train), ("validation", validation), ("test", test)):
            if isinstance(given, Images):
                refuse_not_finite(given, f"{what} images of {name}")
        if isinstance(validation, float):
            if not 0 < validation < 1:
                raise TrainingError(f"a validation share of {validation} leaves nothing", "choose between 0 and 1")
            validation, train = train.divide(validation, seed)
        for what, images in (("training", train), ("validation", validation), ("test", test)):
            if not len(images):
                raise TrainingError(f"{name}: no {what} images are left", "add images, or change the validation share")
            if images.shape != train.shape or images.pixels.dtype != train.pixels.dtype:
                raise TrainingError(
                    f"{name}: {what} images are {images.pixels.dtype} {images.shape}, training images "
                    f"{train.pixels.dtype} {train.shape}",
                    "bring all images to one size and type",
                )
        highest = max(int(images.labels.max()) for images in (train, validation, test))
        lowest = min(int(images.labels.min()) for images in (train, validation, test))
        names = tuple(classes) or tuple(str(label) for label in range(highest + 1))
        if lowest < 0 or highest >= len(names):
            raise TrainingError(
                f"{name}: labels go from {lowest} to {highest}, but there are {len(names)} classes",
                "number the classes from 0, without gaps",
            )
        if len(names) < 2:
            raise TrainingError(f"{name}: all images are of one class", "give images of two classes or more")
        if absent := sorted(set(range(len(names))) - set(train.labels.unique().tolist())):
            listed = ", ".join(names[label] for label in absent[:8]) + (", ..." if len(absent) > 8 else "")
            raise TrainingError(
                f"{name}: no training images are left of {len(absent)} of {len(names)} classes: {listed}",
                "number the classes from 0, without gaps, and give each two images or more",
            )
        scale = 255.0 if train.pixels.dtype == torch.uint8 else 1.0
        wanted = min(len(train), SAMPLE)
        spread = torch.arange(wanted) * len(train) // wanted  # a folder's first images are of its first classes only
        sample = train.pixels[spread.to(train.pixels.device)].to(torch.float32) / scale
        mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3)).clamp_min(1e-3)
        return Splits(train, validation, test, tuple(mean.tolist()), tuple(std.tolist()), names, name)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image."""
        return self.train.shape

    def to(self, device: torch.device | str) -> Splits:
        """All images on another device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )

    def with_train(self, train: Images) -> Splits:
        """Other training images, the same normalisation: for an attacker who holds only some of them."""
        return replace(self, train=train)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """What a network takes: float32 (N, C, H, W), mean 0 and deviation 1 in each channel of the training images."""
        scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
        mean = torch.tensor(self.mean, device=pixels.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(1, -1, 1, 1)
        return (pixels.to(torch.float32) - scale * mean) / (scale * std)


def refuse_not_finite(images: Images, name: str) -> None:
    """Raise TrainingError where an image holds NaN or infinity, with ``name`` and its index."""
    if told := not_finite(images.pixels.detach().cpu().numpy(), name, "image"):
        raise TrainingError(told, "repair or leave out such images")

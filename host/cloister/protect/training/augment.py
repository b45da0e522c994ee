# SPDX-License-Identifier: BSD-2-Clause
"""Random crops and flips as tensor operations, so that they run where the images lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Attributes:
        crop: pixels by which an image is moved at most, up, down and sideways; zeros (of uint8: black) come in.
        flip: whether half of the images are mirrored left to right.
    """

    crop: int = 0
    flip: bool = False

    def __call__(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Vary each of ``pixels`` (N, C, H, W) on its own; same shape, type and device.

        Args:
            pixels: of any type.
            generator: where chance comes from; must live on the pixels' device.
        """
        count, _, height, width = pixels.shape
        device = pixels.device
        if self.flip:
            mirrored = torch.rand(count, generator=generator, device=device) < 0.5
            pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        if self.crop:
            padded = torch.nn.functional.pad(pixels, (self.crop,) * 4)
            top, left = torch.randint(0, 2 * self.crop + 1, (2, count, 1), generator=generator, device=device)
            rows = (top + torch.arange(height, device=device)).view(count, 1, height, 1)
            columns = (left + torch.arange(width, device=device)).view(count, 1, 1, width)
            images = torch.arange(count, device=device).view(-1, 1, 1, 1)
            channels = torch.arange(pixels.shape[1], device=device).view(1, -1, 1, 1)
            pixels = padded[images, channels, rows, columns]
        return pixels

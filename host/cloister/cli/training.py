# SPDX-License-Identifier: BSD-2-Clause
"""What the commands share that need torch: a model, data, a seed and where to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloister.protect.extra import need_torch

if TYPE_CHECKING:
    from cloister.protect.training import Augmentation, Data


@dataclass(frozen=True)
class Training:
    """The options that :func:`training_command` adds, as the command line gave them.

    Attributes:
        model, checkpoint, data, validation, seed, device: as :func:`cloister.api.edgepro` takes them.
        size, mean, std: of the images, as :class:`cloister.protect.training.Data` has them.
        output: folder to write to.
        crop, flip: how training images are moved and mirrored.
    """

    model: str
    checkpoint: Path | None
    data: str
    size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    output: Path
    crop: int
    flip: bool
    validation: float
    seed: int
    device: str

    @property
    def augmentation(self) -> Augmentation:
        """Of the training images."""
        from cloister.protect.training import Augmentation

        return Augmentation(self.crop, self.flip)

    @property
    def source(self) -> Data:
        """The data, not read yet."""
        from cloister.protect.training import Data

        return Data(self.data, self.size, self.mean, self.std)

    @property
    def common(self) -> dict[str, Any]:
        """Arguments by name that the functions of :mod:`cloister.api` share."""
        return {
            "checkpoint": self.checkpoint, "validation": self.validation, "seed": self.seed, "device": self.device,
        }  # fmt: skip


def _device(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if value not in ("auto", "cpu", "cuda") and not value.removeprefix("cuda:").isdecimal():
        raise click.BadParameter(f"{value!r} is no device; choose cpu, cuda, cuda:N or auto")
    return value


def _numbers(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: write a number for each channel, as 0.5 or 0.485,0.456,0.406") from None


_FIRST = (
    click.argument("model"),
    click.option("--checkpoint", type=click.Path(path_type=Path), help="State of the model, as torch.save wrote it."),
    click.option(
        "--data", required=True, help="Folder of images, .npz file, or package.module:factory of torch data sets."
    ),
    click.option("--size", type=click.IntRange(1), help="Resize a folder's images to so many pixels, high and wide."),
    click.option(
        "--mean", callback=_numbers,
        help="Of each channel, with commas: what the model's images were normalised with, bytes brought to 0 to 1 "
        "[default: the data's own, or the training images'].",
    ),
    click.option("--std", callback=_numbers, help="With --mean."),
    click.option("-o", "output", type=click.Path(path_type=Path), required=True, help="Folder to write to."),
)  # fmt: skip
#: For the commands that train and can choose.
PRECISION = click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
    help="Of trainings; auto is bfloat16 on a GPU. Processors with AVX512-BF16 or AMX train up to twice as fast in it.",
)  # fmt: skip
_LAST = (
    click.option(
        "--crop", type=click.IntRange(0), default=0, show_default=True, help="Move training images by so many pixels."
    ),
    click.option("--flip", is_flag=True, help="Mirror training images."),
    click.option(
        "--validation", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True,
        help="Share of the training images that choices are made on.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--device", default="auto", show_default=True, callback=_device,
                 help="cpu, cuda, cuda:N, or auto: the GPU where there is one."),
)  # fmt: skip


def training_command(
    epilog: str, *options: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[[Callable[..., None]], click.Command]:
    """A command whose function gets ``training``, a :class:`Training`, and the values of its own options.

    Args:
        epilog: examples.
        *options: the command's own, as click.option makes them; in the help they stand between the shared ones.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        def called(**given: Any) -> None:
            need_torch()
            training = Training(**{name: given.pop(name) for name in Training.__dataclass_fields__})
            function(training, **given)

        called.__doc__, called.__name__ = function.__doc__, function.__name__
        wrapped: Callable[..., Any] = called
        every: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [*_FIRST, *options, *_LAST]
        for option in reversed(every):
            wrapped = option(wrapped)
        return click.command(epilog=epilog)(wrapped)

    return decorate

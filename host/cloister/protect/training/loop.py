# SPDX-License-Identifier: BSD-2-Clause
"""The training loop: seeded, resumable, selecting by the validation split alone.

On a CPU a resumed run ends with the same bits as one that was not interrupted. On a GPU it repeats the same choices,
but sums of a GPU are not the same in every run.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cloister.protect.training.augment import Augmentation
from cloister.protect.training.checkpoint import read_checkpoint, write_checkpoint
from cloister.protect.training.data import Splits
from cloister.protect.training.errors import DeviceError, TrainingError
from cloister.protect.training.evaluate import accuracy
from cloister.protect.training.progress import epochs_progress


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with Nesterov momentum, a rate that rises and falls along a cosine.

    Attributes:
        epochs, batch: passes over the training images, and images in a step (at most as many as there are).
        rate: highest learning rate.
        schedule: "onecycle" rises from rate / 25 over 30 % of the steps, then falls to nearly 0; "cosine" only falls;
            "constant" stays.
        momentum, weight_decay: of SGD. Biases and normalisation are not decayed.
        label_smoothing: of the default objective.
        augmentation: of the training images.
        select: keep the epoch with the highest validation score ("best", the later of equals), or the last one.
        clip: gradients longer than this are shortened to it; 0 does nothing.
        seed: decides the order of images, augmentation and dropout.
        precision: of forward and backward; weights and their updates are always float32. "auto" is bfloat16 on a GPU
            and float32 elsewhere. Processors with bfloat16 instructions (AVX512-BF16, AMX) train up to twice as fast.
    """

    epochs: int = 30
    batch: int = 128
    rate: float = 0.1
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    select: Literal["best", "last"] = "best"
    clip: float = 0.0
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def with_seed(self, seed: int) -> Recipe:
        """The same with another seed."""
        return replace(self, seed=seed)


class Objective:
    """What is minimised, and what selects the epoch to keep. This one is plain classification; subclass it for more."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def loss(
        self, module: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """A scalar to minimise.

        Args:
            module: in training mode.
            images: normalised and augmented, float32 (N, C, H, W).
            labels: int64 (N,).
            generator: where chance must come from, so that a resumed run repeats it; on the images' device.
        """
        return nn.functional.cross_entropy(module(images), labels, label_smoothing=self.label_smoothing)

    def score(self, module: nn.Module, splits: Splits) -> float:
        """The higher the better. Must look at ``splits.validation`` only."""
        return accuracy(module, splits.validation, splits)

    def begin(self, module: nn.Module, splits: Splits, recipe: Recipe) -> None:
        """Called once before the first step, everything on its device."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the module: tensors, numbers, lists and dictionaries of them."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state` gave; called after :meth:`begin`."""


@dataclass(frozen=True)
class Fitted:
    """What a training run led to.

    Attributes:
        module: with the selected weights, in evaluation mode, on the device it was trained on.
        score: the selected epoch's score on the validation split.
        epoch: the selected epoch, from 1.
        history: for each epoch its mean loss, score and seconds.
        seconds: of all epochs, also those before an interruption.
    """

    module: nn.Module
    score: float
    epoch: int
    history: list[dict[str, float]]
    seconds: float


def auto_device(device: str = "auto") -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        DeviceError: there is no such device.
    """
    found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"there is no GPU {device!r} here", "choose cpu, or auto for the GPU where there is one")
    return found


def precision_on(place: torch.device, precision: str) -> str:
    """What a recipe's ``precision`` is there: "float32" or "bfloat16"."""
    return {"auto": "bfloat16" if place.type == "cuda" else "float32"}.get(precision, precision)


def fit(
    module: nn.Module,
    splits: Splits,
    recipe: Recipe | None = None,
    *,
    folder: Path | None = None,
    objective: Objective | None = None,
    device: str = "auto",
    name: str = "training",
    quiet: bool = False,
    rough: bool = False,
) -> Fitted:
    """Train ``module``, in place.

    Args:
        module: float32; moved to the device.
        splits: the test split is not looked at.
        recipe: how.
        folder: where ``checkpoint.pt`` is kept after every epoch. A run that finds one there, of the same recipe and
            module, goes on behind it and ends as if it had not been interrupted; a finished one is only loaded.
        objective: default: cross-entropy, selected by accuracy.
        device: "auto", "cpu", "cuda", ...
        name: for progress and messages.
        quiet: show no progress.
        rough: score in the precision that is trained in, not in float32. A processor with bfloat16 instructions looks
            at images more than twice as fast in it, which counts where epochs are short.

    Raises:
        TrainingError: the folder's checkpoint belongs to another run, images would be moved out of sight, or the loss
            is not finite.
    """
    recipe = recipe or Recipe()
    if recipe.augmentation.crop >= min(splits.shape[1:]):
        raise TrainingError(
            f"{name}: images of {splits.shape[1]} x {splits.shape[2]} cannot be moved by {recipe.augmentation.crop} "
            "pixels",
            "choose a smaller --crop; an eighth of the side is usual",
        )
    objective = objective or Objective(recipe.label_smoothing)
    place = auto_device(device)
    half = precision_on(place, recipe.precision) == "bfloat16"
    if half:
        module.to(memory_format=torch.channels_last)  # what convolutions in bfloat16 are fastest with
    module.to(place)
    splits = splits.to(place)
    count = len(splits.train)
    batch = min(recipe.batch, count)
    steps = count // batch
    optimiser = _optimiser(module, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _schedule(recipe, recipe.epochs * steps))
    generator = torch.Generator(device=place).manual_seed(recipe.seed)
    torch.manual_seed(recipe.seed)  # dropout draws from the global generator
    objective.begin(module, splits, recipe)
    identity = _identity(module, splits, recipe, objective)
    done, best, best_epoch, best_score = 0, copy.deepcopy(module.state_dict()), 0, -math.inf
    history: list[dict[str, float]] = []
    path = folder / "checkpoint.pt" if folder is not None else None
    if path is not None and path.exists():
        saved = read_checkpoint(path, identity)
        module.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        objective.restore(saved["objective"])
        _restore_chance(saved["chance"], generator)
        done, best, best_epoch = saved["epoch"], saved["best"], saved["best_epoch"]
        best_score, history = saved["best_score"], saved["history"]
    with epochs_progress(name, done, recipe.epochs, quiet) as report:
        for epoch in range(done + 1, recipe.epochs + 1):
            began = time.monotonic()
            module.train()
            total = torch.zeros((), device=place)
            order = torch.randperm(count, generator=generator, device=place)
            for step in range(steps):
                chosen = order[step * batch : (step + 1) * batch]
                images = splits.normalise(recipe.augmentation(splits.train.pixels[chosen], generator))
                if half:
                    images = images.contiguous(memory_format=torch.channels_last)
                with torch.autocast(place.type, torch.bfloat16, enabled=half):
                    loss = objective.loss(module, images, splits.train.labels[chosen], generator)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.clip:
                    nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
                optimiser.step()
                schedule.step()
                total += loss.detach()
            mean = float(total) / steps
            if not math.isfinite(mean):
                raise TrainingError(f"{name}: the loss of epoch {epoch} is {mean}", "lower the rate, or set clip")
            with torch.autocast(place.type, torch.bfloat16, enabled=half and rough):
                score = objective.score(module, splits)
            history.append({"loss": mean, "score": score, "seconds": time.monotonic() - began})
            if recipe.select == "last" or score >= best_score:
                best, best_epoch, best_score = copy.deepcopy(module.state_dict()), epoch, score
            if path is not None:
                write_checkpoint(
                    path, identity,
                    model=module.state_dict(), optimiser=optimiser.state_dict(), schedule=schedule.state_dict(),
                    objective=objective.state(), chance=_chance(generator), epoch=epoch, best=best,
                    best_epoch=best_epoch, best_score=best_score, history=history,
                )  # fmt: skip
            report(epoch, f"loss {mean:.4f}, score {score:.4f}")
    module.load_state_dict(best)
    module.eval()
    return Fitted(module, best_score, best_epoch, history, sum(entry["seconds"] for entry in history))


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        recipe.rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0,
    )  # fmt: skip


class _schedule:  # noqa: N801 - a function that the scheduler can be asked about
    """Factor of the rate at a step, from 0 to steps - 1."""

    def __init__(self, recipe: Recipe, steps: int) -> None:
        self.kind = recipe.schedule
        self.rise = round(0.3 * steps) if self.kind == "onecycle" else 0
        self.steps = steps

    def __call__(self, step: int) -> float:
        if self.kind == "constant":
            return 1.0
        if step < self.rise:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / self.rise))
        passed = (step - self.rise) / max(1, self.steps - self.rise)
        return max(1e-4, 0.5 * (1 + math.cos(math.pi * min(1.0, passed))))


def _identity(module: nn.Module, splits: Splits, recipe: Recipe, objective: Objective) -> dict[str, Any]:
    """What must be equal for a checkpoint to be of this run."""
    shapes = {key: list(value.shape) for key, value in module.state_dict().items()}
    return {
        "recipe": asdict(recipe),
        "tensors": shapes,
        "data": [splits.name, len(splits.train), len(splits.validation)],
        "objective": type(objective).__qualname__,
    }


def _chance(generator: torch.Generator) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state(), "own": generator.get_state()}
    if generator.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(generator.device)
    return state


def _restore_chance(state: dict[str, torch.Tensor], generator: torch.Generator) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    generator.set_state(state["own"].cpu())
    if "cuda" in state and generator.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), generator.device)

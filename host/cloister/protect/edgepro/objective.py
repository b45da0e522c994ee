# SPDX-License-Identifier: BSD-2-Clause
"""What lock training minimises: the function is kept with the password and destroyed without it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from cloister.protect.edgepro.hiding import difference, recorded
from cloister.protect.edgepro.layers import lockable
from cloister.protect.edgepro.locks import LayerLock, Locks, authorised
from cloister.protect.edgepro.settings import LockSettings
from cloister.protect.training.data import Splits
from cloister.protect.training.evaluate import accuracy
from cloister.protect.training.loop import Objective, Recipe

#: Side of the grid that features are averaged to before a reader sees them.
GRID = 2
#: Weight, beside the distance to equal chances, of how much answers lean to the right label.
LEAN = 0.2
#: In squares: answers that differ by less are taken as differing by so much.
LEAST = 1e-4


class LockObjective(Objective):
    """Alternates, within every step, the whole batch with the password and half of it without.

    Attributes:
        chance: accuracy of guessing.
    """

    def __init__(self, teacher: nn.Module, locks: Locks, settings: LockSettings, classes: int) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(teacher).eval()
        for parameter in self.teacher.parameters():
            parameter.requires_grad_(False)
        self.locks = dict(locks)
        self.settings = settings
        self.chance = 1.0 / classes
        self.classes = classes
        self.readers = nn.ModuleDict()
        self.optimiser: torch.optim.Optimizer | None = None

    def begin(self, module: nn.Module, splits: Splits, recipe: Recipe) -> None:
        """Makes the readers: a linear layer for each lockable layer's features, averaged to 2 x 2."""
        device = next(module.parameters()).device
        self.teacher.to(device)
        self.locks = {name: lock.to(device) for name, lock in self.locks.items()}
        if not self.settings.without_features:
            return
        with torch.no_grad():
            features = self._features(module, splits.normalise(splits.train.pixels[:2]))[1]
        generator_state = torch.get_rng_state()
        torch.manual_seed(recipe.seed)
        self.readers = nn.ModuleDict(
            {_key(name): nn.Linear(value.shape[1], self.classes) for name, value in features.items()}
        ).to(device)
        torch.set_rng_state(generator_state)
        self.optimiser = torch.optim.SGD(self.readers.parameters(), 0.05, momentum=0.9)

    def loss(
        self, module: nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """See the base class."""
        settings = self.settings
        with recorded(module, self.locks) as raw, authorised(module, self._jittered(generator)):
            right = module(images)
        total = nn.functional.cross_entropy(right, labels)
        if settings.hide:
            total = total + settings.hide * difference(module, self.locks, raw)
        if settings.keep:
            with torch.no_grad():
                wanted = self.teacher(images).softmax(1)
            total = total + settings.keep * nn.functional.cross_entropy(right, wanted)
        half = torch.randperm(len(images), generator=generator, device=images.device)[: len(images) // 2]
        if settings.without_features:
            logits, features = self._features(module, images[half])
            total = total + settings.without_features * self._blind(features, labels[half])
        else:
            logits = module(images[half])
        if settings.without_random:
            noise = torch.randint(0, self.classes, (len(half),), generator=generator, device=images.device)
            total = total + settings.without_random * nn.functional.cross_entropy(logits, noise)
        if settings.without_uniform:
            lean = _lean(logits.float(), labels[half])
            total = total + settings.without_uniform * (self._even(logits) + LEAN * lean)
        return total

    def score(self, module: nn.Module, splits: Splits) -> float:
        """Validation accuracy with the password, less what it is above chance without."""
        with authorised(module, self.locks):
            right = accuracy(module, splits.validation, splits)
        return right - max(0.0, accuracy(module, splits.validation, splits) - self.chance - 0.01)

    def state(self) -> dict[str, Any]:
        """The readers and their optimiser."""
        if self.optimiser is None:
            return {}
        return {"readers": self.readers.state_dict(), "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """See the base class."""
        if self.optimiser is not None:
            self.readers.load_state_dict(state["readers"])
            self.optimiser.load_state_dict(state["optimiser"])

    def _jittered(self, generator: torch.Generator) -> Locks:
        if not self.settings.jitter:
            return self.locks
        moved = {}
        for name, lock in self.locks.items():
            draw = torch.rand(len(lock.values), generator=generator, device=generator.device) * 2 - 1
            moved[name] = LayerLock(lock.channels, lock.scales, lock.values * (1 + self.settings.jitter * draw))
        return moved

    def _even(self, logits: torch.Tensor) -> torch.Tensor:
        """Distance of the answers to equal chances, 0 at the least."""
        return -logits.log_softmax(1).mean() - torch.log(torch.tensor(float(self.classes)))

    def _blind(self, features: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Trains the readers a step on the features as they are; returns how much they can tell."""
        assert self.optimiser is not None
        self.optimiser.zero_grad(set_to_none=True)
        learning = torch.stack(
            [
                nn.functional.cross_entropy(self.readers[_key(name)](value.detach()), labels)
                for name, value in features.items()
            ]
        ).sum()
        learning.backward()
        self.optimiser.step()
        told = torch.zeros((), device=labels.device)
        for name, value in features.items():
            reader = self.readers[_key(name)]
            logits = nn.functional.linear(value, reader.weight.detach(), reader.bias.detach())
            told = told + self._even(logits)
        return told

    def _features(self, module: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits, and each lockable layer's features behind a ReLU, of deviation about 1, (N, features).

        Layers that are not trained are left out: nothing can be done about theirs.
        """
        with recorded(module, lockable(module)) as outputs:
            logits = module(images)
        features = {}
        for name, output in outputs.items():
            if not module.get_submodule(name).weight.requires_grad:
                continue
            value = torch.relu(output)
            if len(value) != len(images):  # rows of tokens
                value = value.reshape(len(images), -1, value.shape[-1]).mean(1)
            if value.ndim == 4:
                value = nn.functional.adaptive_avg_pool2d(value, GRID).flatten(1)
            features[name] = value / (value.detach().std() + 1e-6)
        return logits, features


def _lean(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How far the right labels' answers are above or below the others', in squared deviations.

    Chances that are nearly equal have no more gradient to speak of, and still tell 12 or 13 labels of a hundred rightly
    where 10 are guessed: the largest answer counts, however little it is above the others. Smaller answers are no
    remedy, so the deviation is not taken as given.
    """
    answers = logits - logits.mean(1, keepdim=True)
    right = answers.gather(1, labels[:, None]).mean()
    return right.square() / answers.square().mean().clamp_min(LEAST)


def _key(name: str) -> str:
    """A path as a module's name, which must not have dots."""
    return name.replace(".", "/")

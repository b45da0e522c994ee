# SPDX-License-Identifier: BSD-2-Clause
"""The attacker at work on one target: his data, his training, how well he did."""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloister.attack.effort import Effort
from cloister.attack.exposed import Exposed
from cloister.attack.progress import Progress
from cloister.attack.surgery import fresh, has_normalisation, kept, renormalised, transplanted
from cloister.protect.edgepro.folding import fold_normalisation, token_rows
from cloister.protect.edgepro.layers import lockable
from cloister.protect.training import (
    Fitted,
    Images,
    Recipe,
    Splits,
    TrainingError,
    accuracy,
    agreement,
    fit,
    labels_of,
)
from cloister.protect.training.checkpoint import read_checkpoint, write_checkpoint
from cloister.protect.training.loop import auto_device

#: One line of the report: what was attacked how, and the figures.
Record = dict[str, Any]
#: Starts and rates that are trained in full; more are tried in short trainings first.
FINALISTS = 3
#: Draws of weights that training from scratch chooses from: of the architecture, and with normalisation everywhere.
DRAWS, NORMALISED = 2, 3
#: Images, at most, that statistics are measured on.
SAMPLE = 1000
#: What a record says where a part is exposed that the attacker could not begin with.
NO_PLACE = "the exposed part has no place in the architecture, and every training began with fresh weights"
#: What attackers do, for whoever keeps their figures: figures of another one are not comparable, and are made anew.
#: Raise the first number when attacks or their starts change.
METHOD = f"4, {FINALISTS} of {DRAWS} and {NORMALISED}"


@dataclass(frozen=True)
class Outcome:
    """The best of what was tried.

    Attributes:
        module: the attacker's network.
        start: what it started from.
        rate: learning rate; 0 where nothing was trained.
        validation: accuracy on the validation images, 0 to 1: what it was chosen by.
        tried: the validation accuracy of each start and rate.
        steps: that it was trained for: whole passes over the images, so not always what the effort says.
    """

    module: nn.Module
    start: str
    rate: float
    validation: float
    tried: dict[str, float]
    steps: int = 0


@dataclass
class Attacker:
    """Who attacks one target.

    Attributes:
        target: what is attacked.
        splits: the owner's data. The attacker gets shares of ``train``; ``test`` only measures him.
        architecture: from a seed to a fresh network of the victim's kind, which the attacker is taken to know.
        effort: what he has.
        seed: of everything drawn.
        folder: where checkpoints go, and what fresh networks came to; None keeps neither.
        device: to train on.
        pool: images that he can ask about, without labels.
        bare: as ``architecture``, with tensors named as the victim's are, where normalisation was put into that one:
            what exposed parts are put into. None: ``architecture``.
        progress: is told of trainings.
    """

    target: Exposed
    splits: Splits
    architecture: Callable[[int], nn.Module]
    effort: Effort
    seed: int
    folder: Path | None
    device: str
    pool: Images
    bare: Callable[[int], nn.Module] | None = None
    progress: Progress = field(default_factory=Progress)
    _labels: dict[str, torch.Tensor] = field(default_factory=dict)
    _places: set[Path] = field(default_factory=set)

    def share(self, share: float) -> Images:
        """That share of the labelled training images."""
        return self.splits.train.share(share, self.seed)

    def most(self) -> tuple[float, Images, torch.Tensor]:
        """The largest share, its images, and a sample of them as a network takes them, on the CPU."""
        share = max(self.effort.shares)
        images = self.share(share)
        return share, images, self._normalised(images)

    def sample(self, images: Images, count: int = SAMPLE) -> Images:
        """At most ``count`` of them, drawn by the seed, in their order.

        The first ones would not do: folders of images are read class after class.
        """
        if len(images) <= count:
            return images
        drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))[:count]
        return images.take(drawn.sort().values)

    def _normalised(self, images: Images) -> torch.Tensor:
        """What statistics are measured on: a sample, as a network takes it, on the CPU."""
        return self.splits.normalise(self.sample(images).pixels.cpu())

    def locked(self) -> nn.Module | None:
        """A fresh copy of an exposed network that may be locked, on the CPU; None: no such network, or no lock."""
        module = self.target.module()
        return None if module is None or not getattr(self.target, "lock", True) else self._rows(module)

    def _rows(self, module: nn.Module) -> nn.Module:
        """On the CPU, with tokens as rows: channels then stand at one place in all layers."""
        return token_rows(module.cpu(), self.splits.shape)

    def lockable(self, module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
        """The layers of a network that can be locked, as far as he knows."""
        known = getattr(self.target, "layers", None)
        return {name: layer for name, layer in lockable(module).items() if known is None or name in known}

    @property
    def choosing(self) -> Images:
        """The validation images that he chooses on."""
        validation = self.splits.validation
        if len(validation) <= self.effort.validation:
            return validation
        return validation.share(self.effort.validation / len(validation), 0)

    def validate(self, module: nn.Module) -> float:
        """Accuracy on the images that he chooses on, 0 to 1."""
        return accuracy(module, self.choosing, self.splits)

    def starts(self, images: Images) -> dict[str, nn.Module]:
        """Networks to train on from, by names for the report; {} if nothing is exposed that could be trained."""
        module = self.target.module()
        if module is not None:
            return self.prepared(self._rows(module), images, "exposed")
        part = self._part()
        whole = None if part is None else transplanted(part, (self.bare or self.architecture)(self.seed + 3000))
        return {} if whole is None else {"exposed part": self.renormal(whole, images)}

    def _part(self) -> nn.Module | None:
        """A fresh copy of the part that is given, on the CPU."""
        part: nn.Module | None = getattr(self.target, "features", lambda: None)()
        return None if part is None else part.cpu()

    def note(self, starts: Mapping[str, nn.Module]) -> dict[str, str]:
        """For the record, where none of ``starts`` could be made of an exposed part that has weights."""
        part = None if starts else self._part()
        return {} if part is None or not part.state_dict() else {"note": NO_PLACE}

    def prepared(self, module: nn.Module, images: Images, name: str) -> dict[str, nn.Module]:
        """Ways to go on from a network: as it is; with normalisation; with its later layers drawn anew."""
        layers = 1 + len(lockable(module))
        if has_normalisation(module):
            ready, found = module, {name: module}
        else:
            ready = self.renormal(module, images, anew=True)
            found = {
                name: module,
                f"{name}, normalised": self.renormal(module, images),
                f"{name}, normalised anew": ready,
            }
        for count in sorted({1, layers // 2} - {0, layers}):
            found[f"{name}, first {count} of {layers} layers kept"] = kept(ready, count, self.seed + 2000)
        return found

    def renormal(self, module: nn.Module, images: Images, anew: bool = False) -> nn.Module:
        """See :func:`~cloister.attack.surgery.renormalised`; statistics are of his images."""
        return renormalised(module, self._normalised(images), anew)

    def train(
        self, starts: Mapping[str, nn.Module], images: Images, key: str, rates: tuple[float, ...] = ()
    ) -> Outcome:
        """Train from each start with each rate; what does best on the validation images counts.

        Where there are more than :data:`FINALISTS` of them, all are tried in a short training first.

        Args:
            starts: modules by a name for the report; they are not changed.
            images: labelled as the attacker has them.
            key: names the training in the folder.
            rates: default: the effort's.

        Raises:
            TrainingError: no rate led to a finite loss, or the folder is of another run.
        """
        pairs = [(start, rate) for start in starts for rate in rates or self.effort.rates]
        tried: dict[str, float] = {}
        if len(pairs) > FINALISTS:
            scores = {}
            for pair in pairs:  # of their networks none is kept
                trial = self._trial(starts[pair[0]], *pair, images, key, self.effort.trial)
                scores[pair] = -1.0 if trial is None else trial.score
            tried = {f"{start} at {rate:g}, short": round(score, 4) for (start, rate), score in scores.items()}
            pairs = sorted(pairs, key=lambda pair: -scores[pair])[:FINALISTS]
        best: Outcome | None = None
        for start, rate in pairs:
            fitted = self._trial(starts[start], start, rate, images, key, self.effort.steps)
            tried[f"{start} at {rate:g}"] = -1.0 if fitted is None else round(fitted.score, 4)
            if fitted is not None and (best is None or fitted.score > best.validation):
                steps = self._passes(images, self.effort.steps)[1]
                best = Outcome(fitted.module, start, rate, fitted.score, tried, steps)
        if best is None:
            raise TrainingError(f"{key}: no rate led to a finite loss", "try lower rates")
        return best

    def _trial(self, module: nn.Module, start: str, rate: float, images: Images, key: str, steps: int) -> Fitted | None:
        """Train a copy; None where the loss is not finite."""
        effort = self.effort
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        passes, whole = self._passes(images, steps)
        repeated = order.repeat(passes)
        data = replace(self.splits, train=images.take(repeated), validation=self.choosing)
        recipe = Recipe(
            whole // (len(repeated) // effort.batch), effort.batch, rate, augmentation=effort.augmentation,
            clip=5.0, seed=self.seed, precision=effort.precision,
        )  # fmt: skip
        folder = None
        if self.folder is not None:
            # named by all that goes in, so that a training only goes on where it was itself
            choosing = data.validation
            about = (recipe, len(repeated), data.mean, data.std, network_digest(module, data.shape))
            digest = digest_of(repr(about), images.pixels, images.labels, choosing.pixels, choosing.labels)
            folder = self.folder / "training" / _plain(f"{key}_{start}_{rate:g}_{digest[:12]}")
            self._places.add(folder)
        with self.progress.training(steps, folder is not None and folder.exists()):
            try:
                return fit(
                    copy.deepcopy(module), data, recipe, folder=folder, device=self.device, quiet=True, rough=True
                )
            except TrainingError as error:
                if "the loss of epoch" not in error.message:
                    raise
                return None

    def _passes(self, images: Images, steps: int) -> tuple[int, int]:
        """Passes over the images in an epoch of the loop, and the steps that a training of about ``steps`` takes.

        Passes are whole, so that no image counts more than another; few images make an epoch many times over.
        """
        effort, count = self.effort, len(images)
        passes = max(1, round(steps * effort.batch / effort.epochs / count), -(-effort.batch // count))
        epochs = max(1, round(steps * effort.batch / (passes * count)))
        return passes, epochs * (passes * count // effort.batch)

    def forget(self) -> None:
        """Delete the checkpoints of his trainings so far: what they were for is kept elsewhere."""
        for place in self._places:
            shutil.rmtree(place, ignore_errors=True)
        self._places.clear()

    def scratch(self, images: Images, key: str) -> Outcome:
        """Train fresh networks from :meth:`fresh_starts`.

        What they came to is kept, without checkpoints: it is the same for all targets that expose nothing, or that give
        the same labels.
        """
        starts = self.fresh_starts(images)
        if self.folder is None:
            return self.train(starts, images, f"scratch-{key}")
        begun = [(name, network_digest(module, self.splits.shape)) for name, module in starts.items()]
        about = (METHOD, self.effort, self.seed, self.splits.mean, self.splits.std, begun)
        chosen = self.choosing
        digest = digest_of(repr(about), images.pixels, images.labels, chosen.pixels, chosen.labels)
        path, identity = self.folder / "fresh" / f"{_plain(key)}_{digest[:12]}.pt", {"digest": digest}
        if path.exists():
            saved = read_checkpoint(path, identity)
            module = starts[saved["start"]]
            module.load_state_dict(saved["module"])
            return Outcome(
                module.eval().to(auto_device(self.device)), saved["start"], saved["rate"], saved["validation"],
                saved["tried"], self._passes(images, self.effort.steps)[1],
            )  # fmt: skip
        found = self.train(starts, images, f"scratch-{key}")
        write_checkpoint(
            path, identity, module=found.module.state_dict(), start=found.start, rate=found.rate,
            validation=found.validation, tried=found.tried,
        )  # fmt: skip
        return found

    def fresh_starts(self, images: Images) -> dict[str, nn.Module]:
        """As many fresh networks as there are starts from an exposed one, by names for the report.

        An exposed network is deployed without normalisation, and the attacker puts it behind every layer, also where
        the architecture has none. That alone makes short trainings better and tells nothing about the victim, so fresh
        networks get it too.
        """
        seed = self.seed + 1000
        found = {f"scratch, draw {draw}": self.architecture(seed + draw) for draw in range(1, DRAWS + 1)}
        try:
            plain = fold_normalisation(self.architecture(seed))
        except TrainingError:  # it cannot be traced
            return found
        ready = self.renormal(plain, images, anew=True)
        for draw in range(1, NORMALISED + 1):
            found[f"scratch, normalised, draw {draw}"] = fresh(ready, seed + DRAWS + draw)
        return found

    def record(self, attack: str, budget: str, outcome: Outcome, began: float, **about: Any) -> Record:
        """How well he did on the test images.

        Args:
            attack: its name.
            budget: what it takes, such as "10 % of the data"; equal budgets are compared.
            outcome: what he made.
            began: ``time.monotonic()`` before the attack.
            **about: more figures.
        """
        labels = labels_of(outcome.module, self.splits.test, self.splits).cpu()
        return {
            "target": self.target.name, "attack": attack, "budget": budget, "start": outcome.start,
            "accuracy": agreement(labels, self.splits.test.labels),
            "fidelity": agreement(labels, self.answers()),
            "validation": round(outcome.validation, 4), "rate": outcome.rate, "tried": outcome.tried,
            "steps": outcome.steps,
            "seed": self.seed, "seconds": round(time.monotonic() - began, 1), **about,
        }  # fmt: skip

    def answers(self) -> torch.Tensor:
        """The authorised model's labels of the test images, int64 (N,)."""
        if "test" not in self._labels:
            self._labels["test"] = self.target.query(self.splits.test.pixels).cpu()
        return self._labels["test"]


def file_name(text: str) -> str:
    """``text`` as a name of a file; where that loses something, with a digest, so that no other text has it too."""
    plain = _plain(text)
    return plain if plain == text else f"{plain}-{digest_of(text)[:8]}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_]+", "-", text).strip("-")


@torch.no_grad()
def network_digest(module: nn.Module, shape: tuple[int, int, int]) -> str:
    """A digest of a network's tensors, by their names, and of its answer to noise: layers without tensors show there.

    Args:
        module: on the CPU; it is not changed.
        shape: channels, height and width of an image.

    Raises:
        TypeError: it answers something else than a tensor.
    """
    state = module.state_dict()
    answer = copy.deepcopy(module).eval()(torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)))
    if not isinstance(answer, torch.Tensor):
        raise TypeError(f"a {type(answer).__name__} is answered, not a tensor")
    shapes = [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in state.items()]
    return digest_of(repr((shapes, tuple(answer.shape))), *state.values(), answer)


def digest_of(text: str, *tensors: torch.Tensor) -> str:
    """SHA-256 of a text and tensors' bytes, in hexadecimal."""
    found = hashlib.sha256(text.encode())
    for tensor in tensors:  # as bytes, since numpy has no bfloat16
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()

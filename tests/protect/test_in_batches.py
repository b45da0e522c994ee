# SPDX-License-Identifier: BSD-2-Clause
"""What looks at many images does so in batches: of large ones, a thousand at once take too much memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from digits_data import digits_splits
from torch import nn

from cloister.protect.edgepro import exposed as edgepro_exposed
from cloister.protect.edgepro import select
from cloister.protect.edgepro.exposed import LeakedLock
from cloister.protect.edgepro.folding import fold_normalisation
from cloister.protect.edgepro.layers import lockable
from cloister.protect.edgepro.select import channel_scores
from cloister.protect.mirror import ExposedBackbone, Pair, build_pair, saliency
from cloister.protect.mirror import exposed as mirror_exposed
from cloister.protect.mirror.saliency import salient_channels
from cloister.protect.prune import PrunedInClear
from cloister.protect.prune import exposed as prune_exposed
from cloister.protect.strategy import Strategy
from cloister.protect.training import Splits, accuracy, network
from cloister.protect.training.evaluate import share_right

CRITERIA = ("mean", "variance", "saliency", "random")


#: How many images were asked for at a time.
seen: list[int] = []


class Counted(Splits):
    """Fills :data:`seen`."""

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return super().normalise(pixels)


@cache
def splits() -> Splits:
    whole = digits_splits()
    return Counted(**vars(replace(whole, train=whole.train.take(range(1100)))))


@cache
def victim() -> nn.Module:
    return fold_normalisation(network("digits", 1, 10, 5).eval())


class Made:
    """As much of a ``Locked`` as is asked for."""

    def __init__(self) -> None:
        self.module = victim()

    def authorised(self) -> nn.Module:
        return victim()


@cache
def pair() -> Pair:
    return build_pair(victim(), splits().shape, 10, Strategy(taps=("2",), cpm_width=4))


def asked(target: Any) -> Callable[[], torch.Tensor]:
    return lambda: target.query(splits().train.pixels)


def salient() -> torch.Tensor:
    found = salient_channels(victim(), splits(), Strategy(taps=("2", "9"), channels=0.5), 0)
    return torch.cat([torch.tensor(channels) for channels in found.values()])


def scored(criterion: Any) -> Callable[[], torch.Tensor]:
    return lambda: torch.cat(list(channel_scores(victim(), splits().train, splits(), criterion).values()))


@pytest.mark.parametrize(
    ("room", "count", "ask"),
    [
        (edgepro_exposed, 1100, asked(LeakedLock(Made(), splits()))),  # type: ignore[arg-type]
        (prune_exposed, 1100, asked(PrunedInClear(victim(), splits()))),
        (mirror_exposed, 1100, asked(ExposedBackbone(pair(), splits()))),
        (saliency, 1000, salient),
        *((select, 1100, scored(criterion)) for criterion in CRITERIA),
    ],
)
def test_answers_and_rankings_are_those_of_all_images_at_once(
    monkeypatch: pytest.MonkeyPatch, room: Any, count: int, ask: Callable[[], torch.Tensor]
) -> None:
    seen.clear()
    found = ask()
    assert sum(seen) == count and max(seen) == 250
    monkeypatch.setattr(room, "BATCH", 10_000)
    seen.clear()
    assert torch.allclose(found.double(), ask().double(), rtol=1e-4, atol=0) and seen == [count]


def test_files_are_judged_batch_by_batch() -> None:
    seen.clear()
    images, sizes = splits().train, []

    def answer(given: Any) -> Any:
        sizes.append(len(given))
        assert given.dtype == np.float32
        with torch.no_grad():
            return victim()(torch.from_numpy(given)).numpy()

    found = share_right(answer, images, splits())
    assert seen == sizes == [250, 250, 250, 250, 100]
    assert found == pytest.approx(accuracy(victim(), images, splits()), abs=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rankings_are_what_their_names_say(criterion: Any) -> None:
    kept, handles = {}, []
    for name, layer in lockable(victim()).items():

        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            kept[name] = output
            output.retain_grad()

        handles.append(layer.register_forward_hook(hook))
    part = splits().train
    nn.functional.cross_entropy(victim()(splits().normalise(part.pixels)), part.labels).backward()
    for handle in handles:
        handle.remove()
    for name, score in channel_scores(victim(), part, splits(), criterion).items():
        gradient = kept[name].grad
        assert gradient is not None
        active, steep = (value.reshape(*value.shape[:2], -1) for value in (torch.relu(kept[name].detach()), gradient))
        expected = {
            "mean": active.mean((0, 2)), "variance": active.mean(2).var(0),
            "saliency": (active * steep).sum(2).abs().mean(0), "random": torch.ones(active.shape[1]),
        }[criterion]  # fmt: skip
        assert score.dtype == torch.float32
        assert torch.allclose(score, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))

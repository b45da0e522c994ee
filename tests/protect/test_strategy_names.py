# SPDX-License-Identifier: BSD-2-Clause
"""The search calls each network by one name, and has those that results are reported on."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from digits_data import digits_splits
from torch import nn

from cloister.protect.mirror import Pair, build_pair, taps_of
from cloister.protect.mirror.saliency import salient_channels
from cloister.protect.results.strategies import STRATEGIES
from cloister.protect.strategy import Strategy
from cloister.protect.training import TrainingError, network
from cloister.search.strategies import CHOICES, point_of, slots, strategy_space

SHAPES = {"digits": (1, 8, 8), "lenet5": (1, 28, 28), "vgg7": (3, 32, 32), "resnet20": (3, 32, 32)}
#: What strategies of the results have that the space deliberately lacks.
LACKING: dict[tuple[str, str], dict[str, Any]] = {
    ("digits", "small"): {"cpm_width": 12},
    ("digits", "pruned-last"): {"pruned": 0.8},
    ("lenet5", "cheapest"): {"backbone_width": 0.84},
    ("vgg7", "pruned"): {"pruned": 0.8},
    ("vgg7", "pruned-last"): {"pruned": 0.8},
    ("resnet20", "truncated"): {"cpm_width": 64, "cpm_depth": 3},
}
DRAWN = 40


@cache
def victim(name: str) -> nn.Module:
    return network(name, SHAPES[name][0], 10, 1).eval()


def pair_of(name: str, strategy: Strategy) -> Pair:
    channels = {}
    if name == "digits":
        channels = salient_channels(victim(name), digits_splits(), strategy, 0)
    return build_pair(victim(name), SHAPES[name], 10, strategy, channels=channels)


def alike(name: str, one: Pair, other: Pair) -> bool:
    """Whether they are one network for who runs them: what is exposed, what crosses, what answers."""
    images = torch.randn((2, *SHAPES[name]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answers = [(*pair.backbone(images), pair(images)) for pair in (one, other)]
    return one.crossings == other.crossings and all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in STRATEGIES for variant in STRATEGIES[name]])
def test_the_space_has_the_strategies_of_the_results(name: str, variant: str) -> None:
    strategy, taps = STRATEGIES[name][variant], taps_of(victim(name), SHAPES[name])
    point = point_of(strategy, list(taps))
    lacking = {key: point[key] for key in CHOICES if point[key] not in CHOICES[key]}
    assert lacking == LACKING.get((name, variant), {})
    found = strategy_space(list(taps), shapes=taps).build(point)
    if strategy.kind == "whole":
        assert found == strategy
    else:
        assert (found.precision, found.pruned, found.lock) == (strategy.precision, strategy.pruned, strategy.lock)
        assert alike(name, pair_of(name, strategy), pair_of(name, found))


def test_a_strategy_of_the_space_is_what_its_point_says() -> None:
    taps = taps_of(victim("digits"), SHAPES["digits"])
    space = strategy_space(list(taps), shapes=taps, lock=("none",), pruned=(None,))
    draw = np.random.default_rng(1)
    renamed = 0
    for _ in range(DRAWN):
        point = {name: values[draw.integers(len(values))] for name, values in space.choices.items()}
        found = space.build(point)
        if found.kind == "whole" or found.taps == ("image",):
            continue  # what is exposed beside a monitor of the image alone is not needed
        told = {name: value for name, value in point.items() if name in CHOICES and name not in ("form", "lock")}
        assert found.taps == tuple(tap for tap in taps if tap in found.taps)
        said = Strategy(taps=found.taps, backbone=point["form"], **told)  # type: ignore[arg-type]
        assert {point[slot] for slot in slots(len(taps))} & set(taps) <= {*found.taps, "logits"}
        try:
            one = pair_of("digits", said)
        except TrainingError:
            continue  # a tap of places behind one of vectors, for one
        renamed += said != found
        assert alike("digits", one, pair_of("digits", found)), f"{said} is not {found}"
        assert space.build(point_of(found, list(taps))) == found, "a name that is settled stays"
    assert renamed >= DRAWN // 4

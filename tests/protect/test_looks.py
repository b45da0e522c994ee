# SPDX-License-Identifier: BSD-2-Clause
"""What single looks tell of turned channels, and how that is counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cloister.protect.results import looks


def test_looks_at_outputs_tell_what_was_turned_of_a_layer_that_hides_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    layer = nn.Conv2d(3, 16, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(16, 3, 3, 3, generator=generator))
        layer.weight[:8].neg_()
    chosen = torch.arange(16) < 8
    images = torch.rand(50, 3, 8, 8, generator=generator)
    for name in (
        "correlation with the sum of inputs (not hidden)",
        "direction that outputs have in common (not hidden)",
    ):
        assert looks.apart(looks.LOOKS[name](nn.Sequential(layer), "0", images), chosen) == 1
    dense = nn.Sequential(nn.Flatten(), nn.Linear(192, 16))
    assert looks.LOOKS["correlation with the sum of inputs (not hidden)"](dense, "1", images).shape == (16,)


@pytest.mark.parametrize(
    ("numbers", "told"), [([3.0, 4, 1, 2], 1.0), ([1.0, 2, 3, 4], 1.0), ([1.0, 1, 1, 1], 0.5), ([2.0, 4, 1, 3], 0.75)]
)
def test_what_a_look_tells_is_counted_in_pairs(numbers: list[float], told: float) -> None:
    assert looks.apart(torch.tensor(numbers), torch.tensor([True, True, False, False])) == told

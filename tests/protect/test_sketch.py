# SPDX-License-Identifier: BSD-2-Clause
"""Sketches that costs are estimated from, against the files that go to the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloister.estimate.pair import predict
from cloister.protect.automatic.costs import sketch
from cloister.protect.mirror import build_pair, export_pair
from cloister.protect.strategy import Strategy
from cloister.protect.training import network

#: Where a state with places meets taps that are vectors, it is added through a dense layer without bias.
JOINED = {"taps": ("2", "9"), "tail": "short", "operator": "separable", "head": "average"}


@pytest.mark.parametrize(
    "given",
    [
        {**JOINED, "cpm_width": 2, "pool": 4, "channels": 0.125, "precision": "int8"},
        {**JOINED, "taps": ("2", "6", "9", "logits"), "cpm_width": 16, "pool": 8, "precision": "int8"},
        {**JOINED, "cpm_width": 8, "precision": "fp32"},
    ],
)
def test_a_sketch_takes_what_the_files_for_the_device_take(given: dict[str, Any], tmp_path: Path) -> None:
    pair = build_pair(network("digits", 1, 10, 0).eval(), (1, 8, 8), 10, Strategy(**given))
    assert any(name.endswith("keep.weight") for name, _ in pair.cpm.named_parameters())
    (tmp_path / "real").mkdir()
    quick, real = sketch(pair, tmp_path), export_pair(pair, tmp_path / "real")
    told, true = (predict(backbone, cpm, backbone) for backbone, cpm in (quick, real))
    assert (told.secure_memory, told.loaded) == (true.secure_memory, true.loaded)
    assert told.secure_world == pytest.approx(true.secure_world, rel=0.01)
    assert told.bytes_in == true.bytes_in

# SPDX-License-Identifier: BSD-2-Clause
"""A pair as two ONNX files: what the normal world runs, and what goes into the TA."""

from __future__ import annotations

from pathlib import Path

from cloister.protect.mirror.pair import Pair
from cloister.protect.strategy import IMAGE
from cloister.protect.training.export import export_tensors

#: Names of the files.
BACKBONE_FILE, CPM_FILE = "backbone.onnx", "cpm.onnx"


def export_pair(pair: Pair, folder: Path) -> tuple[Path, Path]:
    """Write ``backbone.onnx`` and ``cpm.onnx``, each checked against onnxruntime's answer.

    ``backbone.onnx``: input ``image`` (batch, C, H, W); outputs ``logits`` (batch, classes), the backbone's own, then
    ``tap_0``, ``tap_1``, ... in the order in which they become ready, reduced as they cross. ``cpm.onnx``: inputs
    ``image``, if the strategy taps it, and the same ``tap_0``, ...; output ``logits``. All float32.

    Raises:
        TrainingError: torch cannot export a half.
    """
    inputs = {crossing.input: crossing.shape for crossing in pair.crossings}
    outputs = ("logits", *(name for name in inputs if name != IMAGE))
    backbone = export_tensors(pair.backbone, {"image": pair.shape}, outputs, folder / BACKBONE_FILE)
    cpm = export_tensors(pair.cpm, inputs, ("logits",), folder / CPM_FILE)
    return backbone, cpm

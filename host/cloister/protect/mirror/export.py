# SPDX-License-Identifier: BSD-2-Clause
"""A pair as two ONNX files: what the normal world runs, and what goes into the TA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cloister.password import Password
from cloister.protect.mirror.narrow import synthetic
from cloister.protect.mirror.pair import Pair
from cloister.protect.mirror.quantise import quantise_pair
from cloister.protect.strategy import IMAGE
from cloister.protect.training.export import export_tensors

#: Names of the files.
BACKBONE_FILE, CPM_FILE = "backbone.onnx", "cpm.onnx"


def export_pair(
    pair: Pair, folder: Path, samples: npt.NDArray[np.float32] | None = None, password: Password | None = None
) -> tuple[Path, Path]:
    """Write ``backbone.onnx`` and ``cpm.onnx``, each checked against onnxruntime's answer in float32.

    ``backbone.onnx``: input ``image`` (batch, C, H, W); outputs ``logits`` (batch, classes), the backbone's own, then
    ``tap_0``, ``tap_1``, ... in the order in which they become ready, reduced as they cross; each is computed as soon
    as what it needs is there, so that the CPM can begin with it. ``cpm.onnx``: inputs ``image``, if the strategy taps
    it, and the same ``tap_0``, ...; output ``logits``. All float32, but for strategies in 8 bits: there both files are
    quantised, and taps are int8.

    Args:
        pair: trained or not.
        folder: gets the files.
        samples: normalised training images (N, C, H, W) that ranges of 8-bit tensors are measured on, but for random
            backbones only those within the CPM; default: synthetic ones, which do for estimates of costs.
        password: what the CPM is locked with: its file names the lock, its 8-bit form is made for who has the password.

    Raises:
        TrainingError: torch cannot export a half.
    """
    inputs = {crossing.input: crossing.shape for crossing in pair.crossings}
    outputs = ("logits", *(name for name in inputs if name != IMAGE))
    backbone = export_tensors(pair.backbone, {"image": pair.shape}, outputs, folder / BACKBONE_FILE)
    _early(backbone, outputs[0])
    cpm = export_tensors(pair.cpm, inputs, ("logits",), folder / CPM_FILE)
    if pair.strategy.precision == "int8":
        images = synthetic(pair.shape, 16, 0).numpy() if samples is None else samples
        quantise_pair(pair, backbone, cpm, images, password)
    if password is not None:  # last, as what is named so is not quantised without its password
        password.stamp(cpm)
    return backbone, cpm


def _early(path: Path, answer: str) -> None:
    """Put the nodes that only reduce taps right behind those that make the tapped tensors."""
    import onnx

    model = onnx.load(str(path))
    nodes = list(model.graph.node)
    needed = {answer}
    main = []
    for node in reversed(nodes):
        if needed & set(node.output):
            main.append(node)
            needed |= set(node.input)
    ready = {value.name for value in (*model.graph.input, *model.graph.initializer)} | {""}
    waiting = [node for node in nodes if node not in main]
    ordered: list[Any] = []

    def place(node: Any) -> None:
        ordered.append(node)
        ready.update(node.output)

    def place_ready() -> None:
        found = next((node for node in waiting if ready.issuperset(node.input)), None)
        while found is not None:
            waiting.remove(found)
            place(found)
            found = next((node for node in waiting if ready.issuperset(node.input)), None)

    place_ready()
    for node in reversed(main):
        place(node)
        place_ready()
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    onnx.checker.check_model(model)
    aside = path.with_name(path.name + ".new")
    onnx.save(model, str(aside))
    aside.replace(path)

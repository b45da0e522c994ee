# SPDX-License-Identifier: BSD-2-Clause
"""A pair's two files run one after the other by onnxruntime: what the device computes, on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


class OnnxPair:
    """``backbone.onnx`` and ``cpm.onnx``.

    Args:
        backbone, cpm: the files.
    """

    def __init__(self, backbone: Path, cpm: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._backbone, self._cpm = (
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for path in (backbone, cpm)
        )

    def taps(self, image: Array) -> dict[str, Array]:
        """The backbone's outputs by name, ``logits`` and taps, for normalised images float32 (N, C, H, W)."""
        names = [output.name for output in self._backbone.get_outputs()]
        return dict(zip(names, self._backbone.run(None, {"image": image}), strict=True))

    def crossing(self, image: Array) -> dict[str, Array]:
        """What the CPM takes, by name."""
        known = {**self.taps(image), "image": image}
        return {value.name: known[value.name] for value in self._cpm.get_inputs()}

    def logits(self, image: Array) -> Array:
        """The pair's answers, float32 (N, classes)."""
        answers: Array = self._cpm.run(None, self.crossing(image))[0]
        return answers

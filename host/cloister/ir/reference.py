# SPDX-License-Identifier: BSD-2-Clause
"""The reference executor: ONNX's own numpy evaluator on the model as it was given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from cloister.ir.graph import Array
from cloister.ir.load import ModelSource, load_model


class Reference:
    """Runs a model with :class:`onnx.reference.ReferenceEvaluator` (exact meaning, slow)."""

    def __init__(self, source: ModelSource | onnx.ModelProto) -> None:
        """Loads the model; raises FormatError where it is none."""
        self._evaluator = ReferenceEvaluator(load_model(source))
        self.outputs: list[str] = list(self._evaluator.output_names)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, in the model's order."""
        with np.errstate(all="ignore"):
            results = self._evaluator.run(None, dict(inputs))
        return {name: np.asarray(result) for name, result in zip(self.outputs, results, strict=True)}

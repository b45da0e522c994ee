# SPDX-License-Identifier: BSD-2-Clause
"""What a kernel does, counted: the terms of the estimate.

A kernel's cost is a sum of terms, each a kind (a way through the engine's code) with counts of what that code repeats:
calls, tiles, panels, multiply-accumulates and so on. What one of them costs is not known here: the calibration finds it
(:mod:`cloister.estimate.fit`). Counts are exact, from the record alone; nothing depends on the values of activations.
"""

from __future__ import annotations

from cloister.compile.lowering import Op
from cloister.estimate import convolution, simple
from cloister.estimate.counting import Term

KERNELS = {**simple.DESCRIBED, **convolution.DESCRIBED}


def terms_of(op: Op) -> list[Term]:
    """What a kernel does; a kernel without a description of its own counts its results."""
    found = KERNELS.get(op.kernel)
    if found is None:
        return [Term(op.kernel, {"call": 1, "element": op.refs["out"].count})]
    return found(op)


__all__ = ["Term", "terms_of"]

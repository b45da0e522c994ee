# SPDX-License-Identifier: BSD-2-Clause
"""What becomes of each node case at a given place: passed, not supported and why, or failed and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cloister.compile import CompiledModel, compile_onnx
from cloister.conformance.cases import Array, NodeCase
from cloister.device.errors import DeviceError
from cloister.errors import CloisterError, UnsupportedModelError

#: Runs a compiled model on inputs by name; gives all outputs by name, in the model's order.
Runner = Callable[[CompiledModel, Mapping[str, Array]], dict[str, Array]]

PASSED = "passed"
UNSUPPORTED = "not supported"
FAILED = "failed"

#: Reasons beyond this many are left out of a case's summary.
MOST_REASONS = 2


@dataclass(frozen=True)
class Result:
    """``status`` is :data:`PASSED`, :data:`UNSUPPORTED` or :data:`FAILED`; ``reason`` is empty where it passed."""

    case: NodeCase
    status: str
    reason: str = ""


def summarise(error: UnsupportedModelError) -> str:
    """The compiler's refusal in one line: its first reasons without the names of nodes and tensors."""
    found: dict[str, None] = {}
    for line in error.message.splitlines():
        if line.startswith("  - "):
            text = re.sub(r"^node '[^']*' \((\w+)\)", r"\1", line[4:])
            text = re.sub(r"^(input|output) '[^']*'", r"\1", text)
            text = re.sub(r" of (input|output) '[^']*'", r" of an \1", text)
            found.setdefault(text)
    reasons = list(found)
    rest = len(reasons) - MOST_REASONS
    return "; ".join(reasons[:MOST_REASONS]) + (f"; and {rest} more" if rest > 0 else "")


def compile_case(case: NodeCase) -> CompiledModel | Result:
    """The compiled model, or the result that says why there is none."""
    try:
        return compile_onnx(case.model)
    except UnsupportedModelError as error:
        return Result(case, UNSUPPORTED, summarise(error))


def evaluate(case: NodeCase, run: Runner) -> Result:
    """Compiles and runs one case and compares its outputs.

    A device that is lost is no result: its error is passed on.
    """
    compiled = compile_case(case)
    if isinstance(compiled, Result):
        return compiled
    try:
        case.compare(run(compiled, case.inputs))
    except DeviceError:
        raise
    except (CloisterError, AssertionError) as error:
        return Result(case, FAILED, f"{type(error).__name__}: {error}")
    return Result(case, PASSED)


def evaluate_all(
    cases: Sequence[NodeCase], run: Runner, progress: Callable[[int, int], None] | None = None
) -> list[Result]:
    """All cases, one after the other; ``progress`` is told how many are done, of how many."""
    results = []
    for case in cases:
        results.append(evaluate(case, run))
        if progress is not None:
            progress(len(results), len(cases))
    return results

# SPDX-License-Identifier: BSD-2-Clause
"""Many node cases as one model, so that a device loads some dozens of bundles and not hundreds.

Loading is what takes time on an emulated device: two signatures and a key agreement, in software. Cases of the same
opset stand side by side in one graph, each with a prefix of its own; nothing connects them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx
from onnx import compose

from cloister.conformance.cases import NodeCase
from cloister.conformance.results import FAILED, PASSED, Result, Runner, compile_case, evaluate
from cloister.device.errors import DeviceError
from cloister.errors import CloisterError
from cloister.wire import C


def _opsets(case: NodeCase) -> tuple[object, ...]:
    imports = sorted((entry.domain, entry.version) for entry in case.model.opset_import)
    return (case.model.ir_version, *imports)


def batches(cases: Sequence[NodeCase]) -> Iterator[list[NodeCase]]:
    """Groups of the same opset with as many inputs and outputs together as a sealed model may have."""
    groups: dict[tuple[object, ...], list[NodeCase]] = {}
    for case in cases:
        groups.setdefault(_opsets(case), []).append(case)
    for group in groups.values():
        batch: list[NodeCase] = []
        inputs = outputs = 0
        for case in group:
            inputs, outputs = inputs + len(case.inputs), outputs + len(case.expected)
            if batch and (inputs > C.CL_MAX_IO or outputs > C.CL_MAX_IO):
                yield batch
                batch, inputs, outputs = [], len(case.inputs), len(case.expected)
            batch.append(case)
        yield batch


def _prefix(position: int) -> str:
    return f"case{position}/"


def side_by_side(cases: Sequence[NodeCase]) -> NodeCase:
    """One model of several cases; names of its inputs and outputs begin with the case's position.

    The cases must import the same opsets and have no functions of their own.
    """
    merged = onnx.ModelProto()
    merged.CopyFrom(cases[0].model)
    merged.graph.Clear()
    merged.graph.name = "cases"
    for position, case in enumerate(cases):
        graph = compose.add_prefix(case.model, _prefix(position)).graph
        merged.graph.node.extend(graph.node)
        merged.graph.input.extend(graph.input)
        merged.graph.output.extend(graph.output)
        merged.graph.initializer.extend(graph.initializer)
    inputs = {_prefix(p) + name: value for p, case in enumerate(cases) for name, value in case.inputs.items()}
    expected = {_prefix(p) + name: value for p, case in enumerate(cases) for name, value in case.expected.items()}
    operators = tuple(sorted({name for case in cases for name in case.operators}))
    return NodeCase("cases side by side", operators, merged, inputs, expected)


def _evaluate_batch(cases: Sequence[NodeCase], run: Runner) -> list[Result]:
    merged = side_by_side(cases)
    compiled = compile_case(merged)
    if isinstance(compiled, Result):
        raise ValueError(f"cases that compile alone do not compile together: {compiled.reason}")
    try:
        outputs = run(compiled, merged.inputs)
    except DeviceError:
        raise
    except CloisterError:
        # One case may have spoilt it for all: each alone then.
        return [evaluate(case, run) for case in cases]
    results = []
    for position, case in enumerate(cases):
        own = {name: outputs[_prefix(position) + name] for name in case.expected}
        try:
            case.compare(own)
        except AssertionError as error:
            results.append(Result(case, FAILED, f"{type(error).__name__}: {error}"))
        else:
            results.append(Result(case, PASSED))
    return results


def evaluate_in_batches(
    cases: Sequence[NodeCase], run: Runner, progress: Callable[[int, int], None] | None = None
) -> list[Result]:
    """As :func:`~cloister.conformance.results.evaluate_all`, with few and large models; the order is kept."""
    found: dict[str, Result] = {}
    together: list[NodeCase] = []
    for case in cases:
        alone = compile_case(case)
        if isinstance(alone, Result):
            found[case.name] = alone
        elif case.model.functions:
            found[case.name] = evaluate(case, run)
        else:
            together.append(case)
    for batch in batches(together):
        found.update({result.case.name: result for result in _evaluate_batch(batch, run)})
        if progress is not None:
            progress(len(found), len(cases))
    return [found[case.name] for case in cases]

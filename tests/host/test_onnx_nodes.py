# SPDX-License-Identifier: BSD-2-Clause
"""Every official ONNX node case of the supported operators, with the native engine; docs/operators.md says the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest

from cloister.compile import CompiledModel
from cloister.compile.compiler import supported_operators
from cloister.conformance.__main__ import PAGE
from cloister.conformance.batch import batches, evaluate_in_batches
from cloister.conformance.cases import NodeCase, cases_of, node_cases
from cloister.conformance.results import FAILED, PASSED, UNSUPPORTED, Result, evaluate
from cloister.conformance.runners import native_runner
from cloister.conformance.table import WRITE, read_table, render

CASES = cases_of(set(supported_operators()))

#: The operators that the project promises.
PROMISED = """
    Conv Gemm MatMul BatchNormalization Relu Clip LeakyRelu PRelu Sigmoid Tanh HardSigmoid HardSwish Elu Softmax
    LogSoftmax Add Sub Mul Div Sum Max Min Concat Split Slice Pad Transpose Reshape Flatten Squeeze Unsqueeze MaxPool
    AveragePool GlobalAveragePool GlobalMaxPool ReduceMean LRN Resize ArgMax Identity Dropout Constant ConstantOfShape
"""


@cache
def listed() -> dict[str, tuple[str, str]]:
    return read_table(PAGE)


@cache
def result_of(case: NodeCase) -> Result:
    return evaluate(case, native_runner())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_is_as_the_page_says(case: NodeCase) -> None:
    result = result_of(case)
    assert result.status != FAILED, result.reason
    assert case.name in listed(), f"{case.name} ({result.status}) is not in {PAGE.name}; write it with `{WRITE}`"
    assert (result.status, result.reason) == listed()[case.name]


def test_page_is_what_would_be_written() -> None:
    page = render([result_of(case) for case in CASES], node_cases())
    assert PAGE.read_text(encoding="utf-8") == page, f"docs/{PAGE.name} is stale; write it with `{WRITE}`"


def test_page_lists_nothing_else() -> None:
    assert set(listed()) == {case.name for case in CASES}


@pytest.mark.parametrize("operator", PROMISED.split())
def test_promised_operator_passes_a_case(operator: str) -> None:
    assert any(operator in case.operators and listed()[case.name][0] == PASSED for case in CASES)


def test_only_dtype_training_indices_scales_and_empty_tensors_are_refused() -> None:
    known = ("dtype", "type =", "training_mode", "Indices", "empty tensors", "finite float32 scale")
    for case in CASES:
        status, reason = listed()[case.name]
        if status == UNSUPPORTED:
            assert any(word in reason for word in known), f"{case.name}: {reason}"


def test_a_wrong_answer_fails_a_case() -> None:
    case = next(case for case in CASES if case.name == "test_relu")

    def wrong(_model: object, _inputs: object) -> dict[str, np.ndarray]:
        return {name: value + 1 for name, value in case.expected.items()}

    result = evaluate(case, wrong)
    assert result.status == FAILED
    assert "AssertionError" in result.reason


def test_batches_give_the_same_results() -> None:
    alone = [result_of(case) for case in CASES]
    together = evaluate_in_batches(CASES, native_runner())
    assert [(result.case.name, result.status, result.reason) for result in together] == [
        (result.case.name, result.status, result.reason) for result in alone
    ]


def test_a_wrong_answer_in_a_batch_fails_its_case_alone() -> None:
    run = native_runner()

    def wrong(model: CompiledModel, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = run(model, inputs)
        first = next(iter(outputs))
        return {**outputs, first: outputs[first] + 1}

    cases = [case for case in CASES if case.name in ("test_reshape_negative_dim", "test_reshape_reordered_all_dims")]
    assert [len(batch) for batch in batches(cases)] == [2]
    assert [result.status for result in evaluate_in_batches(cases, wrong)] == [FAILED, PASSED]

# SPDX-License-Identifier: BSD-2-Clause
"""The same official ONNX node cases, sealed and run inside the TA: one boot, about a dozen cases in each bundle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloister.compile.compiler import supported_operators
from cloister.conformance.__main__ import PAGE
from cloister.conformance.batch import evaluate_in_batches
from cloister.conformance.cases import NodeCase, cases_of
from cloister.conformance.results import FAILED, Result
from cloister.conformance.runners import device_runner
from cloister.conformance.table import read_table
from cloister.device import Device
from cloister.seal import VendorKey

CASES = cases_of(set(supported_operators()))


@pytest.fixture(scope="module")
def results(device: Device) -> Iterator[dict[str, Result]]:
    """Results by name; all cases run at once, as loading takes most of the time."""
    yield {result.case.name: result for result in evaluate_in_batches(CASES, device_runner(device, VendorKey.load()))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_is_as_the_page_says(case: NodeCase, results: dict[str, Result]) -> None:
    result = results[case.name]
    assert result.status != FAILED, result.reason
    assert (result.status, result.reason) == read_table(PAGE)[case.name]

# SPDX-License-Identifier: BSD-2-Clause
"""The same official ONNX node cases, sealed and run inside the TA: one boot, one session after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloister.compile.compiler import supported_operators
from cloister.conformance.__main__ import PAGE
from cloister.conformance.cases import NodeCase, cases_of
from cloister.conformance.results import FAILED, Result, evaluate_all
from cloister.conformance.runners import device_runner
from cloister.conformance.table import read_table
from cloister.device import Device
from cloister.seal import VendorKey

CASES = cases_of(set(supported_operators()))


@pytest.fixture(scope="module")
def results(device: Device) -> Iterator[dict[str, Result]]:
    """Results by name; all cases are run at once, so that a lost device is told once."""
    yield {result.case.name: result for result in evaluate_all(CASES, device_runner(device, VendorKey.load()))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_is_as_the_page_says(case: NodeCase, results: dict[str, Result]) -> None:
    result = results[case.name]
    assert result.status != FAILED, result.reason
    assert (result.status, result.reason) == read_table(PAGE)[case.name]

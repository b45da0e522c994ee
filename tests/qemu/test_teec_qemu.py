# SPDX-License-Identifier: BSD-2-Clause
"""The bridge on the emulated device, driving TAs of OP-TEE that are not this project's.

teec_cases.py runs there once and reports every case; each test here asserts one of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("teec_cases.py")

#: Each case of the script, and what its result must hold. A case that is not here fails test_every_case_is_asserted.
CASES: dict[str, dict[str, Any]] = {
    "constants": {},
    "value_in_and_out": {},
    "value_inout": {},
    "temp_memory": {},
    "memory_in_inout_out": {},
    "partial_memory": {},
    "registered_memory_is_not_copied": {"buffers": 3},  # mmap, bytearray, numpy
    "null_and_empty_memory": {},
    "short_buffer": {"class": "ShortBuffer", "name": "SHORT_BUFFER", "origin": "TRUSTED_APP"},
    "unknown_uuid": {"class": "ItemNotFound", "name": "ITEM_NOT_FOUND", "code": 0xFFFF0008, "origin": "TEE"},
    "damaged_ta": {"class": "Security", "name": "SECURITY", "origin": "TEE"},
    "bad_command": {"class": "BadParameters", "origin": "TRUSTED_APP"},
    "bad_parameters": {"class": "BadParameters", "origin": "TRUSTED_APP"},
    "registered_names": {"class": "TaError", "name": "NOT_A_DIGEST_REQUEST", "code": 0xFFFF0006},
    "panic": {"class": "TargetDead", "origin": "TEE", "again": "TARGET_DEAD"},
    "cancellation": {"class": "Cancel", "code": 0xFFFF0002, "origin": "TRUSTED_APP"},
    "after_cancellation": {},
    "closing_during_a_call": {"outcome": ["CANCEL"]},
    "other_threads_run_meanwhile": {},
    "two_threads": {},
    "released_in_every_path": {
        "works": 0,
        "fails_to_open": 0,
        "fails_in_the_call": 0,
        "fails_to_register": 0,
        "dropped": 0,
        "closed_twice": 0,
    },
    "command_line": {},
}


@pytest.fixture(scope="module")
def report(device: Any) -> dict[str, dict[str, Any]]:
    """What the script printed: one entry for each case."""
    device.upload(SCRIPT, "/tmp/teec_cases.py")
    package = f"{device.agent_directory()}/python"
    environment = f"PYTHONPATH={package} PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=/tmp/.cloister-pycache"
    # The case "panic" makes a TA panic on purpose.
    with device.expect_ta_panic() as lines:
        done = device.run(f"cd / && {environment} python3 /tmp/teec_cases.py", check=False, timeout=400)
    assert done.stdout, done
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert lines, "the TA's panic is missing in the secure world's log"
    return found


def test_every_case_is_asserted(report: dict[str, dict[str, Any]]) -> None:
    assert sorted(report) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_bridge(report: dict[str, dict[str, Any]], name: str) -> None:
    entry = report[name]
    assert entry["ok"], entry.get("error")
    for key, value in CASES[name].items():
        assert entry["result"][key] == value, entry["result"]

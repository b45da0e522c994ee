# SPDX-License-Identifier: BSD-2-Clause
"""Shared memory that changes under the TA, and work that is cancelled; ta_races.py does it on the device."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ta_driver import CANCEL, MAC_INVALID, Sample

from cloister.device import Device
from cloister.device.ta import CLOISTER_TA
from cloister.seal import VendorKey
from cloister.wire import C

QUERIES = 40


@pytest.fixture(scope="module")
def report(device: Device) -> dict[str, Any]:
    from pathlib import Path

    sample = Sample.make(VendorKey.load(), device.public_key(), [1 << 20] * 2)
    folder = "/tmp/ta_races"
    device.run(f"mkdir -p {folder}")
    files = {
        "manifest": sample.bundle.manifest,
        "licence": sample.licence(queries=QUERIES),
        "payload": sample.bundle.payload,
        "ta_races.py": Path(__file__).with_name("ta_races.py"),
    }
    for name, source in files.items():
        device.upload(source, f"{folder}/{name}")
    directory = device.agent_directory()
    environment = f"PYTHONPATH={directory}/python LD_LIBRARY_PATH={directory}/lib"
    done = device.run(f"cd / && {environment} python3 {folder}/ta_races.py {folder} {CLOISTER_TA}", timeout=300)
    device.run(f"rm -r {folder}")
    return dict(json.loads(done.text.splitlines()[-1]))


def test_a_changing_header_gives_an_answer_or_a_refusal(report: dict[str, Any]) -> None:
    refusals = {0xFFFF0005, C.CL_ERROR_VERSION, C.CL_ERROR_WRONG_KEY, C.CL_ERROR_WRONG_PARTITION}
    assert set(report["header"]) <= {"SUCCESS", *(f"0x{code:08x}" for code in refusals)}


def test_changing_ciphertext_gives_an_answer_or_a_wrong_tag(report: dict[str, Any]) -> None:
    assert set(report["ciphertext"]) <= {"SUCCESS", f"0x{MAC_INVALID:08x}"}
    assert f"0x{MAC_INVALID:08x}" in report["ciphertext"], "the attacker never struck"


def test_cancellation_is_heard(report: dict[str, Any]) -> None:
    assert set(report["cancelled"]) <= {"SUCCESS", f"0x{CANCEL:08x}"}
    assert f"0x{CANCEL:08x}" in report["cancelled"]


def test_the_session_lives_on_and_only_answers_were_charged(report: dict[str, Any]) -> None:
    assert report["after"] == "SUCCESS"
    answers = [*report["cancelled"], *report["header"], *report["ciphertext"], report["after"]].count("SUCCESS")
    assert report["left"] == QUERIES - answers

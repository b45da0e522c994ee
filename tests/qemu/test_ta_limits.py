# SPDX-License-Identifier: BSD-2-Clause
"""What the TA keeps to: secure memory, licences' limits, versions seen; alone and with several sessions."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from ta_driver import OUT_OF_MEMORY, SAMPLE_INPUT, SUCCESS, Sample, Ta

from cloister.device import Device
from cloister.seal import VendorKey
from cloister.wire import C

MIB = 1 << 20


@pytest.fixture(scope="module")
def vendor() -> VendorKey:
    return VendorKey.load()


@pytest.fixture(scope="module")
def key(device: Device) -> bytes:
    return device.public_key()


# ---- Memory --------------------------------------------------------------------------------------


def test_memory_decides_what_stays_resident(device: Device, vendor: VendorKey, key: bytes) -> None:
    sizes = [64 * 1024] * 8
    sample = Sample.make(vendor, key, sizes)
    with Ta(device) as ta:
        seen = set()
        for limit in range(40 * 1024, 760 * 1024, 80 * 1024):
            if ta.load_code(sample.bundle.manifest, sample.licence(), limit) != SUCCESS:
                assert limit < 2 * 64 * 1024
                assert ta.state() == C.CL_STATE_OPEN
                continue
            loaded = ta.load(sample, memory=limit)
            resident = loaded.resident_count
            seen.add(resident)
            assert ta.run(sample.bundle.payload) == (SAMPLE_INPUT, 8)
            assert ta.run(sample.bundle.payload) == (SAMPLE_INPUT, 8 - resident)
            usage = ta.usage()
            assert usage.peak_bytes <= limit
            assert usage.bytes_decrypted == (16 - resident) * 64 * 1024
            # Nothing is left unused that another partition would have fitted into.
            assert resident == 8 or limit - usage.resident_bytes < 64 * 1024
        assert {0, 8} <= seen and len(seen) > 3


def test_too_little_memory_leaves_nothing_behind(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key, [MIB])
    with Ta(device) as ta:
        for limit in (1, 4096, 100_000, MIB - 4096):
            assert ta.load_code(sample.bundle.manifest, sample.licence(), limit) == OUT_OF_MEMORY
            assert ta.state() == C.CL_STATE_OPEN
        ta.works(sample)


def test_more_than_there_is_is_streamed(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key, [MIB] * 24)
    x = np.frombuffer(SAMPLE_INPUT, "<f4").reshape(2, 5)
    from cloister.seal import Licence

    with device.load(sample.bundle, Licence(sample.licence())) as session:
        assert 4 < session.resident_count < 24
        for decrypted in (24, 24 - session.resident_count):
            answers = session.run(x, "full", finite=False)
            assert answers.outputs is not None
            assert answers.outputs["y"].tobytes() == SAMPLE_INPUT
            assert answers.decrypted == decrypted
        assert session.usage().peak_bytes > 8 * MIB


def test_memory_is_given_back(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key, [MIB] * 6)
    with Ta(device) as ta:
        taken = set()
        for _ in range(6):
            assert ta.load(sample).resident_count == 6
            taken.add(ta.usage().resident_bytes)
        assert len(taken) == 1
    for _ in range(3):
        with Ta(device) as ta:
            assert ta.load(sample).resident_count == 6


# ---- Limits --------------------------------------------------------------------------------------


def test_label_licence_reveals_labels_only(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key)
    rows = struct.pack("<10f", 1, 5, 5, float("nan"), 2, float("-inf"), -1, -0.0, 0.0, -3)
    with Ta(device) as ta:
        loaded = ta.load(sample, sample.licence(output="label"))
        assert (loaded.output, loaded.input_size, loaded.output_size) == (C.CL_OUTPUT_LABEL, 40, 40)
        payload = sample.bundle.payload
        answer, _ = ta.run(payload, data=rows, output=C.CL_OUTPUT_LABEL, size=16)
        assert struct.unpack("<IfIf", answer) == (1, 0.0, 2, 0.0)
        assert ta.run_code(payload, output=C.CL_OUTPUT_TOP_K, k=1) == C.CL_ERROR_OUTPUT_LIMIT
        assert ta.run_code(payload, output=C.CL_OUTPUT_FULL) == C.CL_ERROR_OUTPUT_LIMIT
        ta.begin()
        assert ta.code(C.CL_CMD_FINISH, *ta.finish_params()) == C.CL_ERROR_OUTPUT_LIMIT


def test_top_k_licence(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key)
    rows = struct.pack("<10f", 1, 5, 5, float("nan"), 2, 9, 8, 7, 6, 5)
    with Ta(device) as ta:
        ta.load(sample, sample.licence(output="top-k", top_k=3))
        answer, _ = ta.run(sample.bundle.payload, data=rows, output=C.CL_OUTPUT_TOP_K, k=3, size=48)
        assert struct.unpack("<IfIfIfIfIfIf", answer) == (1, 5, 2, 5, 4, 2, 0, 9, 1, 8, 2, 7)
        code = ta.run_code(sample.bundle.payload, output=C.CL_OUTPUT_TOP_K, k=4, size=64)
        assert code == C.CL_ERROR_OUTPUT_LIMIT
        assert ta.run_code(sample.bundle.payload, output=C.CL_OUTPUT_FULL) == C.CL_ERROR_OUTPUT_LIMIT


def answers_until_refused(ta: Ta, sample: Sample, most: int) -> tuple[int, int]:
    for count in range(most):
        code = ta.run_code(sample.bundle.payload)
        if code != SUCCESS:
            return count, code
    return most, SUCCESS


def test_query_limit_lasts_across_sessions(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key, [64])
    licence = sample.licence(queries=40)
    with Ta(device) as ta:
        assert ta.load(sample, licence).queries_left == 40
        assert answers_until_refused(ta, sample, 7) == (7, SUCCESS)
        # Neither a refusal nor an inference that was given up costs a query.
        assert ta.run_code(sample.bundle.payload[:-1]) != SUCCESS
        broken = bytearray(sample.bundle.payload)
        ta.invoke(C.CL_CMD_UNLOAD)
        assert ta.load(sample, licence).queries_left == 33
        broken[40] ^= 1
        assert ta.run_code(bytes(broken)) != SUCCESS
        ta.begin()
    with Ta(device) as ta:
        assert ta.load(sample, licence).queries_left == 33
        assert answers_until_refused(ta, sample, 200) == (33, C.CL_ERROR_QUERY_LIMIT)
        assert ta.load(sample, licence).queries_left == 0
        assert ta.run_code(sample.bundle.payload) == C.CL_ERROR_QUERY_LIMIT
        # Another licence for the same model has a count of its own.
        assert ta.load(sample, sample.licence(queries=5)).queries_left == 5


def test_rate_limit_lasts_across_sessions(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key, [64])
    licence = sample.licence(rate_per_minute=20)
    for expected in (20, 0, 0):
        with Ta(device) as ta:
            ta.load(sample, licence)
            assert answers_until_refused(ta, sample, 25) == (expected, C.CL_ERROR_RATE_LIMIT)


def test_two_sessions_share_a_licence(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key, [64])
    licence = sample.licence(queries=16)
    with Ta(device) as first, Ta(device) as second:
        first.load(sample, licence)
        second.load(sample, licence)
        answered = 0
        for _ in range(10):
            answered += first.run_code(sample.bundle.payload) == SUCCESS
            answered += second.run_code(sample.bundle.payload) == SUCCESS
        assert answered == 16
        assert first.run_code(sample.bundle.payload) == C.CL_ERROR_QUERY_LIMIT


def test_sessions_do_not_touch_each_other(device: Device, vendor: VendorKey, key: bytes) -> None:
    sample = Sample.make(vendor, key)
    with Ta(device) as first, Ta(device) as second:
        first.load(sample)
        first.begin()
        assert second.state() == C.CL_STATE_OPEN
        second.works(sample)
        second.invoke(C.CL_CMD_UNLOAD)
        assert first.state() == C.CL_STATE_RUNNING
        for offset, size, _ in sample.bundle.partitions:
            first.step(sample.bundle.payload[offset : offset + size])
        answer, _ = first.invoke(C.CL_CMD_FINISH, *first.finish_params())
        assert bytes(answer) == SAMPLE_INPUT


# ---- Versions ------------------------------------------------------------------------------------


def test_rollback(device: Device, vendor: VendorKey, key: bytes) -> None:
    old = Sample.make(vendor, key, [64])
    name = old.bundle.name
    new, newest = (Sample.make(vendor, key, [64], name=name, version=version) for version in (2, 3))
    wide = {"min_version": 1, "max_version": 9}
    with Ta(device) as ta:
        ta.load(old, old.licence(**wide))
        # Refused before it is opened, or outside its licence: this must not raise the version.
        assert ta.load_code(newest.bundle.manifest, old.licence(**wide)) == C.CL_ERROR_WRONG_KEY
        licence = newest.licence(min_version=1, max_version=2)
        assert ta.load_code(newest.bundle.manifest, licence) == C.CL_ERROR_ROLLBACK
        assert ta.load_code(newest.bundle.manifest, newest.licence(**wide), 1) == OUT_OF_MEMORY
        ta.load(old, old.licence(**wide))

        ta.load(new, new.licence(**wide))
        assert ta.load_code(old.bundle.manifest, old.licence(**wide)) == C.CL_ERROR_ROLLBACK
        ta.load(new, new.licence(**wide))
    with Ta(device) as ta:
        assert ta.load_code(old.bundle.manifest, old.licence(**wide)) == C.CL_ERROR_ROLLBACK
        ta.load(newest, newest.licence(**wide))
        assert ta.load_code(new.bundle.manifest, new.licence(**wide)) == C.CL_ERROR_ROLLBACK
        ta.load(Sample.make(vendor, key, [64]))  # another model

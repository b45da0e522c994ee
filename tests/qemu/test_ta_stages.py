# SPDX-License-Identifier: BSD-2-Clause
"""Inputs of a pair, one after the other, in every order and size that an attacker may choose."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from ta_driver import (
    BAD_FORMAT,
    BAD_PARAMETERS,
    BAD_STATE,
    MAC_INVALID,
    SIGNATURE_INVALID,
    SUCCESS,
    Sample,
    Ta,
    plain_partition,
)

from cloister.device import Device
from cloister.layers import layers_of
from cloister.seal import VendorKey, seal_bundle
from cloister.seal.bundle import MANIFEST_DOMAIN, TensorInfo
from cloister.teec.params import TempMemory, Value
from cloister.wire import C, ffi

SIZES = (24, 8, 16)
INPUTS = [bytes([10 * i + j for j in range(size)]) for i, size in enumerate(SIZES)]
ANSWER = b"".join(INPUTS)
#: Partitions, and for each input the one that waits for it.
FIRST = [0, 1, 3]
COUNT = 4
#: Tests that get one answer; all others are refused or give up.
ANSWERED = ("test_stages_in_order", "test_run_takes_the_rest")


@dataclass(frozen=True)
class Taps:
    """Three inputs, which are the outputs as well."""

    partitions: Sequence[bytes]
    arena_size: int = 256
    inputs: Sequence[TensorInfo] = tuple(
        TensorInfo(f"tap_{i}", C.CL_DTYPE_F32, (size // 4,), 64 * i, size) for i, size in enumerate(SIZES)
    )
    outputs: Sequence[TensorInfo] = inputs

    @property
    def layers(self) -> dict[bytes, int]:
        return layers_of(self.partitions)


def make(vendor: VendorKey, key: bytes, first: Sequence[int] = FIRST) -> Sample:
    model = Taps([plain_partition(64 * (i + 1)) for i in range(COUNT)])
    name = f"taps {random.randbytes(8).hex()}"
    bundle, content = seal_bundle(model, vendor, name=name, section=b"not the TA's business", first_uses=first)
    return Sample(vendor, key, bundle, content)


@pytest.fixture(scope="module")
def sample(device: Device) -> Sample:
    return make(VendorKey.load(), device.public_key())


@pytest.fixture(scope="module")
def session(device: Device) -> Iterator[Ta]:
    with Ta(device) as opened:
        yield opened


@pytest.fixture(params=["resident", "cold"])
def ta(session: Ta, sample: Sample, request: pytest.FixtureRequest) -> Iterator[Ta]:
    """The model loaded; resident: decrypted as well. It must still answer an honest user afterwards."""
    session.load(sample, sample.licence(queries=1000))
    if request.param == "resident":
        assert run(session, sample, ANSWER) == (ANSWER, COUNT)
    before = session.usage().queries
    yield session
    if session.state() == C.CL_STATE_RUNNING:
        assert feed_code(session, b"") == BAD_PARAMETERS
    assert session.state() == C.CL_STATE_READY
    # What was given up or refused was not charged.
    assert session.usage().queries - before == (request.node.originalname in ANSWERED)
    assert run(session, sample, ANSWER)[0] == ANSWER


def run(ta: Ta, sample: Sample, data: bytes) -> tuple[bytes, int]:
    return ta.run(sample.bundle.payload, data=data, size=48)


def feed(ta: Ta, data: bytes) -> tuple[int, int]:
    wanted = ta.invoke(C.CL_CMD_FEED, TempMemory(data), Value(0, 0, "out"))[1]
    return wanted.a, wanted.b


def feed_code(ta: Ta, data: bytes) -> int:
    return ta.code(C.CL_CMD_FEED, TempMemory(data), Value(0, 0, "out"))


def part(sample: Sample, index: int) -> bytes:
    offset, size, _ = sample.bundle.partitions[index]
    return sample.bundle.payload[offset : offset + size]


def give(ta: Ta, sample: Sample, wanted: tuple[int, int]) -> tuple[int, int]:
    """Step until an input is wanted, or all is done."""
    while wanted[0] < COUNT and wanted[1]:
        assert wanted[1] == len(part(sample, wanted[0]))
        pair = ta.step(part(sample, wanted[0]))
        wanted = pair.a, pair.b
    return wanted


def test_stages_in_order(ta: Ta, sample: Sample) -> None:
    """One input at a time; each time the TA runs as far as it can, and says where it stands."""
    usage = ta.usage().queries
    for data, place in zip(INPUTS, (1, 3, COUNT), strict=True):
        assert give(ta, sample, feed(ta, data)) == (place, 0)
        assert ta.state() == C.CL_STATE_RUNNING
    answer, values = ta.invoke(C.CL_CMD_FINISH, *ta.finish_params(48))
    assert bytes(answer[: values.a]) == ANSWER
    assert ta.usage().queries == usage + 1


@pytest.mark.parametrize("split", [(1, 2), (2, 1), (3,)])
def test_several_inputs_at_once(ta: Ta, sample: Sample, split: tuple[int, ...]) -> None:
    at = 0
    wanted = (0, 0)
    for count in split:
        wanted = give(ta, sample, feed(ta, b"".join(INPUTS[at : at + count])))
        at += count
    assert wanted == (COUNT, 0)
    assert feed_code(ta, INPUTS[0]) == BAD_STATE
    assert run_code(ta, sample, INPUTS[2]) == BAD_STATE
    assert ta.state() == C.CL_STATE_RUNNING
    # Out of the inference by a refusal: no partition is left.
    assert ta.step_code(b"") == BAD_STATE
    assert ta.state() == C.CL_STATE_READY


def run_code(ta: Ta, sample: Sample, data: bytes, size: int = 48, output: int = C.CL_OUTPUT_FULL) -> int:
    return ta.run_code(sample.bundle.payload, data=data, size=size, output=output)


def test_run_takes_the_rest(ta: Ta, sample: Sample) -> None:
    give(ta, sample, feed(ta, INPUTS[0]))
    assert run(ta, sample, INPUTS[1] + INPUTS[2])[0] == ANSWER
    assert ta.state() == C.CL_STATE_READY


@pytest.mark.parametrize("given", [0, 1, 2])
def test_wrong_sizes(ta: Ta, given: int) -> None:
    """No size but that of whole inputs, the next ones, is taken; in the middle a refusal ends the inference."""
    right = {sum(SIZES[given:end]) for end in range(given + 1, 4)}
    for size in (0, 1, 7, 8, 9, 16, 23, 24, 25, 31, 32, 33, 47, 48, 49, 100_000):
        if size in right:
            continue
        for data in INPUTS[:given]:
            feed(ta, data)
        assert feed_code(ta, bytes(size)) == BAD_PARAMETERS, size
        assert ta.state() == C.CL_STATE_READY, size


@pytest.mark.parametrize("given", [1, 2])
def test_run_refuses_what_is_not_exactly_the_rest(ta: Ta, sample: Sample, given: int) -> None:
    rest = sum(SIZES[given:])
    cases = [(bytes(size), 48, C.CL_OUTPUT_FULL, BAD_PARAMETERS) for size in (0, rest - 1, rest + 1, sum(SIZES))]
    cases += [(bytes(rest), 47, C.CL_OUTPUT_FULL, 0xFFFF0010), (bytes(rest), 48, 77, BAD_PARAMETERS)]
    for data, size, output, code in cases:
        for fed in INPUTS[:given]:
            feed(ta, fed)
        assert run_code(ta, sample, data, size, output) == code
        assert ta.state() == C.CL_STATE_READY


def test_partitions_do_not_run_before_their_inputs(ta: Ta, sample: Sample) -> None:
    assert give(ta, sample, feed(ta, INPUTS[0])) == (1, 0)
    assert ta.code(C.CL_CMD_FINISH, *ta.finish_params(48)) == BAD_STATE
    assert ta.code(C.CL_CMD_BEGIN, TempMemory(ANSWER), Value(0, 0, "out")) == BAD_STATE
    assert ta.load_code(sample.bundle.manifest, sample.licence()) == BAD_STATE
    assert ta.state() == C.CL_STATE_RUNNING
    assert ta.step_code(part(sample, 1)) == BAD_STATE
    assert ta.state() == C.CL_STATE_READY
    assert ta.code(C.CL_CMD_FINISH, *ta.finish_params(48)) == BAD_STATE


def test_begin_takes_all_or_nothing(ta: Ta) -> None:
    for end in range(3):
        assert ta.code(C.CL_CMD_BEGIN, TempMemory(b"".join(INPUTS[:end])), Value(0, 0, "out")) == BAD_PARAMETERS
        assert ta.state() == C.CL_STATE_READY


def test_a_partition_damaged_between_two_inputs_ends_the_inference(session: Ta, sample: Sample) -> None:
    session.load(sample, sample.licence(queries=10))
    give(session, sample, feed(session, INPUTS[0]))
    wanted = feed(session, INPUTS[1])
    assert wanted == (1, len(part(sample, 1)))
    damaged = bytearray(part(sample, 1))
    damaged[-1] ^= 1
    assert session.step_code(bytes(damaged)) == MAC_INVALID
    assert session.state() == C.CL_STATE_READY
    assert feed_code(session, INPUTS[2]) == BAD_PARAMETERS
    assert run(session, sample, ANSWER)[0] == ANSWER


def test_abandoned_inferences_cost_nothing_and_leave_nothing(device: Device, sample: Sample) -> None:
    """Sessions that end in the middle, and models that are dropped there; a licence of two answers still has both."""
    licence = sample.licence(queries=2)
    for given in (1, 2, 3):
        with Ta(device) as opened:
            opened.load(sample, licence)
            for data in INPUTS[:given]:
                feed(opened, data) if opened.state() == C.CL_STATE_READY else opened.code(
                    C.CL_CMD_FEED, TempMemory(data), Value(0, 0, "out")
                )
    with Ta(device) as opened:
        opened.load(sample, licence)
        feed(opened, INPUTS[0])
        opened.invoke(C.CL_CMD_UNLOAD)
        assert opened.state() == C.CL_STATE_OPEN
        assert feed_code(opened, INPUTS[1]) == BAD_STATE
        assert opened.load(sample, licence).queries_left == 2
        assert run(opened, sample, ANSWER)[0] == ANSWER
        assert run(opened, sample, ANSWER)[0] == ANSWER
        assert feed_code(opened, INPUTS[0]) == 0x80C10007
        assert opened.state() == C.CL_STATE_READY


def test_plain_models_take_inputs_one_by_one_as_well(device: Device) -> None:
    """Their partitions wait for all of them."""
    vendor = VendorKey.load()
    model = Taps([plain_partition(64), plain_partition(128)])
    bundle, content = seal_bundle(model, vendor, name=f"plain {random.randbytes(8).hex()}")
    plain = Sample(vendor, device.public_key(), bundle, content)
    with Ta(device) as opened:
        opened.load(plain)
        assert feed(opened, INPUTS[0]) == feed(opened, INPUTS[1]) == (0, 0)
        assert run(opened, plain, INPUTS[2]) == (ANSWER, 2)


@pytest.mark.parametrize("first", [[1, 0, 0], [0, 2, 1], [0, 1, COUNT], [0, 0, 0, 1], [0, 1, 0xFFFFFFFF]])
def test_first_uses_that_make_no_sense_are_refused(session: Ta, device: Device, first: list[int]) -> None:
    """Even from the vendor: an inference that could never be finished, or finished without an input."""
    wrong = make(VendorKey.load(), device.public_key(), first)
    assert session.load_code(wrong.bundle.manifest, wrong.licence()) == BAD_FORMAT
    assert session.state() == C.CL_STATE_OPEN


def test_every_changed_bit_of_the_binding_is_noticed(session: Ta, sample: Sample) -> None:
    licence = sample.licence()
    start = ffi.sizeof("struct cl_manifest")
    for bit in random.Random(5).sample(range(8 * ffi.sizeof("struct cl_pair")), 24):
        manifest = bytearray(sample.bundle.manifest)
        manifest[start + bit // 8] ^= 1 << bit % 8
        assert session.load_code(bytes(manifest), licence) in (BAD_FORMAT, SIGNATURE_INVALID)


def test_a_pair_does_not_pass_as_a_plain_model_and_back(session: Ta, sample: Sample) -> None:
    """The header's size decides; signed again by the vendor, the other reading contradicts the manifest's counts."""
    size = ffi.sizeof("struct cl_manifest")
    at = ffi.offsetof("struct cl_manifest", "header_size")
    for header_size in (size, size + 8, size + ffi.sizeof("struct cl_pair") + 8, 0, 0xFFF8):
        manifest = bytearray(sample.bundle.manifest[: -C.CL_SIGNATURE_SIZE])
        manifest[at : at + 2] = header_size.to_bytes(2, "little")
        signature = sample.vendor.sign(MANIFEST_DOMAIN + hashlib.sha256(manifest).digest())
        assert session.load_code(bytes(manifest) + signature, sample.licence()) == BAD_FORMAT


def test_random_orders(session: Ta, sample: Sample) -> None:
    """Any of the commands of an inference, in any order: refused or right, and in the end an honest answer."""
    rng = random.Random(20261121)
    session.load(sample, sample.licence(queries=100_000))
    blobs = [b"", *INPUTS, INPUTS[0] + INPUTS[1], INPUTS[1] + INPUTS[2], ANSWER, rng.randbytes(24)]
    codes = set()
    for _ in range(150):
        match rng.randrange(5):
            case 0 | 1:
                code = feed_code(session, rng.choice(blobs))
            case 2:
                code = session.step_code(part(sample, rng.randrange(COUNT)))
            case 3:
                code = run_code(session, sample, rng.choice(blobs))
            case _:
                code = session.code(C.CL_CMD_FINISH, *session.finish_params(48))
        codes.add(code)
        assert session.state() in (C.CL_STATE_READY, C.CL_STATE_RUNNING)
    assert {SUCCESS, BAD_PARAMETERS, BAD_STATE} <= codes <= {SUCCESS, BAD_PARAMETERS, BAD_STATE, 0x80C10004}
    if session.state() == C.CL_STATE_RUNNING:
        assert feed_code(session, b"") in (BAD_PARAMETERS, BAD_STATE)
        session.step_code(part(sample, 0))
        feed_code(session, b"")
    session.invoke(C.CL_CMD_UNLOAD)
    session.load(sample)
    assert run(session, sample, ANSWER)[0] == ANSWER

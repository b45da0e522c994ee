# SPDX-License-Identifier: BSD-2-Clause
"""What an attacker who owns the normal world can send to the TA: never a panic, always the right code."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from ta_driver import (
    BAD_FORMAT,
    BAD_PARAMETERS,
    BAD_STATE,
    HEADER,
    MAC_INVALID,
    NOT_SUPPORTED,
    OUT_OF_MEMORY,
    SAMPLE_INPUT,
    SHORT_BUFFER,
    SIGNATURE_INVALID,
    SUCCESS,
    Sample,
    Ta,
    reseal_licence,
    resign_licence,
)

from cloister.device import Device
from cloister.seal import VendorKey
from cloister.teec.errors import ShortBuffer, TeecError
from cloister.teec.params import TempMemory, Value
from cloister.wire import C, ffi, new, pack, unpack

SEED = 20240611


@pytest.fixture(scope="module")
def sample(device: Device) -> Sample:
    vendor = VendorKey.load()
    assert bytes.fromhex(device.info()["ta"]["vendor_key"]) == vendor.public, "the TA trusts another vendor's key"
    return Sample.make(vendor, device.public_key())


@pytest.fixture(scope="module")
def session(device: Device, sample: Sample) -> Iterator[Ta]:
    """One session for all tests of this file: it must still serve an honest user when all attacks are over."""
    with Ta(device) as opened:
        yield opened
        opened.works(sample)


@pytest.fixture
def ta(session: Ta) -> Iterator[Ta]:
    """The session, with nothing loaded."""
    session.invoke(C.CL_CMD_UNLOAD)
    yield session
    session.state()


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


# ---- Parameters ----------------------------------------------------------------------------------


def any_parameter(rng: random.Random) -> Any:
    direction = rng.choice(("in", "out", "inout"))
    if rng.random() < 0.2:
        return None
    if rng.random() < 0.4:
        return Value(rng.getrandbits(32), rng.getrandbits(32), direction)
    return TempMemory(bytearray(rng.randbytes(rng.choice((0, 1, 32, 64, 256, 5000)))), direction)


def kind(parameter: Any) -> str:
    return "none" if parameter is None else f"{type(parameter).__name__} {parameter.direction}"


EXPECTED = {
    C.CL_CMD_INFO: ["TempMemory out"],
    C.CL_CMD_DEVICE_KEY: ["TempMemory out"],
    C.CL_CMD_LOAD: ["TempMemory in", "TempMemory in", "TempMemory out", "Value inout"],
    C.CL_CMD_RUN: ["TempMemory in", "TempMemory in", "TempMemory out", "Value inout"],
    C.CL_CMD_BEGIN: ["TempMemory in", "Value out"],
    C.CL_CMD_STEP: ["TempMemory in", "Value out"],
    C.CL_CMD_FINISH: ["TempMemory out", "Value inout"],
    C.CL_CMD_UNLOAD: [],
    C.CL_CMD_USAGE: ["TempMemory out"],
    C.CL_CMD_FEED: ["TempMemory in", "Value out"],
}


@pytest.mark.parametrize("command", EXPECTED)
@pytest.mark.parametrize("loaded", [False, True])
def test_wrong_parameter_types(ta: Ta, sample: Sample, command: int, loaded: bool) -> None:
    rng = random.Random(SEED + command)
    if loaded:
        ta.load(sample)
    for _ in range(12):
        params = [any_parameter(rng) for _ in range(rng.randrange(5))]
        kinds = [kind(parameter) for parameter in params]
        while kinds and kinds[-1] == "none":
            kinds.pop()
        if kinds != EXPECTED[command]:
            assert ta.code(command, *params) == BAD_PARAMETERS, kinds
    assert ta.state() == (C.CL_STATE_READY if loaded else C.CL_STATE_OPEN)


@pytest.mark.parametrize("command", [10, 11, 0x7FFFFFFF, 0xFFFFFFFF])
def test_unknown_commands(ta: Ta, command: int) -> None:
    assert ta.code(command) == NOT_SUPPORTED


def test_sessions_open_without_parameters_only(device: Device) -> None:
    with pytest.raises(TeecError) as caught:
        device.open_ta(device_ta(), Value(1, 2))
    assert caught.value.code == BAD_PARAMETERS


def device_ta() -> str:
    from cloister.device.ta import CLOISTER_TA

    return CLOISTER_TA


def test_random_calls(ta: Ta, sample: Sample) -> None:
    """Any command with the right types and any contents, in whatever state that leads to."""
    rng = random.Random(SEED)
    licence = sample.licence()
    blobs = [b"", b"x", sample.bundle.manifest, licence, sample.bundle.payload, SAMPLE_INPUT, bytes(40)]
    blobs += [rng.randbytes(size) for size in (31, 256, 5000)]
    codes = set()
    for _ in range(120):
        command = rng.choice(list(EXPECTED))
        params: list[Any] = []
        for expected in EXPECTED[command]:
            if expected == "TempMemory in":
                params.append(TempMemory(rng.choice(blobs)))
            elif expected == "TempMemory out":
                params.append(TempMemory(bytearray(rng.choice((0, 8, 32, 40, 112))), "out"))
            else:
                params.append(Value(rng.choice((0, 1, 2, 3, 1 << 20, 0xFFFFFFFF)), rng.choice((0, 1, 7)), expected[6:]))
        codes.add(ta.code(command, *params))
    assert {SUCCESS, BAD_STATE, BAD_PARAMETERS} <= codes


# ---- States --------------------------------------------------------------------------------------


def test_states(ta: Ta, sample: Sample) -> None:
    payload, parts = sample.bundle.payload, sample.bundle.partitions
    loading = ta.load_params(sample.bundle.manifest, sample.licence())
    usage = TempMemory(bytearray(ffi.sizeof("struct cl_usage")), "out")
    begin = (TempMemory(SAMPLE_INPUT), Value(0, 0, "out"))

    assert ta.state() == C.CL_STATE_OPEN
    assert ta.run_code(payload) == BAD_STATE
    assert ta.code(C.CL_CMD_BEGIN, *begin) == BAD_STATE
    assert ta.step_code(payload[: parts[0][1]]) == BAD_STATE
    assert ta.code(C.CL_CMD_FINISH, *ta.finish_params()) == BAD_STATE
    assert ta.code(C.CL_CMD_USAGE, usage) == BAD_STATE
    assert ta.code(C.CL_CMD_UNLOAD) == SUCCESS

    ta.load(sample)
    assert ta.state() == C.CL_STATE_READY
    assert ta.step_code(payload[: parts[0][1]]) == BAD_STATE
    assert ta.code(C.CL_CMD_FINISH, *ta.finish_params()) == BAD_STATE
    assert ta.code(C.CL_CMD_USAGE, usage) == SUCCESS

    ta.begin()
    assert ta.state() == C.CL_STATE_RUNNING
    assert ta.code(C.CL_CMD_LOAD, *loading) == BAD_STATE
    assert ta.run_code(payload) == BAD_STATE
    assert ta.code(C.CL_CMD_BEGIN, *begin) == BAD_STATE
    assert ta.code(C.CL_CMD_USAGE, usage) == BAD_STATE
    assert ta.code(C.CL_CMD_FINISH, *ta.finish_params()) == BAD_STATE
    assert ta.state() == C.CL_STATE_RUNNING
    assert ta.code(C.CL_CMD_UNLOAD) == SUCCESS
    assert ta.state() == C.CL_STATE_OPEN


def test_steps(ta: Ta, sample: Sample) -> None:
    """The whole inference in steps; twice, because the second finds all partitions resident."""
    loaded = ta.load(sample)
    count = len(sample.bundle.partitions)
    assert loaded.resident_count == count
    wanted = ta.begin()
    for index, (offset, size, _) in enumerate(sample.bundle.partitions):
        assert (wanted.a, wanted.b) == (index, size)
        wanted = ta.step(sample.bundle.payload[offset : offset + size])
    assert (wanted.a, wanted.b) == (count, 0)
    assert ta.step_code(sample.bundle.payload[: sample.bundle.partitions[0][1]]) == BAD_STATE
    assert ta.state() == C.CL_STATE_READY, "a refused step ends the inference"

    assert ta.begin().a == count
    assert ta.code(C.CL_CMD_FINISH, *ta.finish_params(size=39)) == SHORT_BUFFER
    assert ta.code(C.CL_CMD_FINISH, *ta.finish_params(output=9)) == BAD_PARAMETERS
    answer, values = ta.invoke(C.CL_CMD_FINISH, *ta.finish_params())
    assert (bytes(answer), values.a, values.b) == (SAMPLE_INPUT, 40, 0)
    assert ta.state() == C.CL_STATE_READY


@pytest.mark.parametrize("fault", ["size", "other", "flip", "empty"])
def test_a_refused_step_ends_the_inference(ta: Ta, sample: Sample, fault: str) -> None:
    (offset, size, _), (other, other_size, _) = sample.bundle.partitions[:2]
    good = sample.bundle.payload[offset : offset + size]
    sealed, code = {
        "size": (good + b"\0", BAD_PARAMETERS),
        "other": (sample.bundle.payload[other : other + other_size][:size], C.CL_ERROR_WRONG_PARTITION),
        "flip": (flipped(good, 8 * (HEADER + 100)), MAC_INVALID),
        "empty": (b"", BAD_PARAMETERS),
    }[fault]
    ta.load(sample)
    ta.begin()
    assert ta.step_code(sealed) == code
    assert ta.state() == C.CL_STATE_READY
    assert ta.begin().a == 0


# ---- Manifests -----------------------------------------------------------------------------------


def test_truncated_manifests(ta: Ta, sample: Sample) -> None:
    manifest, licence = sample.bundle.manifest, sample.licence()
    for size in [*range(1, len(manifest), 61), len(manifest) - 1]:
        assert ta.load_code(manifest[:size], licence) == BAD_FORMAT
    assert ta.load_code(manifest + b"\0" * 8, licence) == BAD_FORMAT
    assert ta.state() == C.CL_STATE_OPEN


@pytest.mark.parametrize("size", [1, 4096, 140_000, 2 << 20])
def test_foreign_manifests(ta: Ta, sample: Sample, size: int) -> None:
    data = random.Random(SEED).randbytes(size)
    assert ta.load_code(data, sample.licence()) == BAD_FORMAT
    assert ta.load_code(sample.bundle.manifest[:16] + data, sample.licence()) == BAD_FORMAT


def test_mutated_manifests(ta: Ta, sample: Sample) -> None:
    """Any bit: some are caught by form, all others by the signature."""
    rng = random.Random(SEED)
    manifest, licence = sample.bundle.manifest, sample.licence()
    codes = set()
    for bit in rng.sample(range(8 * len(manifest)), 60):
        codes.add(ta.load_code(flipped(manifest, bit), licence))
    assert codes <= {BAD_FORMAT, SIGNATURE_INVALID, C.CL_ERROR_VERSION, C.CL_ERROR_CIPHER}
    assert SIGNATURE_INVALID in codes
    for bit in rng.sample(range(8 * (len(manifest) - 64), 8 * len(manifest)), 8):
        assert ta.load_code(flipped(manifest, bit), licence) == SIGNATURE_INVALID


def resealed_manifest(sample: Sample, **fields: Any) -> bytes:
    """The manifest with header fields changed and signed again, as only the vendor could."""
    import hashlib

    from cloister.seal.bundle import MANIFEST_DOMAIN

    header = unpack("struct cl_manifest", sample.bundle.manifest)
    for name, value in fields.items():
        setattr(header, name, value)
    unsigned = pack(header) + sample.bundle.manifest[len(pack(header)) : -64]
    return unsigned + sample.vendor.sign(MANIFEST_DOMAIN + hashlib.sha256(unsigned).digest())


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"magic": 0}, BAD_FORMAT),
        ({"version": 2}, C.CL_ERROR_VERSION),
        ({"suite": 0}, C.CL_ERROR_CIPHER),
        ({"suite": C.CL_SUITE_COUNT}, C.CL_ERROR_CIPHER),
        ({"partition_count": 0xFFFFFFFF}, BAD_FORMAT),
        ({"input_count": 0x80000000}, BAD_FORMAT),
        ({"arena_size": 0}, BAD_FORMAT),
        ({"arena_size": 0xFFFFFFFF}, OUT_OF_MEMORY),
        ({"arena_size": 64 << 20}, OUT_OF_MEMORY),
        ({"payload_size": 1}, BAD_FORMAT),
    ],
)
def test_signed_but_impossible_manifests(ta: Ta, sample: Sample, fields: dict[str, int], code: int) -> None:
    assert ta.load_code(resealed_manifest(sample, **fields), sample.licence()) == code
    assert ta.state() == C.CL_STATE_OPEN


def test_another_vendors_bundle(ta: Ta, sample: Sample) -> None:
    other = Sample.make(VendorKey.generate(), sample.device_key)
    assert ta.load_code(other.bundle.manifest, other.licence()) == SIGNATURE_INVALID
    assert ta.load_code(sample.bundle.manifest, other.licence()) == SIGNATURE_INVALID


# ---- Licences ------------------------------------------------------------------------------------


def test_truncated_and_foreign_licences(ta: Ta, sample: Sample) -> None:
    licence = sample.licence()
    assert ta.load_code(sample.bundle.manifest, b"") == C.CL_ERROR_NO_LICENCE
    for size in [*range(1, len(licence), 41), len(licence) - 1]:
        assert ta.load_code(sample.bundle.manifest, licence[:size]) == BAD_FORMAT
    for data in (licence + b"\0", bytes(256), sample.bundle.manifest[:256], bytes(1 << 20)):
        assert ta.load_code(sample.bundle.manifest, data) == BAD_FORMAT


def test_mutated_licences(ta: Ta, sample: Sample) -> None:
    rng = random.Random(SEED)
    licence = sample.licence()
    codes = set()
    for bit in rng.sample(range(8 * len(licence)), 40):
        codes.add(ta.load_code(sample.bundle.manifest, flipped(licence, bit)))
    assert codes <= {BAD_FORMAT, SIGNATURE_INVALID, C.CL_ERROR_VERSION}
    for bit in rng.sample(range(8 * 128, 8 * len(licence)), 10):
        assert ta.load_code(sample.bundle.manifest, flipped(licence, bit)) == SIGNATURE_INVALID


def test_licence_for_another_device_or_model(ta: Ta, sample: Sample) -> None:
    stranger = Sample(
        sample.vendor,
        X25519PrivateKey.generate().public_key().public_bytes_raw(),
        sample.bundle,
        sample.content_key,
    )
    assert ta.load_code(sample.bundle.manifest, stranger.licence()) == C.CL_ERROR_WRONG_DEVICE
    other = Sample.make(sample.vendor, sample.device_key)
    assert ta.load_code(sample.bundle.manifest, other.licence()) == C.CL_ERROR_WRONG_MODEL
    # Both wrong: the device comes first.
    both = resign_licence(stranger.licence(), sample.vendor, model_id=bytes(16))
    assert ta.load_code(sample.bundle.manifest, both) == C.CL_ERROR_WRONG_DEVICE


def test_licence_stolen_for_this_device(ta: Ta, sample: Sample) -> None:
    """Clear fields are bound to the sealed part: renaming the device does not open it, even signed."""
    licence = Sample(
        sample.vendor,
        X25519PrivateKey.generate().public_key().public_bytes_raw(),
        sample.bundle,
        sample.content_key,
    ).licence()
    here = unpack("struct cl_licence", sample.licence())
    renamed = resign_licence(licence, sample.vendor, device_id=bytes(here.device_id))
    assert ta.load_code(sample.bundle.manifest, renamed) == MAC_INVALID
    moved = resign_licence(sample.licence(), sample.vendor, licence_id=bytes(16))
    assert ta.load_code(sample.bundle.manifest, moved) == MAC_INVALID


def test_signed_licence_with_a_point_of_low_order(ta: Ta, sample: Sample) -> None:
    """OP-TEE's TEE_DeriveKey would panic on them."""
    for point in (bytes(32), b"\1" + bytes(31), bytes.fromhex("ecffffff" + "ff" * 27 + "7f"), b"\xed" + b"\xff" * 31):
        licence = resign_licence(sample.licence(), sample.vendor, enc=point)
        assert ta.load_code(sample.bundle.manifest, licence) == MAC_INVALID


def test_wrong_content_key(ta: Ta, sample: Sample) -> None:
    name = sample.bundle.name
    again = Sample.make(sample.vendor, sample.device_key, name=name)
    assert again.bundle.model_id == sample.bundle.model_id
    assert ta.load_code(sample.bundle.manifest, again.licence()) == C.CL_ERROR_WRONG_KEY


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, SUCCESS),
        ({"password_size": 1}, BAD_FORMAT),
        ({"password_size": 1 << 31}, BAD_FORMAT),
        ({"output": 0}, BAD_FORMAT),
        ({"output": 77}, BAD_FORMAT),
        ({"output": C.CL_OUTPUT_TOP_K}, BAD_FORMAT),
        ({"top_k": 3}, BAD_FORMAT),
        ({"min_model_version": 2}, BAD_FORMAT),
        ({"min_model_version": 2, "max_model_version": 9}, C.CL_ERROR_ROLLBACK),
        ({"min_model_version": 0, "max_model_version": 0}, C.CL_ERROR_ROLLBACK),
        ({"content_key": [1] * 32}, C.CL_ERROR_WRONG_KEY),
    ],
)
def test_secrets(ta: Ta, sample: Sample, fields: dict[str, Any], code: int) -> None:
    secret = new(
        "struct cl_licence_secret",
        **{
            "content_key": list(sample.content_key),
            "output": C.CL_OUTPUT_FULL,
            "min_model_version": 1,
            "max_model_version": 1,
            **fields,
        },
    )
    licence = reseal_licence(sample.licence(), sample.vendor, sample.device_key, secret)
    assert ta.load_code(sample.bundle.manifest, licence) == code


# ---- Partitions ----------------------------------------------------------------------------------


def test_flipped_bits_in_partitions(ta: Ta, sample: Sample) -> None:
    rng = random.Random(SEED)
    ta.load(sample)
    payload = sample.bundle.payload
    for offset, size, _ in sample.bundle.partitions:
        for bit in [*rng.sample(range(8 * (offset + HEADER), 8 * (offset + size)), 2), 8 * (offset + size) - 1]:
            assert ta.run_code(flipped(payload, bit)) == MAC_INVALID
            assert ta.state() == C.CL_STATE_READY
    header_codes = {BAD_FORMAT, C.CL_ERROR_VERSION, C.CL_ERROR_WRONG_PARTITION, C.CL_ERROR_WRONG_KEY}
    ta.load(sample)
    seen = {ta.run_code(flipped(payload, bit)) for bit in range(0, 8 * HEADER, 13)}
    assert seen == header_codes
    assert ta.run(payload)[0] == SAMPLE_INPUT


def swapped(payload: bytes, first: tuple[int, int, int], second: tuple[int, int, int], skip: int) -> bytes:
    """Two partitions of one size in each other's place, from byte `skip` of each on."""
    (a, size, _), (b, other_size, _) = first, second
    assert size == other_size
    data = bytearray(payload)
    data[a + skip : a + size], data[b + skip : b + size] = payload[b + skip : b + size], payload[a + skip : a + size]
    return bytes(data)


def test_swapped_partitions(ta: Ta, sample: Sample) -> None:
    twins = Sample.make(sample.vendor, sample.device_key, (4096, 4096, 64))
    ta.load(twins)
    first, second, _ = twins.bundle.partitions
    assert ta.run_code(swapped(twins.bundle.payload, first, second, 0)) == C.CL_ERROR_WRONG_PARTITION
    # With the clear headers put right: what binds the bytes is the associated data.
    assert ta.run_code(swapped(twins.bundle.payload, first, second, HEADER)) == MAC_INVALID
    assert ta.run(twins.bundle.payload)[0] == SAMPLE_INPUT


def test_partitions_of_another_version(ta: Ta, sample: Sample) -> None:
    """Sealed under the same key, at the same place, with the same nonce even: another manifest."""
    from ta_driver import SampleModel, plain_partition

    from cloister.seal import seal_bundle

    plain = [plain_partition(4096)]
    bundles = [
        seal_bundle(SampleModel(plain), sample.vendor, name=sample.bundle.name, content_key=sample.content_key)[0]
        for _ in range(2)
    ]
    old, current = (Sample(sample.vendor, sample.device_key, bundle, sample.content_key) for bundle in bundles)
    ta.load(current)
    assert ta.run_code(old.bundle.payload) == MAC_INVALID
    assert ta.run(current.bundle.payload)[0] == SAMPLE_INPUT


def test_partition_of_another_key(ta: Ta, sample: Sample) -> None:
    other = Sample.make(sample.vendor, sample.device_key)
    ta.load(sample)
    assert len(other.bundle.payload) == len(sample.bundle.payload)
    assert ta.run_code(other.bundle.payload) == C.CL_ERROR_WRONG_KEY


@pytest.mark.parametrize(
    "field", ["magic", "version", "op_count", "ops_size", "weights_size", "arena_size", "total_size"]
)
def test_authentic_but_broken_partitions(ta: Ta, sample: Sample, field: str) -> None:
    """The vendor's own mistake: the engine's check refuses it, and the session lives on."""
    from ta_driver import plain_partition

    plain = plain_partition(4096)
    header = unpack("struct cl_partition", plain)
    setattr(header, field, 0x7777 if field == "version" else 0x77777777)
    broken = Sample.make(sample.vendor, sample.device_key, partitions=[pack(header) + plain[len(pack(header)) :]])
    ta.load(broken)
    expected = C.CL_ERROR_VERSION if field == "version" else BAD_FORMAT
    assert ta.run_code(broken.bundle.payload) == expected
    assert ta.run_code(broken.bundle.payload) == expected
    assert ta.run_code(b"") == BAD_PARAMETERS, "a refused partition must not count as loaded"


# ---- Sizes ---------------------------------------------------------------------------------------


def test_sizes(ta: Ta, sample: Sample) -> None:
    ta.load(sample)
    payload = sample.bundle.payload
    for data in (b"", SAMPLE_INPUT[:-1], SAMPLE_INPUT + b"\0", bytes(1 << 20)):
        assert ta.run_code(payload, data=data) == BAD_PARAMETERS
        assert ta.code(C.CL_CMD_BEGIN, TempMemory(data), Value(0, 0, "out")) == BAD_PARAMETERS
    for data in (b"", payload[:-1], payload + b"\0", payload[:64], bytes(1 << 20)):
        assert ta.run_code(data) == BAD_PARAMETERS
    assert ta.run_code(payload, size=39) == SHORT_BUFFER
    with pytest.raises(ShortBuffer) as caught:
        ta.run(payload, size=7)
    assert caught.value.required == {2: 40}
    assert ta.run(payload, size=1 << 20)[0] == SAMPLE_INPUT
    for output, k in ((0, 0), (4, 0), (0xFFFFFFFF, 1), (C.CL_OUTPUT_TOP_K, 0), (C.CL_OUTPUT_TOP_K, 6)):
        assert ta.run_code(payload, output=output, k=k) == BAD_PARAMETERS
    assert ta.run_code(payload, output=C.CL_OUTPUT_TOP_K, k=0xFFFFFFFF, size=4096) == BAD_PARAMETERS
    assert ta.usage().queries == 1, "what was refused is not counted"


@pytest.mark.parametrize("command", [C.CL_CMD_INFO, C.CL_CMD_DEVICE_KEY])
def test_short_buffers(ta: Ta, command: int) -> None:
    with pytest.raises(ShortBuffer) as caught:
        ta.invoke(command, TempMemory(bytearray(8), "out"))
    assert caught.value.required == {0: ffi.sizeof("struct cl_info") if command == C.CL_CMD_INFO else 32}


def test_no_embedded_model(ta: Ta, sample: Sample) -> None:
    assert ta.load_code(b"", sample.licence()) == NOT_SUPPORTED


def test_unknown_cpu_features_are_refused(ta: Ta, sample: Sample) -> None:
    manifest, licence, out, _ = ta.load_params(sample.bundle.manifest, sample.licence())
    assert ta.code(C.CL_CMD_LOAD, manifest, licence, out, Value(0, 2, "inout")) == BAD_PARAMETERS

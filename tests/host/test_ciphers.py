# SPDX-License-Identifier: BSD-2-Clause
"""Cipher suites: which one is chosen for which devices, and that each seals what only its own key opens."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_seal import Model

from cloister.seal import Bundle, VendorKey, seal_bundle
from cloister.seal.bundle import content_key_id
from cloister.seal.ciphers import AUTO, DEFAULT, SUITES, choose, cipher_of, derive_key, suite_name, suites_of
from cloister.seal.errors import BundleError, CipherError, KeyFileError
from cloister.seal.record import DeviceRecord
from cloister.wire import C, ffi, unpack

VENDOR = VendorKey.generate()
CONTENT_KEY = bytes(range(32))
FAST, EVERYWHERE, OLD = "aegis-128l", "chacha20-poly1305", "aes-256-gcm"


def flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


@pytest.mark.parametrize("cipher", SUITES)
def test_each_suite_seals_and_opens(cipher: str, tmp_path: Path) -> None:
    bundle, key = seal_bundle(Model(), VENDOR, name="digits", cipher=cipher)
    assert bundle.cipher == cipher and bundle.header.suite == SUITES[cipher]
    bundle.save(tmp_path / "m.clb")
    again = Bundle.load(tmp_path / "m.clb")
    assert [again.open_partition(i, key) for i in range(2)] == list(Model.partitions)
    assert b"firstfirst" not in bundle.payload
    # The nonce's bytes behind the suite's own size are zero: the TA refuses anything else.
    size = {FAST: 16, EVERYWHERE: 12, OLD: 12}[cipher]
    nonces = [bytes(desc.nonce) for desc in bundle._descs()]
    assert len({nonce[:size] for nonce in nonces}) == 2
    assert all(nonce[size:] == bytes(16 - size) and any(nonce[:size]) for nonce in nonces)


@pytest.mark.parametrize("cipher", SUITES)
def test_damage_and_foreign_keys_are_refused(cipher: str) -> None:
    bundle, key = seal_bundle(Model(), VENDOR, name="digits", cipher=cipher)
    header = ffi.sizeof("struct cl_sealed_header")
    for place in (header, header + 100, bundle.partitions[0][1] - 1):
        with pytest.raises(BundleError, match="wrong tag"):
            Bundle(bundle.manifest, flipped(bundle.payload, place)).open_partition(0, key)
    with pytest.raises(BundleError, match="wrong tag"):
        bundle.open_partition(0, flipped(key, 31))
    again, _ = seal_bundle(Model(), VENDOR, name="digits", version=2, cipher=cipher, content_key=key)
    with pytest.raises(BundleError, match="wrong tag"):
        Bundle(bundle.manifest, again.payload).open_partition(0, key)  # another manifest's, under the same key


@pytest.mark.parametrize("cipher", SUITES)
def test_the_associated_data_and_the_keys_are_those_of_the_format(cipher: str) -> None:
    """Opened by hand, with HKDF written out (RFC 5869)."""
    bundle, _ = seal_bundle(Model(), VENDOR, name="digits", cipher=cipher, content_key=CONTENT_KEY)
    prk = hmac.digest(bytes(32), CONTENT_KEY, "sha256")
    derived = hmac.digest(prk, b"cloister suite v1" + bytes([SUITES[cipher], 0, 0, 0]) + b"\1", "sha256")
    expected = {OLD: CONTENT_KEY, EVERYWHERE: derived, FAST: derived[:16]}[cipher]
    assert derive_key(cipher, CONTENT_KEY) == expected
    for index, (offset, sealed, _) in enumerate(bundle.partitions):
        digest = hashlib.sha256(bundle.manifest[: -C.CL_SIGNATURE_SIZE]).digest()
        aad = b"CLSP" + bytes([1, 0, 0, 0]) + index.to_bytes(4, "little") + (2).to_bytes(4, "little") + digest
        nonce = bytes(bundle._descs()[index].nonce)[: 16 if cipher == FAST else 12]
        data = bundle.payload[offset + 32 : offset + sealed]
        assert cipher_of(cipher, CONTENT_KEY).decrypt(nonce, data, aad) == Model.partitions[index]
    assert bytes(bundle.header.content_key_id) == content_key_id(CONTENT_KEY)


def test_no_suites_key_is_anothers() -> None:
    keys = [derive_key(cipher, CONTENT_KEY)[:16] for cipher in SUITES]
    assert len(set(keys)) == len(SUITES)


@pytest.mark.parametrize(
    ("cipher", "devices", "chosen"),
    [
        (AUTO, [], DEFAULT),
        (AUTO, [[OLD, EVERYWHERE, FAST]], FAST),
        (AUTO, [[OLD, EVERYWHERE]], EVERYWHERE),
        (AUTO, [[OLD, EVERYWHERE, FAST], [EVERYWHERE, OLD]], EVERYWHERE),
        (AUTO, [[OLD]], OLD),
        (AUTO, [[FAST, "of the future"]], FAST),
        (OLD, [], OLD),
        (FAST, [], FAST),
        (FAST, [[FAST]], FAST),
    ],
)
def test_the_fastest_that_all_devices_have_is_chosen(cipher: str, devices: list[Sequence[str]], chosen: str) -> None:
    assert choose(cipher, devices) == chosen


@pytest.mark.parametrize(
    ("cipher", "devices", "words"),
    [
        ("rot13", [], "rot13"),
        (FAST, [[OLD, EVERYWHERE]], "aegis-128l"),
        (FAST, [[FAST], []], "nothing"),
        (AUTO, [[FAST], [OLD]], "in common"),
    ],
)
def test_what_a_device_lacks_is_refused(cipher: str, devices: list[Sequence[str]], words: str) -> None:
    with pytest.raises(CipherError, match=words):
        choose(cipher, devices)


def test_the_default_needs_nothing_of_the_cpu() -> None:
    assert DEFAULT == EVERYWHERE
    assert seal_bundle(Model(), VENDOR, name="digits")[0].cipher == DEFAULT


def test_bit_masks_of_devices() -> None:
    assert suites_of(0) == []
    assert suites_of(1 << C.CL_SUITE_AES_256_GCM | 1 << C.CL_SUITE_AEGIS_128L | 1 << 31) == [FAST, OLD]
    with pytest.raises(CipherError, match="99"):
        suite_name(99)


def test_an_unknown_suite_in_a_bundle_is_named() -> None:
    bundle, key = seal_bundle(Model(), VENDOR, name="digits")
    at = ffi.offsetof("struct cl_manifest", "suite")
    future = Bundle(bundle.manifest[:at] + b"\x63" + bundle.manifest[at + 1 :], bundle.payload)
    assert unpack("struct cl_manifest", future.manifest).suite == 0x63
    for use in (lambda: future.cipher, lambda: future.open_partition(0, key)):
        with pytest.raises(CipherError, match="99"):
            use()


def test_a_device_record_survives_its_file(tmp_path: Path) -> None:
    record = DeviceRecord(bytes(range(32)), (FAST, EVERYWHERE), "cloister 1")
    record.save(tmp_path / "d.json")
    assert DeviceRecord.load(tmp_path / "d.json") == record
    assert record.device_id == hashlib.sha256(bytes(range(32))).digest()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("00010203", "00010204", "contradicts itself"),
        ('"public_key": "00', '"public_key": "', "not a device"),
        ('"ciphers": [', '"ciphers": [7, ', "not a device"),
        ('"ciphers"', '"cipher"', "not a device"),
        ("{", "[", "not a device"),
        ("\n", "", None),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, old: str, new: str, words: str | None) -> None:
    path = tmp_path / "d.json"
    DeviceRecord(bytes(range(32)), (FAST,)).save(path)
    path.write_text(path.read_text().replace(old, new))
    if words is None:
        assert DeviceRecord.load(path).ciphers == (FAST,)
        return
    with pytest.raises(KeyFileError, match=words):
        DeviceRecord.load(path)

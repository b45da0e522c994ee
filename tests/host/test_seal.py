# SPDX-License-Identifier: BSD-2-Clause
"""Sealing, bundles, licences and keys, as their interfaces promise."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import CloisterError
from cloister.layers import layers_of
from cloister.seal import Bundle, Licence, VendorKey, issue_licence, seal_bundle
from cloister.seal.bundle import TensorInfo
from cloister.seal.errors import BundleError, KeyFileError, LicenceError, SignatureError
from cloister.seal.files import write_aside
from cloister.seal.keys import load_content_key, save_content_key
from cloister.seal.licence import LICENCE_DOMAIN, SUITE
from cloister.wire import C, ffi, unpack


class Model:
    """Two partitions, one input, one output."""

    partitions = (b"first" * 40, b"second" * 77)
    inputs = (TensorInfo("image", C.CL_DTYPE_F32, (1, 1, 8, 8), 0, 256),)
    outputs = (TensorInfo("logits", C.CL_DTYPE_F32, (1, 10), 256, 40),)
    arena_size = 320

    @property
    def layers(self) -> dict[bytes, int]:
        return layers_of(self.partitions)


VENDOR = VendorKey.generate()
DEVICE = X25519PrivateKey.generate()
DEVICE_KEY = DEVICE.public_key().public_bytes_raw()
BUNDLE, KEY = seal_bundle(Model(), VENDOR, name="digits", version=3)
LICENCE = issue_licence(BUNDLE, KEY, DEVICE_KEY, VENDOR, queries=5, rate_per_minute=7)


def flipped(data: bytes, index: int) -> bytes:
    """data with a bit of one byte changed: a value written there may be the one that random bytes have already."""
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def test_a_bundle_survives_its_file(tmp_path: Path) -> None:
    BUNDLE.save(tmp_path / "m.clb")
    again = Bundle.load(tmp_path / "m.clb")
    assert again == BUNDLE
    assert (again.name, again.version, again.arena_size) == ("digits", 3, 320)
    assert again.inputs == list(Model.inputs) and again.outputs == list(Model.outputs)
    assert [again.open_partition(i, KEY) for i in range(2)] == list(Model.partitions)
    again.check_signature(VENDOR.public)


def test_no_plain_byte_is_in_the_bundle() -> None:
    data = BUNDLE.to_bytes()
    assert b"firstfirst" not in data and b"secondsecond" not in data and KEY not in data


def test_each_seal_has_its_own_key_and_nonces() -> None:
    other, key = seal_bundle(Model(), VENDOR, name="digits", version=3)
    assert key != KEY and other.payload != BUNDLE.payload
    assert other.model_id == BUNDLE.model_id


def test_every_flipped_bit_of_the_sealed_bytes_is_noticed() -> None:
    header = ffi.sizeof("struct cl_sealed_header")
    for index, (offset, size, _) in enumerate(BUNDLE.partitions):
        for position in range(offset + header, offset + size):
            payload = bytearray(BUNDLE.payload)
            payload[position] ^= 1
            with pytest.raises(BundleError, match=f"partition {index}"):
                Bundle(BUNDLE.manifest, bytes(payload)).open_partition(index, KEY)


def test_a_partition_of_another_bundle_under_the_same_key_is_refused() -> None:
    other, _ = seal_bundle(Model(), VENDOR, name="digits", version=4, content_key=KEY)
    with pytest.raises(BundleError, match="wrong tag"):
        Bundle(BUNDLE.manifest, other.payload).open_partition(0, KEY)


def test_a_changed_manifest_is_not_the_vendors() -> None:
    manifest = bytearray(BUNDLE.manifest)
    manifest[ffi.offsetof("struct cl_manifest", "model_version")] ^= 1
    with pytest.raises(SignatureError, match="digits"):
        Bundle(bytes(manifest), BUNDLE.payload).check_signature(VENDOR.public)


@given(st.integers(0, len(BUNDLE.to_bytes()) - 1))
@settings(max_examples=60, deadline=None)
def test_every_truncation_is_named(length: int) -> None:
    with pytest.raises(BundleError, match=r"truncated|not a Cloister bundle"):
        Bundle.from_bytes(BUNDLE.to_bytes()[:length])


@given(st.integers(0, len(BUNDLE.manifest) + 47), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_head_is_refused_or_fails_the_signature(position: int, change: int) -> None:
    data = bytearray(BUNDLE.to_bytes())
    data[position] ^= change
    try:
        bundle = Bundle.from_bytes(bytes(data))
        bundle.check_signature(VENDOR.public)
    except CloisterError:
        return
    assert bundle.manifest == BUNDLE.manifest  # only padding or the file's own header was hit


@pytest.mark.parametrize(
    ("name", "version"), [("", 1), ("x" * 64, 1), ("a\0b", 1), ("ok", 0), ("ok", 1 << 32)], ids=repr
)
def test_names_and_versions_that_do_not_fit_are_refused(name: str, version: int) -> None:
    with pytest.raises(BundleError):
        seal_bundle(Model(), VENDOR, name=name, version=version)


def test_the_device_opens_its_licence_and_nobody_else() -> None:
    header = LICENCE.header
    clear = LICENCE.data[: ffi.offsetof("struct cl_licence", "enc")]
    sealed = bytes(header.enc) + bytes(header.sealed)
    secret = unpack("struct cl_licence_secret", SUITE.decrypt(sealed, DEVICE, LICENCE_DOMAIN + clear))
    assert bytes(secret.content_key) == KEY
    assert (secret.query_limit, secret.rate_per_minute, secret.output) == (5, 7, C.CL_OUTPUT_LABEL)
    assert (secret.min_model_version, secret.max_model_version) == (3, 3)
    assert LICENCE.device_id == hashlib.sha256(DEVICE_KEY).digest()
    with pytest.raises(Exception):  # noqa: B017 - the library's InvalidTag
        SUITE.decrypt(sealed, X25519PrivateKey.generate(), LICENCE_DOMAIN + clear)
    with pytest.raises(Exception):  # noqa: B017
        SUITE.decrypt(sealed, DEVICE, LICENCE_DOMAIN + flipped(clear, len(clear) - 1))
    assert KEY not in LICENCE.data


def test_a_licence_survives_its_file_and_names_damage(tmp_path: Path) -> None:
    LICENCE.save(tmp_path / "m.lic")
    assert Licence.load(tmp_path / "m.lic") == LICENCE
    LICENCE.check_signature(VENDOR.public)
    with pytest.raises(LicenceError, match="bytes"):
        Licence(LICENCE.data[:-1])
    with pytest.raises(LicenceError, match="not a Cloister licence"):
        Licence(BUNDLE.manifest)
    with pytest.raises(SignatureError):
        Licence(flipped(LICENCE.data, 40)).check_signature(VENDOR.public)


@pytest.mark.parametrize(
    "arguments",
    [
        {"output": "all"},
        {"output": "top-k"},
        {"output": "label", "top_k": 3},
        {"queries": -1},
        {"rate_per_minute": 1 << 32},
        {"min_version": 4},
    ],
    ids=repr,
)
def test_licence_arguments_out_of_range_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(LicenceError):
        issue_licence(BUNDLE, KEY, DEVICE_KEY, VENDOR, **arguments)  # type: ignore[arg-type]


def test_a_wrong_content_or_device_key_is_refused() -> None:
    with pytest.raises(LicenceError, match="content key"):
        issue_licence(BUNDLE, bytes(32), DEVICE_KEY, VENDOR)
    with pytest.raises(LicenceError, match="31 bytes"):
        issue_licence(BUNDLE, KEY, DEVICE_KEY[:-1], VENDOR)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"], ids=bytes.hex)
def test_a_device_key_that_anybody_could_open_is_refused(point: bytes) -> None:
    """Points of low order: the shared secret would be zeros, whoever asks for it."""
    with pytest.raises(LicenceError, match=point.hex()):
        issue_licence(BUNDLE, KEY, point, VENDOR)


def test_vendor_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    key = VendorKey.load_or_generate(tmp_path / "keys")
    assert VendorKey.load(tmp_path / "keys").public == key.public
    path = tmp_path / "keys" / "vendor.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / "vendor.pub").read_text().strip() == key.public.hex()
    with pytest.raises(KeyFileError, match="exists"):
        VendorKey.generate().save(tmp_path / "keys")
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        VendorKey.load(tmp_path / "keys")
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(KeyFileError, match="PEM"):
        VendorKey.load(tmp_path / "keys")
    with pytest.raises(KeyFileError, match="cloister keys new"):
        VendorKey.load(tmp_path / "elsewhere")


def test_a_key_made_twice_at_once_is_one_key(tmp_path: Path) -> None:
    """Two programs, each the first to need it: a bundle signed with a key that is overwritten could not be licensed."""
    for attempt in range(10):
        folder, start = tmp_path / str(attempt), Barrier(8)

        def first(folder: Path = folder, start: Barrier = start) -> bytes:
            start.wait()
            return VendorKey.load_or_generate(folder).public

        with ThreadPoolExecutor(8) as pool:
            keys = {job.result() for job in [pool.submit(first) for _ in range(8)]}
        assert keys == {VendorKey.load(folder).public}
        assert (folder / "vendor.pub").read_text().strip() == keys.pop().hex()


def test_content_keys_are_kept_with_the_vendors_keys(tmp_path: Path) -> None:
    key_id = bytes(BUNDLE.header.content_key_id)
    path = save_content_key(key_id, KEY, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_content_key(key_id, tmp_path) == KEY
    with pytest.raises(KeyFileError, match="CLOISTER_KEYS"):
        load_content_key(bytes(16), tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_aside(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CloisterError, match="No space left"):
        write_aside(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

# SPDX-License-Identifier: BSD-2-Clause
"""Licences that carry a password: what they hold, which passwords they take, and the commands that make them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from command_line import call
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from lock_models import PASSWORD, lock, network

import cloister
from cloister.compile import compile_onnx
from cloister.errors import CloisterError
from cloister.layers import layer_id, pack_password
from cloister.password import Password, PasswordError
from cloister.seal import Bundle, Licence, VendorKey, issue_licence, seal_bundle
from cloister.seal.errors import KeyFileError
from cloister.seal.licence import LICENCE_DOMAIN, SUITE
from cloister.wire import C, ffi, unpack

VENDOR = VendorKey.generate()
DEVICE = X25519PrivateKey.generate()
DEVICE_KEY = DEVICE.public_key().public_bytes_raw()


def test_a_licence_carries_the_password_sealed_and_signed() -> None:
    bundle, key = seal_bundle(compile_onnx(network()), VENDOR, name="locked")
    licence = issue_licence(bundle, key, DEVICE_KEY, VENDOR, password=PASSWORD)
    plain = issue_licence(bundle, key, DEVICE_KEY, VENDOR)
    assert licence.has_password and not plain.has_password
    for made in (licence, plain):
        made.check_signature(VENDOR.public)
    clear = licence.data[: ffi.offsetof("struct cl_licence", "enc")]
    sealed = licence.data[len(clear) : -C.CL_SIGNATURE_SIZE]
    opened = SUITE.decrypt(sealed, DEVICE, LICENCE_DOMAIN + clear)
    secret = unpack("struct cl_licence_secret", opened)
    assert bytes(secret.content_key) == key
    words = pack_password(PASSWORD, bundle.layers(key))
    assert opened[ffi.sizeof("struct cl_licence_secret") :] == words
    assert secret.password_size == len(words)
    assert layer_id("c1") not in licence.data and layer_id("c1") not in bundle.to_bytes()


def test_the_length_of_a_licence_tells_little() -> None:
    sizes = {len(pack_password(Password("test", [lock("c1", 20, seed)][:1]))) for seed in range(3)}
    sizes |= {len(pack_password(Password("test", [lock("c1", count)]))) for count in (3, 20, 60)}
    assert sizes == {1024}


@pytest.mark.parametrize(
    ("tensor", "count", "reason"),
    [("c9", 4, "no layer that computes 'c9'"), ("c1", 40, "'c1' of model 'locked' has 20")],
)
def test_a_licence_for_another_model_is_refused(tensor: str, count: int, reason: str) -> None:
    bundle, key = seal_bundle(compile_onnx(network()), VENDOR, name="locked")
    with pytest.raises(PasswordError, match=reason):
        issue_licence(bundle, key, DEVICE_KEY, VENDOR, password=Password("test", [lock(tensor, count)]))


def test_the_sealed_layers_are_those_of_the_partitions() -> None:
    compiled = compile_onnx(network(), max_partition=3000)
    bundle, key = seal_bundle(compiled, VENDOR, name="locked")
    assert bundle.layers(key) == compiled.layers
    bare, key = seal_bundle(replace(compiled, partitions=[bytes(64)]), VENDOR, name="bare")
    assert bare.layers(key) == {}


def test_the_command_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CLOISTER_KEYS", str(tmp_path / "keys"))
    onnx.save(network(), tmp_path / "m.onnx")
    PASSWORD.write(tmp_path / "m.pwd")
    Password("test", [lock("r1", 4)]).write(tmp_path / "wrong.pwd")
    (tmp_path / "d.pub").write_text(DEVICE_KEY.hex())
    bundle, source, key = tmp_path / "m.clb", tmp_path / "m.onnx", tmp_path / "d.pub"
    assert call("keys", "new") == 0
    assert call("compile", source, "-o", bundle, "--password", tmp_path / "m.pwd") == 0
    assert call("compile", source, "-o", tmp_path / "no.clb", "--password", tmp_path / "wrong.pwd") == 1
    assert "'r1' cannot be locked" in capsys.readouterr().err and not (tmp_path / "no.clb").exists()
    for name, options in (("shared", ()), ("own", ("--personal",))):
        made = tmp_path / f"{name}.lic"
        assert call("licence", bundle, key, "-o", made, "--password", tmp_path / "m.pwd", *options) == 0
        data = made.read_bytes()
        clear = data[: ffi.offsetof("struct cl_licence", "enc")]
        opened = SUITE.decrypt(data[len(clear) : -C.CL_SIGNATURE_SIZE], DEVICE, LICENCE_DOMAIN + clear)
        given = PASSWORD.for_device(Licence(data).device_id) if options else PASSWORD
        words = pack_password(given, compile_onnx(network()).layers)
        assert opened[ffi.sizeof("struct cl_licence_secret") :] == words
    loaded, given = Bundle.load(bundle), {"keys": tmp_path / "keys", "personal": True}
    assert cloister.licence(loaded, DEVICE_KEY, password=PASSWORD, **given).has_password
    with pytest.raises(CloisterError, match="no password to make"):
        cloister.licence(loaded, DEVICE_KEY, **given)
    capsys.readouterr()
    assert call("inspect", tmp_path / "own.lic") == 0
    assert "password" in capsys.readouterr().out
    assert call("licence", bundle, key, "-o", tmp_path / "no.lic", "--password", tmp_path / "wrong.pwd") == 1
    assert "no layer that computes 'r1'" in capsys.readouterr().err and not (tmp_path / "no.lic").exists()
    assert call("licence", bundle, key, "-o", tmp_path / "no.lic", "--password", bundle) == 1
    assert call("licence", bundle, key, "-o", tmp_path / "no.lic", "--personal") == 2


def test_a_licence_takes_the_password_of_this_very_lock_alone(tmp_path: Path) -> None:
    """Another lock of the same layers would be valid, and the model would guess on the device."""
    keys = tmp_path / "keys"
    VendorKey.generate().save(keys)
    other = Password("other", [replace(one, channels=one.channels[1:], scales=one.scales[1:], values=one.values[1:])
                               for one in PASSWORD.locks])  # fmt: skip
    shifted = Password("other", [replace(one, values=-one.values) for one in PASSWORD.locks])  # the same channels
    scaled = Password("other", [replace(one, scales=-one.scales) for one in PASSWORD.locks])
    bundle = cloister.compile(network(), password=PASSWORD, keys=keys)
    for wrong in (other, shifted, scaled):
        with pytest.raises(PasswordError, match=r"'other' is not the one that bundle .* was compiled with"):
            cloister.licence(bundle, DEVICE_KEY, password=wrong, keys=keys)
    devices_own = PASSWORD.for_device(b"device")
    for right in (PASSWORD, devices_own, None):
        assert cloister.licence(bundle, DEVICE_KEY, password=right, keys=keys).has_password == (right is not None)
    anybodys = cloister.compile(network(), keys=keys)
    assert cloister.licence(anybodys, DEVICE_KEY, password=other, keys=keys).has_password, "nothing was noted"
    (note,) = (keys / "content").glob("*.lock")
    assert note.stat().st_mode & 0o077 == 0, "it tells attackers where to look"
    for damaged, told in ((b"\xff", "is no note of a lock"), (b"", "has 0 bytes instead of 32")):
        note.write_bytes(damaged)
        with pytest.raises(KeyFileError, match=told):
            cloister.licence(bundle, DEVICE_KEY, password=PASSWORD, keys=keys)

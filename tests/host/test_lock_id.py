# SPDX-License-Identifier: BSD-2-Clause
"""A locked file and its password name their lock, so that another lock's password is refused wherever the two meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from test_locked_quantised import SAMPLES, TURNED, model

import cloister as api
from cloister.cli.main import cloister
from cloister.compile import compile_onnx
from cloister.errors import FormatError
from cloister.locked_quantised import quantize_locked
from cloister.password import Password, PasswordError, lock_of
from cloister.quantization import QuantizationError
from cloister.seal.errors import KeyFileError
from cloister.seal.keys import VendorKey, load_lock_name, raw_public

DEVICE = raw_public(X25519PrivateKey.generate().public_key())
OURS, THEIRS = replace(TURNED, lock_id="0123456789abcdef" * 2), replace(TURNED, lock_id="fedcba9876543210" * 2)


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A locked file that says which lock it has, and other metadata."""
    made = model()
    onnx.helper.set_model_props(made, {"author": "somebody"})
    onnx.save(made, tmp_path / "locked.onnx")
    OURS.stamp(tmp_path / "locked.onnx")
    return tmp_path / "locked.onnx"


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_the_name_comes_back_in_both_files(locked: Path, tmp_path: Path) -> None:
    assert metadata(locked) == {"author": "somebody", "cloister.lock": OURS.lock_id}
    OURS.write(tmp_path / "p.pwd")
    assert Password.read(tmp_path / "p.pwd").lock_id == OURS.lock_id
    assert Password.from_bytes(TURNED.to_bytes()).lock_id == "", "one of before there were names"
    applied = OURS.apply(onnx.load(locked))
    assert lock_of(applied) == "" and applied.metadata_props[0].key == "author", "the owner's model is not locked"


def test_another_locks_password_is_refused_wherever_it_meets_the_model(locked: Path, tmp_path: Path) -> None:
    told = r"belongs to another lock \(it is of fedcba98\.\.\., the model of 01234567\.\.\.\)"
    made = tmp_path / "locked8.onnx"
    with pytest.raises(PasswordError, match=told):
        THEIRS.apply(onnx.load(locked))
    with pytest.raises(PasswordError, match=told):
        compile_onnx(locked, password=THEIRS)
    with pytest.raises(PasswordError, match=told):
        quantize_locked(locked, THEIRS, SAMPLES, made)
    assert not made.exists()
    with pytest.raises(PasswordError, match=told):
        api.quantize(locked, SAMPLES, made, password=THEIRS)
    api.quantize(locked, SAMPLES, made, password=OURS)
    assert lock_of(onnx.load(made)) == OURS.lock_id
    with pytest.raises(PasswordError, match=told):
        compile_onnx(made, password=THEIRS)
    for right in (OURS, OURS.for_device(b"device"), TURNED):
        for path in (locked, made):
            assert compile_onnx(path, password=right).partitions


def test_a_model_without_a_name_takes_any_password_that_fits() -> None:
    assert compile_onnx(model(), password=OURS).partitions
    assert OURS.apply(model()).graph.node


def test_what_forgets_the_password_is_told(locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_KEYS", str(tmp_path / "keys"))
    VendorKey.generate().save(tmp_path / "keys")
    with pytest.raises(QuantizationError, match=r"locked \(01234567\.\.\.\), and ranges must be measured") as caught:
        api.quantize(locked, SAMPLES, tmp_path / "no.onnx")
    assert "--password" in caught.value.remedy and not (tmp_path / "no.onnx").exists()
    OURS.write(tmp_path / "p.pwd")
    np.save(tmp_path / "samples.npy", SAMPLES)
    for given, warned in (((), True), (("--password", tmp_path / "p.pwd"), False)):
        arguments = ["compile", locked, "-o", tmp_path / "m.clb", *given]
        result = CliRunner().invoke(cloister, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0 and ("without --password" in result.output) == warned


def test_a_licence_takes_no_other_locks_password_however_its_bundle_was_compiled(locked: Path, tmp_path: Path) -> None:
    VendorKey.generate().save(tmp_path)
    for given in (None, OURS):
        bundle = api.compile(locked, password=given, keys=tmp_path)
        assert api.licence(bundle, DEVICE, password=OURS, keys=tmp_path).has_password
        assert api.licence(bundle, DEVICE, password=TURNED, keys=tmp_path).has_password, "it has no name to compare"
        with pytest.raises(PasswordError, match=r"another lock \(it is of fedcba98\.\.\., the model of 01234567"):
            api.licence(bundle, DEVICE, password=THEIRS, keys=tmp_path)
    nameless = api.compile(model(), keys=tmp_path)
    assert api.licence(nameless, DEVICE, password=THEIRS, keys=tmp_path).has_password
    note = next((tmp_path / "content").glob("*.lock-name"))
    note.write_text("0123")
    with pytest.raises(KeyFileError, match=r"2 bytes instead of 16"):
        load_lock_name(bytes.fromhex(note.stem), tmp_path)


def test_metadata_that_is_no_name_of_a_lock_is_none(tmp_path: Path) -> None:
    VendorKey.generate().save(tmp_path)
    made = model()
    onnx.helper.set_model_props(made, {"cloister.lock": "../yes"})
    assert lock_of(made) == ""
    bundle = api.compile(made, keys=tmp_path)
    assert api.licence(bundle, DEVICE, password=OURS, keys=tmp_path).has_password


@pytest.mark.parametrize("name", ["x", "0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n"])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="malformed"):
        replace(TURNED, lock_id=name)

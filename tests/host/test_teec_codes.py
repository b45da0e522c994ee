# SPDX-License-Identifier: BSD-2-Clause
"""Codes, exceptions and the command line of the bridge, where no libteec exists."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from cloister import teec
from cloister.errors import CloisterError
from cloister.teec import Code, Origin, __main__, errors

UUID_A = UUID("cb3e5ba0-adf1-11e0-998b-0002a5d5c51b")


def test_every_code_has_its_own_exception() -> None:
    assert set(errors.STANDARD_ERRORS) == set(Code) - {Code.SUCCESS}
    for code, cls in errors.STANDARD_ERRORS.items():
        error = errors.make_error(code, Origin.TEE, "TEEC_InvokeCommand(x)")
        assert type(error) is cls
        assert (error.code, error.name, error.origin) == (code, Code(code).name, Origin.TEE)
        assert isinstance(error, CloisterError)
        assert getattr(teec, cls.__name__) is cls


def test_message_names_function_code_and_origin() -> None:
    error = errors.make_error(0xFFFF0008, 3, "TEEC_OpenSession(u)")
    assert isinstance(error, teec.ItemNotFound)
    assert "TEEC_OpenSession(u): ITEM_NOT_FOUND (0xffff0008), origin TEE" in str(error)
    assert "/lib/optee_armtz" in error.remedy


def test_unknown_code_and_origin_keep_their_numbers() -> None:
    error = errors.make_error(0x8000BEEF, 4, "TEEC_InvokeCommand(u)")
    assert type(error) is teec.TaError
    assert (error.code, error.name) == (0x8000BEEF, "0x8000beef")
    assert "0x8000beef" in str(error)
    other = errors.make_error(0x12345678, 77, "f")
    assert type(other) is teec.TeecError
    assert other.origin is Origin.UNKNOWN


def test_an_application_names_its_own_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_ta_errors", {})

    class WrongKey(teec.TeecError):
        pass

    teec.register_ta_errors(str(UUID_A), {0x80000001: WrongKey, 0x80000002: "BAD_TAG", 0xFFFF0007: "WRONG_STATE"})
    first = errors.make_error(0x80000001, 4, "f", uuid=UUID_A)
    assert type(first) is WrongKey
    assert first.name == "WrongKey"
    second = errors.make_error(0x80000002, 4, "f", uuid=UUID_A)
    assert (type(second), second.name) == (teec.TaError, "BAD_TAG")
    assert errors.make_error(0xFFFF0007, 4, "f", uuid=UUID_A).name == "WRONG_STATE"
    # The same numbers of another TA, or of the TEE itself, keep their own meaning.
    assert errors.make_error(0x80000002, 4, "f", uuid=UUID(int=5)).name == "0x80000002"
    assert type(errors.make_error(0xFFFF0007, 3, "f", uuid=UUID_A)) is teec.BadState


@pytest.mark.parametrize("entry", [{0: "ZERO"}, {1 << 32: "BIG"}, {1: ValueError}, {1: 5}])
def test_a_senseless_registration_is_refused(entry: dict[int, object]) -> None:
    with pytest.raises(teec.ArgumentError):
        teec.register_ta_errors(UUID_A, entry)  # type: ignore[arg-type]


def test_short_buffer_tells_the_sizes() -> None:
    error = errors.make_error(0xFFFF0010, 4, "f", required={1: 100})
    assert isinstance(error, teec.ShortBuffer)
    assert error.required == {1: 100}
    assert "100 bytes for parameter 1" in str(error)


def test_errors_survive_pickling() -> None:
    for error in (
        errors.make_error(0xFFFF0010, 4, "f", required={1: 100}),
        errors.make_error(0x80000001, 3, "TEEC_OpenSession(u)"),
        errors.make_error(0xFFFF0008, 3, "TEEC_OpenSession(u)"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_without_the_extension_import_works_and_use_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import cloister.teec as t\n"
        "try: t.Context()\n"
        "except t.ExtensionMissingError as e: print(e)\n"
        "else: raise SystemExit('no error')\n"
    )
    root = str(Path(teec.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"},
    )
    assert "_teec" in done.stdout
    assert "optee-client-dev" in done.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("value:1,0x10", "Value(0x1, 0x10, 'in')"),
        ("value-inout:7", "Value(0x7, 0x0, 'inout')"),
        ("value-out", "Value(0x0, 0x0, 'out')"),
    ],
)
def test_command_line_values(text: str, shown: str) -> None:
    param, path = __main__.parse(text)
    assert repr(param) == shown
    assert path is None


def test_command_line_memory(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"xyz")
    for text, content, direction in [
        ("mem:hex:00ff", b"\x00\xff", "in"),
        ("mem:text:a:b", b"a:b", "in"),
        (f"inout:file:{source}", b"xyz", "inout"),
        ("out:5", bytes(5), "out"),
    ]:
        param, _ = __main__.parse(text)
        assert isinstance(param, teec.TempMemory)
        assert (bytes(param.buffer), param.direction) == (content, direction)
    assert __main__.parse("out:5:/tmp/x")[1] == Path("/tmp/x")
    assert __main__.parse("none") == (None, None)
    null, _ = __main__.parse("null-out")
    assert isinstance(null, teec.TempMemory)
    assert null.buffer is None


@pytest.mark.parametrize("text", ["", "value:x", "value-in:1", "mem:hex:0", "mem:abc", "out:", "out:-1", "foo:1"])
def test_command_line_refuses_other_forms(text: str) -> None:
    with pytest.raises(teec.ArgumentError):
        __main__.parse(text)

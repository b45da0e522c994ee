# SPDX-License-Identifier: BSD-2-Clause
"""The command line as a user meets it: help with examples, the way from model to licence, and clear refusals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import call
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from onnx import TensorProto, helper

from cloister.cli.main import COMMANDS
from cloister.demo.data import MODEL
from cloister.seal.record import DeviceRecord


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOISTER_KEYS", str(tmp_path / "keys"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "keys"


def device_key(path: Path) -> Path:
    path.write_text(X25519PrivateKey.generate().public_key().public_bytes_raw().hex())
    return path


def compiled(tmp_path: Path) -> Path:
    assert call("keys", "new") == 0
    assert call("compile", MODEL, "-o", tmp_path / "m.clb", "--name", "digits") == 0
    return tmp_path / "m.clb"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS) and "Examples" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command, "--help") == 0
    text = capsys.readouterr().out
    if "COMMAND [ARGS]" in text:
        return  # a group: its own commands carry the examples
    assert "Example" in text and f"cloister {command}" in text


def test_from_model_to_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = compiled(tmp_path)
    licence = tmp_path / "m.lic"
    assert call("licence", bundle, device_key(tmp_path / "d.pub"), "-o", licence, "--queries", 9) == 0
    capsys.readouterr()
    assert call("inspect", bundle, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == "digits" and facts["inputs"][0]["shape"] == [1, 1, 8, 8]
    assert call("inspect", licence, "--json") == 0
    assert json.loads(capsys.readouterr().out)["model_id"] == facts["model_id"]


def test_compile_takes_the_fastest_cipher_that_all_devices_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cipher(*options: object) -> str:
        assert call("compile", MODEL, "-o", tmp_path / "m.clb", *options) == 0
        assert call("inspect", tmp_path / "m.clb", "--json") == 0
        text = capsys.readouterr().out
        return str(json.loads(text[text.index("{") :])["cipher"])

    assert call("keys", "new") == 0
    key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    fast, slow = tmp_path / "fast.json", tmp_path / "slow.json"
    DeviceRecord(key, ("aegis-128l", "chacha20-poly1305", "aes-256-gcm")).save(fast)
    DeviceRecord(key, ("chacha20-poly1305", "aes-256-gcm")).save(slow)
    capsys.readouterr()
    assert cipher() == "chacha20-poly1305"
    assert cipher("--device", fast) == "aegis-128l"
    assert cipher("--device", fast, "--device", slow) == "chacha20-poly1305"
    assert cipher("--cipher", "aes-256-gcm", "--device", slow) == "aes-256-gcm"
    assert call("licence", tmp_path / "m.clb", fast, "-o", tmp_path / "m.lic") == 0
    before = (tmp_path / "m.clb").read_bytes()
    assert call("compile", MODEL, "-o", tmp_path / "m.clb", "--cipher", "aegis-128l", "--device", slow) == 1
    assert "aegis-128l" in capsys.readouterr().err
    assert (tmp_path / "m.clb").read_bytes() == before
    assert call("compile", MODEL, "-o", tmp_path / "m.clb", "--device", tmp_path / "m.lic") == 1
    assert "cloister provision" in capsys.readouterr().err


def test_inspect_lists_a_models_operators(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", MODEL) == 0
    text = capsys.readouterr().out
    assert "Conv" in text and "This model compiles." in text


def unsupported_model(path: Path) -> Path:
    nodes = [
        helper.make_node("Det", ["x"], ["y"], "first"),
        helper.make_node("NonZero", ["y"], ["z"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "bad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 3])],
        [helper.make_tensor_value_info("z", TensorProto.INT64, [1, None])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_all_unsupported_operators_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("keys", "new") == 0
    assert call("compile", unsupported_model(tmp_path / "bad.onnx"), "-o", tmp_path / "m.clb") == 1
    text = capsys.readouterr().err
    assert "first" in text and "Det" in text and "second" in text and "NonZero" in text
    assert not (tmp_path / "m.clb").exists()


def test_a_missing_vendor_key_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compile", MODEL, "-o", tmp_path / "m.clb") == 1
    assert "cloister keys new" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "truncated|no ONNX model"), (b"CLBD", "truncated"), (b"\x7fELF", "ELF"), (b"hello world", "no ONNX model")],
    ids=["empty", "cut bundle", "cut TA", "text"],
)
def test_foreign_files_are_named(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert call("inspect", path) == 1
    error = capsys.readouterr().err
    assert str(path) in error and any(part in error for part in message.split("|"))


def test_missing_and_damaged_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = compiled(tmp_path)
    key = device_key(tmp_path / "d.pub")
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[: len(whole) // 2])
    assert call("licence", bundle, key, "-o", tmp_path / "m.lic") == 1
    assert "truncated" in capsys.readouterr().err
    assert call("licence", tmp_path / "none.clb", key, "-o", tmp_path / "m.lic") == 1
    assert "none.clb" in capsys.readouterr().err
    bundle.write_bytes(whole)
    key.write_text("zz")
    assert call("licence", bundle, key, "-o", tmp_path / "m.lic") == 1
    assert "cloister provision" in capsys.readouterr().err
    assert not (tmp_path / "m.lic").exists()


def test_inputs_that_are_no_arrays_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = compiled(tmp_path)
    assert call("licence", bundle, device_key(tmp_path / "d.pub"), "-o", tmp_path / "m.lic") == 0
    (tmp_path / "x.npy").write_text("no array")
    assert call("run", bundle, tmp_path / "m.lic", tmp_path / "x.npy") == 1
    assert "numpy.save" in capsys.readouterr().err
    np.savez(tmp_path / "whole.npz", x=np.arange(1000.0))
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "damaged.npz").write_bytes(whole[:900] + bytes(100) + whole[1000:])
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("damaged.npz", "half.npz"):
        assert call("run", bundle, tmp_path / "m.lic", tmp_path / name) == 1
        assert f"{name} is no .npy or .npz file" in capsys.readouterr().err
    np.save(tmp_path / "n.npy", np.array([[1.0], [np.nan]], np.float32))
    assert call("run", bundle, tmp_path / "m.lic", tmp_path / "n.npy") == 1
    told = capsys.readouterr().err
    assert "n.npy: 1 of 2 samples holds NaN or infinity, the first at index 1" in told
    assert "leave out such samples" in told and "finite=" not in told, "a remedy of Python's is none here"
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert call("run", bundle, tmp_path / "m.lic", tmp_path / "o.npy") == 1
    assert "o.npy" in capsys.readouterr().err


def test_a_file_of_another_kind_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, key = compiled(tmp_path), device_key(tmp_path / "d.pub")
    assert call("licence", bundle, key, "-o", tmp_path / "m.lic") == 0
    assert call("licence", bundle, key, "-o", tmp_path / "m.lic") == 0, "a new licence takes the old one's place"
    (tmp_path / "report.json").write_text('{"accuracy": 0.9}')
    np.savez(tmp_path / "data.npz", x_train=np.zeros(3))
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), np.float32))
    (tmp_path / "d.json").write_bytes(DeviceRecord(bytes.fromhex(key.read_text()), (), "").to_bytes())
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    capsys.readouterr()
    for command, kind, wrong in (
        (("licence", bundle, key, "-o"), "licence", ("m.clb", "d.pub", "report.json", "x.npy")),
        (("compile", MODEL, "-o"), "bundle", ("m.lic", "d.pub", "d.json")),
        (("provision", "--target", "qemu:none", "-o"), "device's record", ("m.clb", "report.json", "d.pub")),
        (
            ("run", bundle, tmp_path / "m.lic", tmp_path / "x.npy", "--save"),
            ".npz file",
            ("x.npy", "m.clb", "data.npz"),
        ),
        (("quantize", MODEL, "--samples", tmp_path / "x.npy", "-o"), "ONNX file", ("m.clb", "data.npz", "d.pub")),
        (("plan", MODEL, "--secure-memory", "2MiB", "--picture"), "SVG picture", ("m.clb", "report.json")),
        (("search", "front", "study.journal", "--plot"), "SVG picture", ("m.clb", "report.json")),
        (("calibrate", "--output"), "table of constants", ("m.clb", "report.json")),
    ):
        for name in wrong:
            assert call(*command, tmp_path / name) == 1
            assert f"{name} is there already and is no {kind}" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe")
    for output, told in (
        (tmp_path, f"{tmp_path} is a folder"),
        (tmp_path / "pipe", "is no ordinary file"),
        (bundle / "x.lic", "cannot be written to: Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        assert call("licence", bundle, key, "-o", output) == 1
        assert told in capsys.readouterr().err
    (tmp_path / "pipe").unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_device_s_record_of_any_layout_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(DeviceRecord(bytes(32), (), "").to_bytes())
    (tmp_path / "d.json").write_text(json.dumps(record, sort_keys=True))
    call("provision", "--target", "tcp://nowhere", "-o", tmp_path / "d.json")
    assert "d.json" not in capsys.readouterr().err, "it is the target that is refused"


def test_what_was_measured_on_the_emulator_is_not_fitted_for_a_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("calibrate", "--refit", "--target", "ssh://root@board", "--output", tmp_path / "board.json")
    assert call(*given) == 1 and "was measured on the emulator" in capsys.readouterr().err
    assert not (tmp_path / "board.json").exists()


def test_a_path_that_nothing_has_looked_at_ends_in_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert call("keys", "new", "--dir", tmp_path / "file") == 1
    told = capsys.readouterr().err
    assert f"{tmp_path / 'file'}: " in told and "remedy: check the path" in told


def test_what_is_read_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "mine.onnx"
    model.write_bytes(MODEL.read_bytes())
    np.save(tmp_path / "x.npy", np.zeros((4, 1, 8, 8), np.float32))
    (tmp_path / "link.onnx").symlink_to(model)
    outside = onnx.load(model)
    onnx.save(outside, tmp_path / "big.onnx", save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    (tmp_path / "weights.onnx").symlink_to(tmp_path / "big.onnx.data")
    for output in (model, tmp_path / "link.onnx"):
        assert call("quantize", model, "--samples", tmp_path / "x.npy", "-o", output) == 1
        assert f"{output} would be written over" in capsys.readouterr().err
    kept = (tmp_path / "big.onnx.data").read_bytes()
    for output in (tmp_path / "x.npy", tmp_path / "big.onnx.data", tmp_path / "weights.onnx"):
        assert call("quantize", tmp_path / "big.onnx", "--samples", tmp_path / "x.npy", "-o", output) == 1
    assert model.read_bytes() == MODEL.read_bytes() and len(np.load(tmp_path / "x.npy")) == 4
    assert (tmp_path / "big.onnx.data").read_bytes() == kept
    assert call("quantize", model, "--samples", tmp_path / "x.npy", "-o", tmp_path / "new" / "q.onnx") == 0
    assert call("quantize", model, "--samples", tmp_path / "x.npy", "-o", tmp_path / "new" / "q.onnx") == 0


def test_a_file_that_is_no_licence_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = compiled(tmp_path)
    assert call("run", bundle, device_key(tmp_path / "d.pub"), tmp_path / "x.npy") == 1
    assert f"{tmp_path / 'd.pub'}: this is not a Cloister licence" in capsys.readouterr().err


def test_wrong_options_show_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compile", MODEL, "-o", tmp_path / "m.clb", "--dim", "batch") == 2
    assert "batch=1" in capsys.readouterr().err
    assert call("compile", MODEL, "-o", tmp_path / "m.clb", "--max-partition", "12 parsecs") == 2
    assert "8MiB" in capsys.readouterr().err
    assert call("unknown") == 2

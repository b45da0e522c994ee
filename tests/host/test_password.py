# SPDX-License-Identifier: BSD-2-Clause
"""EdgePro's password file, and what it does to a model."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from cloister.cli.trace import trace
from cloister.errors import FormatError
from cloister.password import Lock, Password, PasswordError
from cloister.seal.licence import device_id

RANDOM = np.random.default_rng(5)


def lock(tensor: str, channels: list[int], scales: list[float], values: list[float]) -> Lock:
    return Lock(tensor, np.array(channels, np.uint16), np.array(scales, np.float32), np.array(values, np.float32))


PASSWORD = Password("m", [lock("c", [0, 2, 5], [0, -1, 2.5], [1.5, 0.25, -3]), lock("g", [1], [0.0], [-0.0])])


def model(bias: bool = True, transposed: int = 1, beta: float = 2.0) -> onnx.ModelProto:
    """Conv to "c" (6 channels), Relu, Flatten, Gemm to "g" (4), Relu to "y"."""
    arrays = {
        "cw": RANDOM.normal(size=(6, 2, 3, 3)), "cb": RANDOM.normal(size=6),
        "gw": RANDOM.normal(size=(4, 96) if transposed else (96, 4)), "gb": RANDOM.normal(size=4),
    }  # fmt: skip
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["x", "cw", "cb"] if bias else ["x", "cw"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "gw", "gb"] if bias else ["f", "gw"], ["g"], transB=transposed, beta=beta),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "m", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [entry for entry in constants if bias or entry.name in ("cw", "gw")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def outputs(proto: onnx.ModelProto, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    for name in names:
        if name not in [info.name for info in shown.graph.output]:
            shown.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    found: list[np.ndarray] = onnxruntime.InferenceSession(shown.SerializeToString()).run(names, {"x": x})
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [0, 1])
def test_applying_it_scales_and_shifts_the_locked_channels_alone(bias: bool, transposed: int) -> None:
    locked = model(bias, transposed)
    applied = PASSWORD.apply(locked)
    onnx.checker.check_model(applied)
    x = RANDOM.normal(size=(1, 2, 4, 4)).astype(np.float32)
    (before,) = outputs(locked, ["c"], x)
    after, g = outputs(applied, ["c", "g"], x)
    expected = before.copy()
    for entry in PASSWORD.locks[:1]:
        for channel, scale, value in zip(entry.channels, entry.scales, entry.values, strict=True):
            expected[:, channel] = scale * before[:, channel] + value
    assert np.allclose(after, expected, atol=1e-5)
    assert g[0, 1] == 0 and np.count_nonzero(g) == 3
    assert np.array_equal(outputs(locked, ["c"], x)[0], before), "the locked model itself must not change"


def test_the_file_comes_back_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    PASSWORD.write(tmp_path / "p.pwd")
    back = Password.read(tmp_path / "p.pwd")
    assert back.id == PASSWORD.id and len(back.id) == 16 and back.model == "m" and back.channels == 4
    for ours, theirs in zip(PASSWORD.locks, back.locks, strict=True):
        assert ours.tensor == theirs.tensor and np.array_equal(ours.channels, theirs.channels)
        assert np.array_equal(ours.scales, theirs.scales) and np.array_equal(ours.values, theirs.values)
    assert stat.S_IMODE((tmp_path / "p.pwd").stat().st_mode) == 0o600


def test_every_damaged_byte_and_every_cut_is_noticed() -> None:
    data = PASSWORD.to_bytes()
    for index in range(len(data)):
        broken = bytearray(data)
        broken[index] ^= 1
        with pytest.raises(FormatError):
            Password.from_bytes(bytes(broken))
    for length in range(len(data)):
        with pytest.raises(FormatError):
            Password.from_bytes(data[:length])


@pytest.mark.parametrize(
    "head",
    [
        b'{"model": "m", "locks": [{"tensor": "c", "channels": 1e999}]}',
        b'{"model": "m", "locks": [{"tensor": "\\ud800", "channels": 1}]}',
        b"[" * 100_000,
        b'{"model": "m"}',
    ],
)
def test_a_head_that_makes_no_sense_is_named(head: bytes) -> None:
    content = PASSWORD.to_bytes()[:12] + len(head).to_bytes(4, "little") + head + bytes(10)
    with pytest.raises(FormatError, match="no readable head"):
        Password.from_bytes(content + hashlib.sha256(content).digest())


def test_a_lock_that_was_trained_with_less_jitter_gets_no_password_for_each_device() -> None:
    for jitter, fits in ((None, True), (0.02, True), (0.05, True), (0.01, False), (0.0, False)):
        password = Password.from_bytes(replace(PASSWORD, jitter=jitter).to_bytes())
        assert password.jitter == jitter and password.id == PASSWORD.id
        with nullcontext() if fits else pytest.raises(PasswordError, match=r"differ by 0\.02 .* jitter of 0"):
            own = password.for_device(b"device")
            assert own.id == PASSWORD.for_device(b"device").id, "differences do not depend on what a file says of them"
    for wrong in (float("nan"), -0.1, 1.0):
        with pytest.raises(FormatError, match="jitter"):
            replace(PASSWORD, jitter=wrong)
        right = replace(PASSWORD, jitter=0.125).to_bytes()[:-32]
        content = right.replace(b'"jitter": 0.125', b'"jitter": ' + json.dumps(wrong).encode().rjust(5))
        assert len(content) == len(right)
        with pytest.raises(FormatError, match="jitter"):
            Password.from_bytes(content + hashlib.sha256(content).digest())


def test_a_devices_password_tells_whose_it_is() -> None:
    values = RANDOM.normal(size=300).astype(np.float32)
    owner = Password("m", [Lock("c", np.arange(300, dtype=np.uint16), -np.ones(300, np.float32), values)])
    devices = [bytes([index]) * 32 for index in range(50)]
    mine = owner.for_device(devices[7])
    assert np.abs(mine.locks[0].values / values - 1).max() < 0.021 and mine.id != owner.id
    scores = owner.trace(Password.from_bytes(mine.to_bytes()), devices)
    assert scores[7] > 0.99 and max(score for index, score in enumerate(scores) if index != 7) < 0.3
    both = (mine.locks[0].values + owner.for_device(devices[9]).locks[0].values) / 2
    scores = owner.trace(Password("m", [replace(mine.locks[0], values=both)]), devices)
    assert sorted(np.argsort(scores)[-2:]) == [7, 9], "two who average theirs are both found"
    with pytest.raises(PasswordError, match="different channels"):
        owner.trace(PASSWORD, devices)


def test_the_command_tells_whose_password_leaked(tmp_path: Path) -> None:
    values = RANDOM.normal(size=300).astype(np.float32)
    owner = Password("m", [Lock("c", np.arange(300, dtype=np.uint16), -np.ones(300, np.float32), values)])
    keys = [bytes([index + 1]) * 32 for index in range(5)]
    for index, key in enumerate(keys):
        (tmp_path / f"device{index}.pub").write_text(key.hex())
    owner.write(tmp_path / "master.pwd")
    owner.for_device(device_id(keys[3])).write(tmp_path / "found.pwd")

    def told(*devices: int) -> str:
        files = [str(tmp_path / f"device{index}.pub") for index in devices]
        arguments = [str(tmp_path / "found.pwd"), *files, "--password", str(tmp_path / "master.pwd")]
        return CliRunner().invoke(trace, arguments, catch_exceptions=False).output.replace("\n", "")

    assert re.search(r"made for \S*device3\.pub: a foreign device would have 0", told(0, 1, 2, 3, 4))
    assert "made for none of these devices" in told(0, 1, 2)
    PASSWORD.write(tmp_path / "master.pwd")
    PASSWORD.for_device(device_id(keys[0])).write(tmp_path / "found.pwd")
    assert "too few to tell" in told(0)


def test_a_later_version_is_named(tmp_path: Path) -> None:
    data = bytearray(PASSWORD.to_bytes())
    data[8] = 9
    with pytest.raises(FormatError, match="version 9"):
        Password.from_bytes(bytes(data))
    with pytest.raises(FormatError, match="cannot be read"):
        Password.read(tmp_path / "missing.pwd")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lock("nothing", [0], [1], [0]), "no tensor 'nothing'"),
        (lock("r", [0], [1], [0]), "comes from Relu"),
        (lock("c", [6], [1], [0]), "has 6 channels"),
    ],
)
def test_a_password_of_another_model_is_refused(entry: Lock, message: str) -> None:
    with pytest.raises(PasswordError, match=message):
        Password("m", [entry]).apply(model())


@pytest.mark.parametrize(
    ("channels", "scales", "values"),
    [([], [], []), ([1, 1], [0, 0], [1, 1]), ([2, 1], [0, 0], [1, 1]), ([1], [0, 0], [1]), ([1], [np.nan], [1]),
     ([1], [0], [np.inf])],
)  # fmt: skip
def test_locks_that_make_no_sense(channels: list[int], scales: list[float], values: list[float]) -> None:
    with pytest.raises(FormatError):
        lock("c", channels, scales, values)


def test_a_password_locks_something_and_no_tensor_twice() -> None:
    with pytest.raises(FormatError):
        Password("m", [])
    with pytest.raises(FormatError):
        Password("m", [PASSWORD.locks[0], PASSWORD.locks[0]])

# SPDX-License-Identifier: BSD-2-Clause
"""The host's side of a device that needs no device: frames, errors, inputs, targets, staged files."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.device.client import rebuild
from cloister.device.errors import AgentError, DeviceError
from cloister.device.frames import MAGIC, PREFIX, FrameError, decode, encode
from cloister.device.stage import device_files, digest
from cloister.device.ta import CLOISTER_TA
from cloister.device.targets import connect, parse_ssh
from cloister.seal.bundle import TensorInfo
from cloister.teec import Origin, ShortBuffer, TaError, TargetDead
from cloister.tensors import InputError, prepare_batch
from cloister.wire import C


def reader(data: bytes) -> Callable[[int], bytes]:
    return io.BytesIO(data).read


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8)), st.lists(st.binary(max_size=64)))
def test_frames_come_back_as_they_were(fields: dict[str, Any], blobs: list[bytes]) -> None:
    fields.pop("blobs", None)
    data = b"".join(bytes(piece) for piece in encode(fields, blobs))
    read = reader(data * 2)
    assert decode(read) == (fields, blobs)
    assert decode(read) == (fields, blobs)
    assert decode(read) is None


@given(st.binary(max_size=80))
def test_foreign_bytes_are_no_frame(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        assert decode(reader(data)) is None and data == b""


@pytest.mark.parametrize(
    "data",
    [
        b"Traceback (most recent call last)",
        PREFIX.pack(MAGIC, 2)[:5],
        PREFIX.pack(MAGIC, 1 << 31),
        PREFIX.pack(MAGIC, 2) + b"[]",
        PREFIX.pack(MAGIC, 14) + b'{"blobs":[-1]}',
        PREFIX.pack(MAGIC, 14) + b'{"blobs":[10]}' + b"short",
        PREFIX.pack(MAGIC, 17) + b'{"blobs":[1e400]}',
    ],
)
def test_torn_frames_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode(reader(data))


def test_errors_of_the_tee_are_rebuilt_with_their_names() -> None:
    described = {"kind": "tee", "code": 0x80C10002, "origin": 4, "where": "TEEC_InvokeCommand(x)", "uuid": CLOISTER_TA}
    error = rebuild(described)
    assert isinstance(error, TaError)
    assert (error.name, error.code, error.origin) == ("WRONG_DEVICE", C.CL_ERROR_WRONG_DEVICE, Origin.TRUSTED_APP)
    # The same number of another application has no name here.
    other = rebuild(described | {"uuid": "00000000-0000-0000-0000-000000000001"})
    assert isinstance(other, TaError) and other.name == "0x80c10002"
    short = rebuild(described | {"code": 0xFFFF0010, "required": [[2, 40]]})
    assert isinstance(short, ShortBuffer) and short.required == {2: 40}
    assert isinstance(rebuild(described | {"code": 0xFFFF3024, "origin": 3}), TargetDead)


def test_other_failures_on_the_device_keep_their_words() -> None:
    error = rebuild({"kind": "cloister", "message": "no libteec", "remedy": "install it"})
    assert isinstance(error, AgentError) and "no libteec" in str(error) and "install it" in str(error)
    assert "ZeroDivisionError" in str(rebuild({"kind": "other", "message": "ZeroDivisionError()", "trace": "here"}))


IMAGE = TensorInfo("image", C.CL_DTYPE_F32, (1, 2, 3), 0, 24)
INDEX = TensorInfo("index", C.CL_DTYPE_I64, (1,), 0, 8)


def test_inputs_are_laid_out_inference_by_inference() -> None:
    image = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    index = np.array([7, 8])
    data, count = prepare_batch([IMAGE, INDEX], {"index": index, "image": image})
    assert count == 2
    assert data == image[0].tobytes() + index[:1].tobytes() + image[1].tobytes() + index[1:].tobytes()


def test_memory_and_byte_order_do_not_matter() -> None:
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    expected = prepare_batch([IMAGE], image)
    assert prepare_batch([IMAGE], np.asfortranarray(image)) == expected
    assert prepare_batch([IMAGE], image.astype(">f4")) == expected
    assert prepare_batch([IMAGE], np.stack([image, image])[::2][0]) == expected
    wide = np.zeros((1, 2, 6), np.float32)
    wide[..., ::2] = image
    assert prepare_batch([IMAGE], wide[..., ::2]) == expected


GOOD = np.zeros((1, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("x", "complaint"),
    [
        (GOOD.astype(np.float64), "has dtype float64, the model takes float32"),
        (GOOD.astype(np.int32), "has dtype int32"),
        (GOOD[0], r"has shape \(2, 3\), the model takes \(1, 2, 3\)"),
        (np.zeros((0, 2, 3), np.float32), r"has shape \(0, 2, 3\)"),
        (np.zeros((1, 3, 2), np.float32), r"has shape \(1, 3, 2\)"),
        (GOOD.tolist(), "dtype float64|were given"),
        ({"image": GOOD, "mask": GOOD}, "unknown: mask"),
        ({}, "missing: image"),
        ([GOOD, GOOD], "2 inputs were given, the model takes 1"),
        (np.full((1, 2, 3), np.nan, np.float32), "input 'image': 1 of 1 samples holds NaN or infinity"),
        (np.stack([GOOD[0], GOOD[0], GOOD[0] + np.inf]), "1 of 3 samples holds NaN or infinity, the first at index 2"),
    ],
)
def test_bad_inputs_are_named(x: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        prepare_batch([IMAGE], x)


def test_inputs_for_different_numbers_of_inferences_are_refused() -> None:
    with pytest.raises(InputError, match="'index' is for 3 inferences, those before it for 1"):
        prepare_batch([IMAGE, INDEX], [GOOD, np.zeros(3, np.int64)])


def test_infinite_values_pass_when_asked_for() -> None:
    data, _ = prepare_batch([IMAGE], np.full((1, 2, 3), np.inf, np.float32), finite=False)
    assert np.isinf(np.frombuffer(data, np.float32)).all()


def test_ssh_targets() -> None:
    endpoint, directory = parse_ssh("ssh://root@board:2222?identity=/k&known_hosts=/h&directory=/opt/c")
    assert str(endpoint) == "root@board:2222"
    assert directory == "/opt/c"
    assert str(parse_ssh("ssh://board")[0]) == "root@board:22"


@pytest.mark.parametrize(
    "target",
    [
        "",
        "board",
        "tcp://board",
        "ssh://",
        "ssh://board:port",
        "ssh://board/path",
        "ssh://root:secret@board",
        "ssh://board?password=x",
        "ssh://board?directory=/a;reboot",
        "qemu:../x",
    ],
)
def test_targets_that_are_none_are_refused(target: str) -> None:
    with pytest.raises(DeviceError):
        connect(target)


def test_staged_files_import_without_what_a_device_has_not(tmp_path: Path) -> None:
    """Only the standard library and cffi's back end are there; numpy, paramiko, click, pycparser are not."""
    files = device_files()
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in 'numpy paramiko click rich cryptography pycparser cffi onnx'.split():
            raise ImportError(f'{name} is not on a device')
sys.meta_path.insert(0, Refuse())
import cloister.device.agent
from cloister.wire import C, ffi
print(cloister.device.agent.__file__, C.CL_CMD_RUN, ffi.sizeof('struct cl_loaded'))
"""
    environment = {"PYTHONPATH": str(tmp_path / "python"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "python/cloister/device/agent.py"), "3", "40"]


def test_digest_of_staged_files_follows_them() -> None:
    files = {"a": b"1", "b": b"2"}
    assert digest(files) == digest(dict(reversed(files.items())))
    assert len({digest(files), digest({"a": b"12", "b": b""}), digest({"a": b"1", "c": b"2"})}) == 3

# SPDX-License-Identifier: BSD-2-Clause
# ruff: noqa: ARG001, ARG005 (fixtures and tables of calls)
"""Arguments, lifetimes and error paths of the bridge, against a libteec that keeps books (teec_double.c).

The extension is compiled natively from the real ``tee_client_api.h``. That nothing here stands in for OP-TEE is
seen to by tests/qemu/test_teec_qemu.py, which repeats the calls on the emulated device.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloister import teec
from cloister.teec import build_teec, codes
from cloister.teec.errors import ArgumentError, ClosedError

UUID = "00000001-0000-0000-0000-000000000000"
COUNTERS = ("contexts", "sessions", "blocks", "cancels", "calls")


def find_header() -> Path:
    """The directory of ``tee_client_api.h``: named, of the firmware build's sysroot, or installed."""
    candidates = [Path(os.environ.get("CLOISTER_TEEC_INCLUDE", "/nonexistent")), Path("/usr/include")]
    index = Path(os.environ.get("CLOISTER_FIRMWARE", Path(__file__).parents[2] / "out/firmware/qemu.json"))
    if index.is_file():
        sysroot = json.loads(index.read_text()).get("sysroot")
        if sysroot:
            candidates.insert(1, Path(sysroot) / "include")
    for candidate in candidates:
        if (candidate / "tee_client_api.h").is_file():
            return candidate
    raise FileNotFoundError(
        "tee_client_api.h: build the firmware (build/setup), install optee-client-dev, or set CLOISTER_TEEC_INCLUDE"
    )


class Books:
    """What the double counts."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        # What a failed test left behind is its own failure, not that of those after it.
        gc.collect()
        self.before = (self.contexts, self.sessions, self.blocks)

    def __getattr__(self, name: str) -> int:
        return int(self.lib.teec_double_count(COUNTERS.index(name)))

    def open(self) -> tuple[int, int, int]:
        gc.collect()
        now = (self.contexts, self.sessions, self.blocks)
        return now[0] - self.before[0], now[1] - self.before[1], now[2] - self.before[2]

    def fail(self, function: str = "", code: int = 0) -> None:
        self._name = function.encode()
        self.lib.teec_double_fail(self._name, ctypes.c_uint32(code))


@pytest.fixture(scope="session")
def header() -> Path:
    return find_header()


@pytest.fixture(scope="session")
def double(header: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The double as ``libteec.so``, and on ``sys.path`` the extension that links it."""
    folder = tmp_path_factory.mktemp("teec")
    # Only this header: the directory it comes from may hold another machine's.
    include = folder / "include"
    include.mkdir()
    (include / "tee_client_api.h").write_bytes((header / "tee_client_api.h").read_bytes())
    library = folder / "libteec.so"
    source = Path(__file__).with_name("teec_double.c")
    command = ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{include}", "-o"]
    subprocess.run([*command, str(library), str(source)], check=True)
    build_teec.build(folder, "cc", [include], [folder], [f"-Wl,-rpath,{folder}"])
    sys.path.insert(0, str(folder))
    return library


@pytest.fixture
def books(double: Path) -> Iterator[Books]:
    """The counters; each test must leave nothing open."""
    counts = Books(double)
    yield counts
    counts.fail()
    assert counts.open() == (0, 0, 0)


def test_constants_are_those_of_the_header(books: Books) -> None:
    from cloister.teec.native import load

    _, lib = load()
    for name, value in {**codes.CLIENT_CODES, **codes.CLIENT_CONSTANTS}.items():
        assert getattr(lib, name) == value, name
    for name, value in codes.OPTIONAL_CODES.items():
        assert getattr(lib, build_teec.optional_name(name)) == value, name


@pytest.mark.parametrize(
    ("old", "new"),
    [("uint32_t a;\n\tuint32_t b;", "uint64_t a;\n\tuint32_t b;"), ("size_t size;\n\tsize_t offset;", "size_t size;")],
)
def test_a_header_with_other_fields_is_refused(header: Path, double: Path, tmp_path: Path, old: str, new: str) -> None:
    text = (header / "tee_client_api.h").read_text()
    assert text.count(old) == 1
    (tmp_path / "tee_client_api.h").write_text(text.replace(old, new))
    with pytest.raises(build_teec.BuildError):
        module = build_teec.build(tmp_path, "cc", [tmp_path], [double.parent], [f"-Wl,-rpath,{double.parent}"])
        # What the compiler lets pass, cffi compares when the type is first used.
        program = "from _teec import ffi; ffi.new('TEEC_Operation *').params[0].value.a = 1"
        done = subprocess.run([sys.executable, "-c", program], cwd=module.parent, capture_output=True, check=False)
        if done.returncode:
            raise build_teec.BuildError(done.stderr.decode())


def test_build_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(build_teec.BuildError, match="not found"):
        build_teec.build(tmp_path, "no-such-compiler")
    with pytest.raises(build_teec.BuildError, match=r"(?s)tee_client_api\.h.*--include"):
        build_teec.build(tmp_path, "cc", [], [], ["-nostdinc"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("direction", ["in", "out", "inout"])
def test_parameter_types_are_those_of_the_specification(books: Books, direction: str) -> None:
    wanted = {"in": "INPUT", "out": "OUTPUT", "inout": "INOUT"}[direction]
    with teec.Context() as context, context.open_session(UUID) as session, context.allocate(64) as block:
        params = (
            teec.Value(0, 0, "inout"),
            teec.TempMemory(bytearray(8), direction),
            teec.Value(1, 2, direction),
            teec.PartialMemory(block, 8, 8, direction),
        )
        seen = session.invoke(1, *params)[0].a
    kinds = [codes.ParamType((seen >> 4 * i) & 15).name for i in range(4)]
    assert kinds == ["VALUE_INOUT", f"MEMREF_TEMP_{wanted}", f"VALUE_{wanted}", f"MEMREF_PARTIAL_{wanted}"]


def test_whole_memory_and_empty_places(books: Books) -> None:
    with teec.Context() as context, context.open_session(UUID) as session, context.allocate(64) as block:
        results = session.invoke(1, teec.Value(0, 0, "out"), None, block, teec.RegisteredMemory(block, "in"))
        assert results[0] == (0xDC02, 0)
        assert results[1] is None
        assert len(results[2]) == 64
        assert results[3] is None


@pytest.mark.parametrize("where", ["temp", "whole", "partial"])
def test_short_buffer_has_the_required_size(books: Books, where: str) -> None:
    with teec.Context() as context, context.open_session(UUID) as session:
        block = context.allocate(64)
        param = {
            "temp": teec.TempMemory(64, "out"),
            "whole": teec.RegisteredMemory(block),
            "partial": teec.PartialMemory(block, 0, 64, "out"),
        }[where]
        with pytest.raises(teec.ShortBuffer) as caught:
            session.invoke(2, teec.Value(1), param, teec.TempMemory(b"in"), teec.TempMemory(200, "out"))
        assert caught.value.required == {1: 100}
        assert caught.value.origin is codes.Origin.TRUSTED_APP


def test_null_and_empty_memory(books: Books) -> None:
    with teec.Context() as context, context.open_session(UUID) as session:
        with pytest.raises(teec.ShortBuffer) as caught:
            session.invoke(2, teec.TempMemory(None, "out"), teec.TempMemory(b"", "in"))
        assert caught.value.required == {0: 100}
        assert session.invoke(1, teec.Value(0, 0, "out"), teec.TempMemory(bytearray(), "inout"))[1] == b""


@pytest.mark.parametrize(
    "make",
    [
        lambda: bytearray(b"abcdefgh"),
        lambda: array.array("H", range(4)),
        lambda: np.arange(8, dtype=">f4").reshape(2, 4),
        lambda: np.zeros(3, dtype=[("x", "i4"), ("y", "f8")]),
        lambda: mmap.mmap(-1, 4096),
    ],
)
def test_buffers_are_shared_without_a_copy(books: Books, make: Any) -> None:
    buffer = make()
    with teec.Context() as context:
        with context.register(buffer) as block:
            assert block.size == memoryview(buffer).nbytes
            block.view[0] = 0x5A
            del block
        assert bytes(memoryview(buffer).cast("B") if isinstance(buffer, bytearray) else bytes(buffer))[0] == 0x5A
    if isinstance(buffer, mmap.mmap):
        buffer.close()


def test_a_registered_buffer_is_locked_until_close(books: Books) -> None:
    buffer = bytearray(16)
    with teec.Context() as context:
        block = context.register(buffer)
        with pytest.raises(BufferError):
            buffer.append(1)
        block.close()
        buffer.append(1)


def test_read_only_buffers(books: Books) -> None:
    with teec.Context() as context:
        with pytest.raises(ArgumentError, match="writable"):
            context.register(b"constant")
        with context.register(b"constant", "in") as block, pytest.raises(TypeError):
            block.view[0] = 0
        with context.open_session(UUID) as session, pytest.raises(ArgumentError, match="writable"):
            session.invoke(1, teec.TempMemory(b"constant", "out"))


@pytest.mark.parametrize(
    "call",
    [
        lambda c, s: s.invoke(1, 5),
        lambda c, s: s.invoke(1, *[teec.Value()] * 5),
        lambda c, s: s.invoke(-1),
        lambda c, s: s.invoke(1 << 32),
        lambda c, s: s.invoke(1, teec.Operation(), teec.Value()),
        lambda c, s: s.invoke(1, teec.TempMemory("text")),
        lambda c, s: s.invoke(1, teec.TempMemory(np.zeros((4, 4))[:, ::2])),
        lambda c, s: teec.Value(1 << 32, 0),
        lambda c, s: teec.Value(-1, 0),
        lambda c, s: teec.Value(0, 0, "both"),
        lambda c, s: teec.TempMemory(-4, "out"),
        lambda c, s: c.register(bytearray()),
        lambda c, s: c.allocate(0),
        lambda c, s: c.allocate(16, "sideways"),
        lambda c, s: teec.PartialMemory(c.allocate(16), 8, 9),
        lambda c, s: teec.PartialMemory(c.allocate(16), -1, 4),
        lambda c, s: teec.PartialMemory(c.allocate(16, "in"), 0, 4, "out"),
        lambda c, s: c.open_session("not a uuid"),
        lambda c, s: c.open_session(UUID, login=codes.Login.GROUP),
        lambda c, s: c.open_session(UUID, group=5),
    ],
)
def test_bad_arguments_never_reach_the_tee(books: Books, call: Any) -> None:
    with teec.Context() as context, context.open_session(UUID) as session:
        calls = books.calls
        with pytest.raises(ArgumentError):
            call(context, session)
        assert books.calls == calls
        assert books.open()[:2] == (1, 1)


@pytest.mark.parametrize(
    "function",
    [
        "TEEC_InitializeContext",
        "TEEC_OpenSession",
        "TEEC_RegisterSharedMemory",
        "TEEC_AllocateSharedMemory",
        "TEEC_InvokeCommand",
    ],
)
def test_a_failure_anywhere_releases_everything(books: Books, function: str) -> None:
    books.fail(function, codes.Code.OUT_OF_MEMORY)
    buffer = bytearray(32)

    def work() -> None:
        with teec.Context() as context, context.open_session(UUID) as session:
            block, other = context.register(buffer), context.allocate(16)
            session.invoke(1, block, other, teec.TempMemory(buffer, "inout"))

    with pytest.raises(teec.OutOfMemory, match=function):
        work()
    assert books.open() == (0, 0, 0)
    buffer.append(0)  # no export is left


def test_close_in_any_order_and_twice(books: Books) -> None:
    context = teec.Context()
    session = context.open_session(UUID)
    block = context.allocate(16)
    context.close()
    assert books.open() == (0, 0, 0)
    assert (context.closed, session.closed, block.closed) == (True, True, True)
    for each in (session, block, context, context):
        each.close()


def test_use_after_close_says_so(books: Books) -> None:
    context = teec.Context()
    session = context.open_session(UUID)
    block = context.allocate(16)
    block.close()
    with pytest.raises(ClosedError, match="shared memory"):
        session.invoke(1, block)
    with pytest.raises(ClosedError, match="shared memory"):
        _ = block.view
    session.close()
    with pytest.raises(ClosedError, match="session"):
        session.invoke(1)
    with pytest.raises(ClosedError, match="session"), session:
        pass
    context.close()
    for call in (
        lambda: context.open_session(UUID),
        lambda: context.allocate(4),
        lambda: context.register(bytearray(4)),
    ):
        with pytest.raises(ClosedError, match="context"):
            call()


def test_garbage_is_collected_in_order(books: Books) -> None:
    def leave() -> None:
        context = teec.Context()
        cycle: list[Any] = [context, context.open_session(UUID), context.allocate(16), context.register(bytearray(4))]
        cycle.append(cycle)

    leave()
    assert books.open() == (0, 0, 0)
    session = teec.Context().open_session(UUID)
    assert books.open() == (1, 1, 0)
    session.invoke(1, teec.Value(0, 0, "inout"))
    del session


def test_a_view_keeps_allocated_memory(books: Books) -> None:
    with teec.Context() as context:
        block = context.allocate(16)
        part = np.frombuffer(block.view[4:8], dtype=np.uint8)
        block.view[:] = b"0123456789abcdef"
    assert bytes(part) == b"4567"  # the double overwrites what it frees
    assert books.open() == (1, 0, 1)
    del part
    assert books.open() == (0, 0, 0)


def test_cancellation_from_another_thread(books: Books) -> None:
    with teec.Context() as context, context.open_session(UUID) as session:
        operation = teec.Operation(teec.Value(1))
        threading.Timer(0.05, operation.cancel).start()
        with pytest.raises(teec.Cancel):
            session.invoke(3, operation)
        assert books.cancels >= 1
        assert operation.cancel() is True  # ended: nothing to do
        assert session.invoke(1, operation) == (None,)


def test_cancellation_before_the_call(books: Books) -> None:
    with teec.Context() as context, context.open_session(UUID) as session:
        operation = teec.Operation()
        operation.cancel()
        calls = books.calls
        with pytest.raises(teec.Cancel) as caught:
            session.invoke(1, operation)
        assert caught.value.origin is codes.Origin.API
        assert books.calls == calls


def test_closing_during_a_call_cancels_it_and_then_closes(books: Books) -> None:
    context = teec.Context()
    session = context.open_session(UUID)
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            session.invoke(3, teec.TempMemory(8, "out"))
        except teec.TeecError as error:
            outcome.append(error)

    worker = threading.Thread(target=work)
    calls = books.calls
    worker.start()
    while books.calls == calls:
        time.sleep(0.001)
    time.sleep(0.02)
    context.close()
    worker.join(10)
    assert [type(error) for error in outcome] == [teec.Cancel]
    assert books.open() == (0, 0, 0)


def test_an_operation_serves_one_call_at_a_time(books: Books) -> None:
    with teec.Context() as context, context.open_session(UUID) as session:
        operation = teec.Operation()

        def work() -> None:
            with pytest.raises(teec.Cancel):
                session.invoke(3, operation)

        worker = threading.Thread(target=work)
        calls = books.calls
        worker.start()
        while books.calls == calls:
            time.sleep(0.001)
        with pytest.raises(ArgumentError, match="in use"):
            session.invoke(1, operation)
        assert operation.cancel(wait=5.0) is True
        worker.join(10)


def test_a_forked_child_leaves_the_parents_session_alone(books: Books) -> None:
    with teec.Context() as context, context.open_session(UUID) as session:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                session.close()
                context.close()
                try:
                    session.invoke(1)
                except ClosedError:
                    status = 0 if books.open() == (1, 1, 0) else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        session.invoke(1, teec.Value(0, 0, "inout"))


def test_a_sysroot_is_searched(header: Path, double: Path, tmp_path: Path) -> None:
    """The layout of unpacked packages, and one without ``usr``; what is missing is named."""
    for base in (tmp_path / "debian/usr", tmp_path / "plain"):
        (base / "include/python3.11").mkdir(parents=True)
        (base / "include/python3.11/Python.h").touch()
        (base / "include/tee_client_api.h").write_bytes((header / "tee_client_api.h").read_bytes())
        (base / "lib/some-linux-gnu").mkdir(parents=True)
        (base / "lib/some-linux-gnu/libteec.so.2").write_bytes(double.read_bytes())
    for root, base in (("debian", "debian/usr"), ("plain", "plain")):
        include, libdir = build_teec.search_sysroot(tmp_path / root)
        assert include == [tmp_path / base / "include/python3.11", tmp_path / base / "include"]
        assert libdir == [tmp_path / base / "lib/some-linux-gnu"]
        assert build_teec.library_option(libdir) == "-l:libteec.so.2"
    (tmp_path / "plain/include/tee_client_api.h").unlink()
    with pytest.raises(build_teec.BuildError, match=r"tee_client_api\.h"):
        build_teec.search_sysroot(tmp_path / "plain")

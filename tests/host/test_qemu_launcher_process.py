# SPDX-License-Identifier: BSD-2-Clause
"""The launcher's promises about processes and files: locks, the guard, no orphan; `sleep` stands where QEMU would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.device.errors import DiskFull, InstanceBusy, InstanceNotRunning
from cloister.device.qemu import reset_device
from cloister_qemu import guard
from cloister_qemu.files import InstanceFiles, Note
from cloister_qemu.keys import ensure_keys, public_line
from cloister_qemu.process import ProcessId, end_process, start_time
from cloister_qemu.storage import SIZE, ensure_storage


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLOISTER_STATE", str(tmp_path))
    return tmp_path


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as running:
        yield running
        running.kill()


def test_process_is_not_mistaken_for_another_of_its_number(sleeper: subprocess.Popen[bytes]) -> None:
    start = start_time(sleeper.pid)
    assert start is not None
    assert ProcessId(sleeper.pid, start).alive()
    other = ProcessId(sleeper.pid, start - 1)
    assert not other.alive()
    assert not other.send(signal.SIGKILL)
    assert sleeper.poll() is None
    end_process(ProcessId(sleeper.pid, start))
    assert sleeper.wait(5) == -signal.SIGTERM


def test_process_that_ignores_sigterm_is_killed() -> None:
    with subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
    ) as p:
        assert p.stdout is not None
        p.stdout.readline()
        start = start_time(p.pid)
        assert start is not None
        end_process(ProcessId(p.pid, start), grace=0.3)
        assert p.wait(5) == -signal.SIGKILL


def note_for(running: subprocess.Popen[bytes], daemon: bool = True) -> Note:
    start = start_time(running.pid)
    assert start is not None
    me = ProcessId(running.pid, start)
    return Note(me, me, os.getpid(), daemon, "virt", "default", 4022, "f", time.time())


def test_lock_is_exclusive_and_survives_in_whoever_holds_a_copy() -> None:
    files = InstanceFiles("one")
    lock = files.acquire()
    assert files.locked()
    with pytest.raises(InstanceBusy, match="already running"):
        files.acquire()
    # As QEMU does, a child holds a copy after the parent has closed its own.
    with subprocess.Popen(["sleep", "1000"], pass_fds=(lock,)) as child:
        os.close(lock)
        assert files.locked()
        child.kill()
    assert eventually(lambda: not files.locked())
    os.close(files.acquire())


def test_two_instances_do_not_share_anything() -> None:
    one, two = InstanceFiles("one"), InstanceFiles("two")
    locks = [one.acquire(), two.acquire()]
    assert ensure_keys(one.keys).host_public() != ensure_keys(two.keys).host_public()
    assert one.directory != two.directory
    for lock in locks:
        os.close(lock)


def test_note_of_a_dead_process_counts_for_nothing(sleeper: subprocess.Popen[bytes]) -> None:
    files = InstanceFiles("one")
    files.create()
    note = note_for(sleeper)
    files.write_note(note)
    assert files.read_note() == note
    sleeper.kill()
    sleeper.wait()
    assert files.read_note() is None
    files.note.write_text("{}")
    assert files.read_note() is None


def test_keys_are_private_and_stay() -> None:
    keys = ensure_keys(InstanceFiles("one").keys)
    for path in (keys.host, keys.client):
        assert path.stat().st_mode & 0o777 == 0o600
    assert keys.host.parent.stat().st_mode & 0o777 == 0o700
    before = keys.host_public()
    assert before.startswith("ssh-ed25519 ")
    assert ensure_keys(keys.host.parent).host_public() == before == public_line(keys.host)
    assert keys.client_public() != before


def test_storage_is_made_once_with_its_label(tmp_path: Path) -> None:
    image = tmp_path / "teestate.img"
    assert ensure_storage(image)
    data = image.read_bytes()
    assert len(data) == SIZE
    # ext4 superblock at 1024: magic at 0x38, volume name at 0x78 (Documentation/filesystems/ext4)
    assert data[1024 + 0x38 : 1024 + 0x3A] == b"\x53\xef"
    assert data[1024 + 0x78 : 1024 + 0x88].rstrip(b"\0") == b"teestate"
    image.write_bytes(b"kept")
    assert not ensure_storage(image)
    assert image.read_bytes() == b"kept"


def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int, _offset: int, _size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match="no space left"):
        ensure_storage(tmp_path / "teestate.img")
    assert list(tmp_path.iterdir()) == []


def test_reset_refuses_a_running_device_and_empties_a_stopped_one() -> None:
    with pytest.raises(InstanceNotRunning):
        reset_device("one")
    files = InstanceFiles("one")
    lock = files.acquire()
    ensure_keys(files.keys)
    files.storage.write_bytes(b"secret")
    with pytest.raises(InstanceBusy, match="deletes its secure storage"):
        reset_device("one")
    assert files.storage.exists()
    os.close(lock)
    reset_device("one")
    assert [path.name for path in files.directory.iterdir()] == ["lock"]


# The guard, as the launcher starts it.


def start_guard(place: Path, *command: str) -> tuple[subprocess.Popen[bytes], int]:
    read_end, write_end = os.pipe()
    options = ["--process", str(place / "process.json"), "--exit", str(place / "exit.json")]
    running = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, *options, "--", *command], stdin=read_end, start_new_session=True
    )
    os.close(read_end)
    return running, write_end


def child_of(place: Path) -> ProcessId:
    assert eventually((place / "process.json").exists)
    data = json.loads((place / "process.json").read_text())
    return ProcessId(data["pid"], data["start"])


def test_guard_writes_down_how_its_child_ended(tmp_path: Path) -> None:
    running, pipe = start_guard(tmp_path, "sh", "-c", "exit 7")
    assert running.wait(10) == 0
    assert json.loads((tmp_path / "exit.json").read_text()) == {"returncode": 7}
    os.close(pipe)


def test_guard_ends_its_child_when_the_pipe_closes(tmp_path: Path) -> None:
    running, pipe = start_guard(tmp_path, "sleep", "1000")
    child = child_of(tmp_path)
    assert child.alive()
    os.close(pipe)
    assert running.wait(10) == 0
    assert not child.alive()


def test_child_dies_with_a_guard_that_is_killed(tmp_path: Path) -> None:
    running, pipe = start_guard(tmp_path, "sleep", "1000")
    child = child_of(tmp_path)
    running.kill()
    running.wait()
    assert child.wait(5)
    os.close(pipe)


def test_guard_ignores_the_terminals_interrupt(tmp_path: Path) -> None:
    running, pipe = start_guard(tmp_path, "sleep", "1000")
    child = child_of(tmp_path)
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert running.poll() is None and child.alive()
    os.close(pipe)
    running.wait(10)


def test_daemon_outlives_the_pipe_until_it_is_told_to_stop(tmp_path: Path) -> None:
    running, pipe = start_guard(tmp_path, "sleep", "1000")
    child = child_of(tmp_path)
    os.write(pipe, b"d")
    os.close(pipe)
    time.sleep(0.5)
    assert child.alive()
    running.terminate()
    assert running.wait(10) == 0
    assert not child.alive()


def test_guard_kills_a_child_that_ignores_sigterm(tmp_path: Path) -> None:
    running, pipe = start_guard(tmp_path, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    child = child_of(tmp_path)
    time.sleep(0.3)
    os.close(pipe)
    assert running.wait(guard.GRACE_S + 10) == 0
    assert not child.alive()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_orphan_when_the_user_process_is_signalled(tmp_path: Path, number: signal.Signals) -> None:
    # A process of its own that starts a guard as the launcher does, and then waits.
    program = f"""
import os, subprocess, sys, time
read, write = os.pipe()
subprocess.Popen([sys.executable, "-I", "-S", {guard.__file__!r}, "--process", "process.json", "--exit", "exit.json",
                  "--", "sleep", "1000"], stdin=read, start_new_session=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.DEVNULL) as user:
        child = child_of(tmp_path)
        user.send_signal(number)
        user.wait(10)
    assert child.wait(10)

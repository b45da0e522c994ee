# SPDX-License-Identifier: BSD-2-Clause
"""The directory of one instance: its files, its lock, and the note that says who runs it.

The lock is an flock(2) on `lock`. Its descriptor is handed on to the guard and to QEMU, so the
directory stays locked exactly as long as any of the three lives, however the others ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloister.device.errors import InstanceBusy
from cloister_qemu.paths import instance_directory, state_root
from cloister_qemu.process import ProcessId
from cloister_qemu.storage import disk_error


@dataclass(frozen=True)
class Note:
    """What `instance.json` says about a running instance.

    Attributes:
        owner: the process that started it.
        daemon: whether it runs on after that process ended.
        started: when, in seconds since the epoch.
        firmware: digest of the firmware it was started with.
    """

    qemu: ProcessId
    guard: ProcessId
    owner: int
    daemon: bool
    machine: str
    profile: str
    ssh_port: int
    firmware: str
    started: float


class InstanceFiles:
    """Paths below an instance's directory. Raises DeviceError when the name cannot be one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = instance_directory(name)
        self.lock = self.directory / "lock"
        self.note = self.directory / "instance.json"
        self.process = self.directory / "process.json"
        self.exit = self.directory / "exit.json"
        self.qemu_log = self.directory / "qemu.log"
        self.normal_log = self.directory / "normal.log"
        self.secure_log = self.directory / "secure.log"
        self.storage = self.directory / "teestate.img"
        self.environment = self.directory / "u-boot.env"
        self.keys = self.directory / "keys"
        self.share = self.directory / "share"

    def create(self) -> None:
        """Make the directory, readable by its owner only."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.directory) from error

    def acquire(self) -> int:
        """Lock the instance; the descriptor returned holds the lock until it and its copies are closed.

        Raises InstanceBusy, which names the process that has it.
        """
        self.create()
        handle = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            note = self.read_note()
            by = f" by process {note.owner}" if note is not None and not note.daemon else ""
            raise InstanceBusy(
                f"the device {self.name!r} is already running{by}",
                f"stop it (cloister device stop --name {self.name}), or use another, such as qemu:{self.name}2",
            ) from None
        except BaseException:
            os.close(handle)
            raise
        return handle

    def locked(self) -> bool:
        """Whether someone runs this instance now."""
        try:
            handle = os.open(self.lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared, so that two that look at the same time do not take each other for a user.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(handle)

    def read_note(self) -> Note | None:
        """The note of the running instance; None when there is none or its QEMU has ended."""
        data = read_json(self.note)
        if data is None:
            return None
        try:
            note = Note(**{**data, "qemu": ProcessId(**data["qemu"]), "guard": ProcessId(**data["guard"])})
        except (KeyError, TypeError):
            return None
        return note if note.qemu.alive() else None

    def write_note(self, note: Note) -> None:
        """Write the note aside, then rename it."""
        aside = self.note.with_name(f".{self.note.name}.{os.getpid()}")
        aside.write_text(json.dumps(asdict(note), indent=1), "utf-8")
        aside.rename(self.note)

    def rotate(self) -> None:
        """Put the logs of the last run aside (`*.log.1`) and drop its notes. Hold the lock."""
        for path in (self.normal_log, self.secure_log, self.qemu_log):
            if path.exists():
                path.rename(path.with_name(path.name + ".1"))
            path.touch(mode=0o600)
        for path in (self.note, self.process, self.exit):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete everything but the lock. Hold the lock."""
        for path in self.directory.iterdir():
            if path == self.lock:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, None when the file is not there or is no object."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def instance_names() -> list[str]:
    """Names of all instances that have a directory."""
    try:
        return sorted(path.name for path in (state_root() / "devices").iterdir() if (path / "lock").exists())
    except FileNotFoundError:
        return []

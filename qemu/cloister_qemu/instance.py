# SPDX-License-Identifier: BSD-2-Clause
"""A running emulated device: watch it, stop it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from cloister.device.errors import (
    BootFailed,
    EmulatorExited,
    NormalWorldPanic,
    SecureWorldPanic,
    TrustedApplicationPanic,
    WorldFailed,
)
from cloister_qemu.console import ConsoleWatcher, Event, EventKind, World, tail
from cloister_qemu.files import InstanceFiles, Note, read_json
from cloister_qemu.keys import InstanceKeys, ensure_keys
from cloister_qemu.machine import Machine
from cloister_qemu.process import end_process

#: Called while waiting, with the seconds passed and what is waited for.
Progress = Callable[[float, str], None]

#: Kinds of events, the worst first.
SEVERITY = (EventKind.SECURE_PANIC, EventKind.NORMAL_PANIC, EventKind.TA_PANIC, EventKind.EXITED)
_ERRORS: dict[EventKind, type[WorldFailed]] = {
    EventKind.SECURE_PANIC: SecureWorldPanic,
    EventKind.NORMAL_PANIC: NormalWorldPanic,
    EventKind.TA_PANIC: TrustedApplicationPanic,
    EventKind.EXITED: EmulatorExited,
}


def silent(_elapsed: float, _phase: str) -> None:
    """A Progress that shows nothing."""


class Instance:
    """One emulated device that runs. Made by start_instance() or join_instance() of `launch`.

    `failed` is set as soon as a world panicked or QEMU ended; check() raises the error for it.

    Args:
        lock, guard, lifeline: of the process that started it: the instance's lock, the guard, and the pipe whose
            end tells the guard that this process is gone.
    """

    def __init__(
        self,
        files: InstanceFiles,
        machine: Machine,
        note: Note,
        lock: int | None = None,
        guard: subprocess.Popen[bytes] | None = None,
        lifeline: int | None = None,
    ) -> None:
        self.files = files
        self.machine = machine
        self.note = note
        self.keys: InstanceKeys = ensure_keys(files.keys)
        self._lock = lock
        self._lifeline = lifeline
        self._guard = guard
        logs = {World.NORMAL: files.normal_log, World.SECURE: files.secure_log}
        self._watcher = ConsoleWatcher(logs, self._ended)
        self._watcher.expect(World.SECURE, machine.secure_ready)
        self._watcher.expect(World.NORMAL, machine.normal_ready)
        self._watcher.expect(World.NORMAL, machine.normal_failed)
        self._tolerant = 0
        self._watcher.start()

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.files.name

    @property
    def failed(self) -> threading.Event:
        """Set at the first panic, abort or end of QEMU."""
        return self._watcher.failed

    @property
    def owned(self) -> bool:
        """Whether this process started it and must stop it."""
        return self._lock is not None and not self.note.daemon

    def check(self) -> None:
        """Raise what failed since the start (a TA's panic once, all others each time), else return.

        Raises SecureWorldPanic, NormalWorldPanic, TrustedApplicationPanic or EmulatorExited, with the last
        lines of the secure world's log.
        """
        self._watcher.poll()
        events = self._watcher.events()
        if self._tolerant:
            events = [event for event in events if event.kind is not EventKind.TA_PANIC]
        if not events:
            return
        event = min(events, key=lambda event: SEVERITY.index(event.kind))
        if event.kind is EventKind.TA_PANIC:
            self._watcher.forget([EventKind.TA_PANIC])
        raise self._error(event)

    @contextlib.contextmanager
    def expect_ta_panic(self) -> Iterator[list[str]]:
        """Inside of it a trusted application may panic; the list then holds the log lines that say so."""
        self.check()
        lines: list[str] = []
        self._tolerant += 1
        try:
            yield lines
        finally:
            self._watcher.poll()
            self._tolerant -= 1
            lines += [event.line for event in self._watcher.events() if event.kind is EventKind.TA_PANIC]
            self._watcher.forget([EventKind.TA_PANIC])
        self.check()

    def wait_ready(self, progress: Progress = silent, timeout: float | None = None) -> None:
        """Wait until both worlds are up. Raises BootFailed with the tails of both logs."""
        limit = self.machine.timeout_s if timeout is None else timeout
        begin = self.note.started
        while True:
            self._watcher.poll()
            if self._watcher.found(World.NORMAL, self.machine.normal_failed):
                raise BootFailed(f"the device {self.name!r} reports that its start failed\n{self.tails()}")
            if not self._watcher.found(World.SECURE, self.machine.secure_ready):
                phase = "the secure world"
            elif not self._watcher.found(World.NORMAL, self.machine.normal_ready):
                phase = "Linux"
            else:
                return
            elapsed = time.time() - begin
            progress(elapsed, phase)
            fatal = [event for event in self._watcher.events() if event.kind is not EventKind.TA_PANIC]
            if fatal:
                event = min(fatal, key=lambda event: SEVERITY.index(event.kind))
                raise BootFailed(
                    f"the device {self.name!r} did not boot: {event.kind.value}: {event.line}\n{self.tails()}"
                )
            if elapsed > limit:
                raise BootFailed(
                    f"the device {self.name!r} did not boot: still waiting for {phase} after {limit:.0f} s\n"
                    f"{self.tails()}"
                )
            self.failed.wait(0.1)

    def wait_exit(self, progress: Progress = silent, timeout: float | None = None) -> None:
        """Wait for QEMU's end, while both worlds are watched; TimeoutError after `timeout` seconds."""
        begin = time.monotonic()
        while self.note.qemu.alive():
            self._watcher.poll()
            if any(event.kind is not EventKind.EXITED for event in self._watcher.events()):
                self.check()
            elapsed = time.monotonic() - begin
            progress(elapsed, "the guest to end")
            if timeout is not None and elapsed > timeout:
                raise TimeoutError
            time.sleep(0.1)
        self._watcher.poll()

    def tails(self, lines: int = 15) -> str:
        """The last lines of QEMU's messages and of both consoles, each under its file's name."""
        parts = []
        for title, path in (
            ("QEMU", self.files.qemu_log),
            ("normal world", self.files.normal_log),
            ("secure world", self.files.secure_log),
        ):
            text = tail(path, lines)
            parts.append(f"--- {title}, last lines of {path}:\n{text or '(empty)'}")
        return "\n".join(parts)

    def stop(self, poweroff: Callable[[], None] | None = None, grace: float = 20.0) -> None:
        """End the device: by `poweroff`, which asks Linux to, else SIGTERM, else SIGKILL."""
        try:
            if poweroff is not None and self.note.qemu.alive():
                poweroff()
                fatal = [event for event in self._watcher.events() if event.kind is not EventKind.TA_PANIC]
                if not fatal:
                    self.note.qemu.wait(grace)
        finally:
            self.kill()

    def kill(self) -> None:
        """End QEMU at once (SIGTERM, then SIGKILL) and let go of the instance."""
        try:
            end_process(self.note.qemu)
            self.note.guard.wait(2.0)
        finally:
            self.release()

    def forget_ta_panics(self) -> None:
        """Drop panics of trusted applications so far: they are no fault of who joins a daemon now."""
        self._watcher.forget([EventKind.TA_PANIC])

    def release(self) -> None:
        """Stop watching and give the lock back; a daemon runs on, as QEMU holds a copy of the lock."""
        self._watcher.stop()
        if self._lifeline is not None:
            if self.note.daemon:
                with contextlib.suppress(BrokenPipeError):
                    os.write(self._lifeline, b"d")
            os.close(self._lifeline)
            self._lifeline = None
        if self._guard is not None and not self.note.daemon:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(5.0)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _ended(self) -> str | None:
        if self.note.qemu.alive():
            return None
        status = read_json(self.files.exit)
        if status is None:
            return "QEMU ended"
        code = status.get("returncode")
        return "QEMU ended (powered off)" if code == 0 else f"QEMU ended with status {code}"

    def _error(self, event: Event) -> WorldFailed:
        if event.kind is EventKind.EXITED:
            text = f"the device {self.name!r} ended while it was in use: {event.line}\n{self.tails()}"
        else:
            log = self.files.normal_log if event.kind is EventKind.NORMAL_PANIC else self.files.secure_log
            text = (
                f"{event.kind.value} on the device {self.name!r}: {event.line}\n"
                f"--- last lines of {log}:\n{tail(log, 30)}"
            )
        return _ERRORS[event.kind](text)

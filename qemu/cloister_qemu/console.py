# SPDX-License-Identifier: BSD-2-Clause
"""Watch the logs of both worlds for readiness, panics and aborts.

QEMU writes each serial port into a file. Whoever uses the instance follows these files, so a daemon's
consoles can be watched by any number of processes and no reader can block the guest.
"""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


class World(enum.Enum):
    """Which serial port a line came from."""

    NORMAL = "normal"
    SECURE = "secure"


class EventKind(enum.Enum):
    """What a line, or the end of QEMU, means."""

    SECURE_PANIC = "secure world panic"
    TA_PANIC = "trusted application panic"
    NORMAL_PANIC = "Linux kernel panic"
    EXITED = "emulator ended"


@dataclass(frozen=True)
class Event:
    """Something that fails what was running."""

    kind: EventKind
    line: str


# OP-TEE prefixes its own lines with "<level>/TC:<core> <thread> ", the loader of trusted applications with
# "E/LD:", applications with "E/TA:". Only the core's and the loader's prefix can be trusted: an application may
# print what it likes. Sources: OP-TEE core/kernel/panic.c, core/arch/arm/kernel/abort.c, ldelf/ta_elf.c; TF-A
# plat/common/aarch64/plat_common.c, common/backtrace. TF-A shares the normal world's port on QEMU.
_SECURE = (
    (EventKind.TA_PANIC, re.compile(r"^E/TC:.*\bTA panicked with code\b")),
    (EventKind.TA_PANIC, re.compile(r"^E/TC:.*\bUser mode \S+-abort\b")),
    (EventKind.TA_PANIC, re.compile(r"^E/LD:\s+Status of TA\b")),
    (EventKind.SECURE_PANIC, re.compile(r"^E/TC:\S*\s+\S*\s*Panic\b")),
    (EventKind.SECURE_PANIC, re.compile(r"^E/TC:.*\bCore \S+-abort\b")),
    (EventKind.SECURE_PANIC, re.compile(r"^E/TC:.*\babort in abort handler\b")),
    (EventKind.SECURE_PANIC, re.compile(r"^E/TC:.*\bDead canary\b")),
    (EventKind.SECURE_PANIC, re.compile(r"^E/TC:.*\b(?:[Pp]anic|PANIC)\b(?!ked)")),
)
_FIRMWARE = (
    (EventKind.SECURE_PANIC, re.compile(r"^(?:PANIC (?:at|in) |BACKTRACE: START: )")),
    (EventKind.SECURE_PANIC, re.compile(r"^Unhandled Exception (?:in|from) EL3")),
    (EventKind.SECURE_PANIC, re.compile(r"^ASSERT: ")),
)
# A log line of Linux carries a time stamp; without it the line is what a program printed.
_NORMAL = (
    (EventKind.NORMAL_PANIC, re.compile(r"^\[ *\d+\.\d+\](?:\[[^\]]*\])? (?:---\[ end )?Kernel panic - not syncing")),
    (EventKind.NORMAL_PANIC, re.compile(r"^\[ *\d+\.\d+\](?:\[[^\]]*\])? Internal error: ")),
)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\x00")


def classify(world: World, line: str) -> EventKind | None:
    """What a console line means, None for ordinary lines."""
    table = _SECURE + _FIRMWARE if world is World.SECURE else _FIRMWARE + _NORMAL
    for kind, pattern in table:
        if pattern.search(line):
            return kind
    return None


class LogFollower:
    """Reads what was added to a growing log file, line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def poll(self) -> list[str]:
        """Return the lines that were completed since the last call, escape sequences removed."""
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return []
        data = self._file.read()
        if not data:
            return []
        *complete, self._rest = (self._rest + data).split(b"\n")
        return [clean(line) for line in complete]

    def rest(self) -> str:
        """The last line as far as it was written."""
        return clean(self._rest)

    def close(self) -> None:
        """Close the file; poll() opens it anew, from its beginning."""
        if self._file is not None:
            self._file.close()
            self._file = None


def clean(line: bytes) -> str:
    """Decode a console line and drop terminal escapes."""
    return _ESCAPES.sub("", line.decode("utf-8", "replace"))


def tail(path: Path, lines: int) -> str:
    """The last lines of a log file, empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 400 * lines))
            content = file.read()
    except OSError:
        return ""
    return "\n".join(clean(line) for line in content.split(b"\n")[-lines - 1 :]).strip("\n")


class ConsoleWatcher:
    """Follows both consoles in a thread; keeps the events and tells who waits for a line.

    Args:
        logs: the log file of each world.
        alive: returns None while QEMU runs, then how it ended.
        interval: seconds between two looks at the files.
    """

    def __init__(self, logs: dict[World, Path], alive: Callable[[], str | None], interval: float = 0.05) -> None:
        self._followers = {world: LogFollower(path) for world, path in logs.items()}
        self._alive = alive
        self._interval = interval
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._seen: dict[World, list[re.Pattern[str]]] = {world: [] for world in logs}
        self._found: set[tuple[World, str]] = set()
        self._ended = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        #: Set at the first event; stays set.
        self.failed = threading.Event()

    def expect(self, world: World, pattern: re.Pattern[str]) -> None:
        """Remember when a line matches; ask with found(). Call before start()."""
        self._seen[world].append(pattern)

    def found(self, world: World, pattern: re.Pattern[str]) -> bool:
        """Whether a line of that world matched an expected pattern."""
        with self._lock:
            return (world, pattern.pattern) in self._found

    def start(self) -> None:
        """Start to follow, in a daemon thread."""
        self._thread = threading.Thread(target=self._follow, name="cloister-consoles", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following and close the files."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            for follower in self._followers.values():
                follower.close()

    def poll(self) -> None:
        """Read what is there now. The UART writes synchronously, so what came before an answer is seen."""
        with self._lock:
            # Asked first: what QEMU wrote before it ended is then in the files.
            ended = None if self._ended else self._alive()
            for world, follower in self._followers.items():
                lines = follower.poll()
                if ended is not None and follower.rest():
                    lines.append(follower.rest())
                self._scan(world, lines)
            if ended is not None:
                self._ended = True
                self._add(Event(EventKind.EXITED, ended))

    def events(self) -> list[Event]:
        """All events so far."""
        with self._lock:
            return list(self._events)

    def forget(self, kinds: Iterable[EventKind]) -> None:
        """Drop the events of these kinds: they were expected, or belong to earlier users of a daemon."""
        drop = set(kinds)
        with self._lock:
            self._events = [event for event in self._events if event.kind not in drop]
            if not self._events:
                self.failed.clear()

    def _follow(self) -> None:
        while not self._stopping.wait(self._interval):
            self.poll()

    def _scan(self, world: World, lines: Iterable[str]) -> None:
        for line in lines:
            for pattern in self._seen[world]:
                if pattern.search(line):
                    self._found.add((world, pattern.pattern))
            kind = classify(world, line)
            if kind is not None:
                self._add(Event(kind, line.strip()))

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self.failed.set()

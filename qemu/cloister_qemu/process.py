# SPDX-License-Identifier: BSD-2-Clause
"""Processes named so that a number used again is not taken for the one meant, and free ports."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """A process: its number, and its start time in clock ticks since the machine's boot."""

    pid: int
    start: int

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_time(self.pid) == self.start

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to this process and no other; False when it has ended."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # Checked after the descriptor was opened: it cannot come to mean another process.
            if not self.alive():
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)

    def wait(self, timeout: float) -> bool:
        """Wait until the process has ended; False when it still runs after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True


def start_time(pid: int) -> int | None:
    """Start time of a process (field 22 of /proc/PID/stat, proc(5)), None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    # The program's name stands in parentheses and may itself hold parentheses and blanks.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now. Another program may take it: try again when it did."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_process(process: ProcessId, grace: float = 5.0) -> None:
    """SIGTERM, then SIGKILL, to this very process."""
    process.send(signal.SIGTERM)
    if not process.wait(grace):
        process.send(signal.SIGKILL)
        process.wait(grace)

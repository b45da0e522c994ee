# SPDX-License-Identifier: BSD-2-Clause
"""The guard: QEMU's parent process, which sees to it that no QEMU outlives its user.

Run by its path as a program of its own (it imports nothing of Cloister, so it starts fast). Its
standard input is a pipe from the user's process, which closes however that process ends. A byte in
it, sent when a daemon is up, says that QEMU shall live on after that. QEMU in turn is killed by the
kernel when the guard dies: the guard has one thread only, as PR_SET_PDEATHSIG counts the death of
the thread that forked.

    guard.py --process FILE --exit FILE [--hold FD] -- QEMU ARGUMENTS...
"""

from __future__ import annotations

# ruff: noqa: PTH104, PTH123 - pathlib would triple the time this program takes to start
import ctypes
import json
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1
GRACE_S = 5.0


def write(path: str, content: dict[str, object]) -> None:
    """Write a JSON file aside, then rename it."""
    aside = f"{path}.{os.getpid()}"
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.rename(aside, path)


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        text = file.read()
    return int(text[text.rindex(")") + 2 :].split()[19])


def main(arguments: list[str]) -> int:
    """Start QEMU, wait for its end or the user's, write down how it ended."""
    split = arguments.index("--")
    own, command = arguments[:split], arguments[split + 1 :]
    process_file = own[own.index("--process") + 1]
    exit_file = own[own.index("--exit") + 1]
    hold = (int(own[own.index("--hold") + 1]),) if "--hold" in own else ()
    # Ctrl-C is the user's process's to handle; it ends QEMU in an orderly way.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    stop_requested = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: stop_requested.append(True))
    guard = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)

    def bind_to_guard() -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:
            os._exit(1)

    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=hold, preexec_fn=bind_to_guard)
    except OSError as error:
        write(exit_file, {"returncode": 127, "error": str(error)})
        return 127
    own_start, child_start = start_time(guard), start_time(child.pid)
    write(process_file, {"pid": child.pid, "start": child_start, "guard": guard, "guard_start": own_start})
    watched = [wake_read, 0]
    deaths = 0
    while child.poll() is None:
        ready, _, _ = select.select(watched, [], [], GRACE_S if deaths else 1.0)
        if wake_read in ready:
            os.read(wake_read, 512)
        if 0 in ready:
            watched = [wake_read]
            if not os.read(0, 512):
                stop_requested.append(True)
        if stop_requested:
            stop_requested.clear()
            child.terminate()
            deaths += 1
        elif deaths and not ready:
            child.kill()
    write(exit_file, {"returncode": child.returncode})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

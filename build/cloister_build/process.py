# SPDX-License-Identifier: BSD-2-Clause
"""Child processes: output to a log, killed with all their children when the build is interrupted."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cloister_build.errors import BuildError, failed_command

RETRY = "look at the log; run the same command again to resume from this step"


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """Make a child's environment: what steers make and compilers from outside is taken away."""
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "CFLAGS", "LDFLAGS", "O", "ARCH")}
    env["LC_ALL"] = "C.UTF-8"
    env.update(extra or {})
    return env


class _Interruption:
    """Ctrl-C and its like: held back while a child starts or ends, so that none is left behind unseen."""

    held = False
    pending = False

    @classmethod
    def arrive(cls, *_: object) -> None:
        """Handle the signal."""
        if cls.held:
            cls.pending = True
        else:
            raise KeyboardInterrupt

    @classmethod
    def release(cls) -> None:
        """Stop holding back; raises KeyboardInterrupt when a signal came meanwhile."""
        cls.held = False
        if cls.pending:
            cls.pending = False
            raise KeyboardInterrupt


def handle_interruption() -> None:
    """Have Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt where it is safe."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _Interruption.arrive)


def _end(child: subprocess.Popen[bytes]) -> None:
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, ending)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
            return


@contextlib.contextmanager
def _group(command: Sequence[str], **kwargs: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child in a process group of its own, and leave none of the group behind."""
    _Interruption.held = True
    try:
        child: subprocess.Popen[bytes] = subprocess.Popen(command, start_new_session=True, **kwargs)  # type: ignore[call-overload]
    except BaseException:
        _Interruption.release()
        raise
    try:
        _Interruption.release()
        yield child
    except BaseException:
        _Interruption.held = True
        _end(child)
        _Interruption.held = _Interruption.pending = False
        raise


def run(
    step: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    remedy: str = RETRY,
) -> None:
    """Run a command to its end, its output appended to the log.

    Raises BuildError when it cannot start or fails; the message holds the end of the log.
    """
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        out.write(f"$ {shlex.join(words)}\n".encode())
        out.flush()
        try:
            with _group(
                words, cwd=cwd, env=_environment(env), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            ) as child:
                status = child.wait()
        except FileNotFoundError as err:
            raise BuildError(f"step '{step}' needs the program {words[0]!r}", "run build/setup") from err
    if status:
        if b"No space left on device" in log.read_bytes()[-20000:]:
            raise disk_full(step, log)
        raise failed_command(step, f"{Path(words[0]).name} ended with status {status}", log, remedy)


def output(step: str, command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None) -> str:
    """Run a command and return what it printed; its errors go to the log."""
    words = [str(word) for word in command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as err:
        err.write(f"$ {shlex.join(words)}\n".encode())
        err.flush()
        try:
            with _group(
                words, env=_environment(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err
            ) as child:
                text = child.communicate()[0].decode(errors="replace")
        except FileNotFoundError as missing:
            raise BuildError(f"step '{step}' needs the program {words[0]!r}", "run build/setup") from missing
    if child.returncode:
        raise failed_command(step, f"{Path(words[0]).name} ended with status {child.returncode}", log, RETRY)
    return text


def disk_full(step: str, place: Path) -> BuildError:
    """Make the error of a full disk."""
    return BuildError(
        f"step '{step}' failed: no space left on the disk that holds {place}",
        "free some space (a build needs about 2 GB; `python -m cloister_build clean` removes all that is cached), "
        "or set CLOISTER_CACHE to a folder on another disk",
    )


def is_disk_full(err: OSError) -> bool:
    """Tell whether an error says that the disk or the quota is used up."""
    return err.errno in (errno.ENOSPC, errno.EDQUOT)

# SPDX-License-Identifier: BSD-2-Clause
"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from cloister.errors import CloisterError, PassingError


def write_aside(path: Path, data: bytes, mode: int = 0o644, *, replace: bool = True) -> None:
    """Write ``data`` to a temporary file beside ``path``, flush it to the disk, then rename it into place.

    Without ``replace`` a file that is there stays, even if another process makes it at the same moment.

    Raises:
        PassingError: the directory cannot be written or the disk is full; an older file at ``path`` is untouched.
        FileExistsError: there is a file at ``path``, and ``replace`` is false.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise PassingError(f"cannot write {path}: {error.strerror}", "choose a directory that you may write") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        if replace:
            Path(name).replace(path)
        else:
            os.link(name, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise PassingError(f"cannot write {path}: {error.strerror}", "free some space and try again") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def read_file(path: Path, what: str, limit: int = 1 << 32) -> bytes:
    """The bytes of ``path``.

    Raises:
        CloisterError: the file is missing, unreadable or longer than ``limit`` bytes; ``what`` names its kind.
    """
    try:
        if path.stat().st_size > limit:
            raise CloisterError(f"{path} is larger than any {what} ({limit} bytes)", f"give a {what}")
        return path.read_bytes()
    except OSError as error:
        raise CloisterError(f"cannot read {what} {path}: {error.strerror}", "check the path") from error

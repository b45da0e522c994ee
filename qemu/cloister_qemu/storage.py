# SPDX-License-Identifier: BSD-2-Clause
"""The disk image that holds an instance's secure storage, as OP-TEE's supplicant keeps it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

from cloister.device.errors import DeviceError, DiskFull, EmulatorMissing

LABEL = "teestate"
SIZE = 32 << 20


def ensure_storage(image: Path) -> bool:
    """Make the image if there is none; True when it was made.

    Raises DiskFull without leaving half an image, EmulatorMissing without mke2fs.
    """
    if image.exists():
        return False
    # e2fsprogs lies in /sbin, which is not on every user's PATH.
    mke2fs = shutil.which("mke2fs", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if mke2fs is None:
        raise EmulatorMissing("mke2fs was not found", "install the package e2fsprogs")
    aside = image.with_name(f".{image.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            # Allocated now, so that a full disk shows here and not as an I/O error in the guest.
            os.posix_fallocate(file.fileno(), 0, SIZE)
        run = subprocess.run(
            [mke2fs, "-q", "-F", "-t", "ext4", "-L", LABEL, "-m", "0", str(aside)], capture_output=True, text=True
        )
        if run.returncode != 0:
            raise DeviceError(f"mke2fs failed on {aside}: {run.stderr.strip()}")
        aside.rename(image)
    except OSError as error:
        raise disk_error(error, image) from error
    finally:
        aside.unlink(missing_ok=True)
    return True


def disk_error(error: OSError, path: Path) -> DeviceError:
    """The error to show for a failed write: DiskFull, or one that names file and cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space left for {path}", "free some space, or set CLOISTER_STATE to a directory on another disk"
        )
    return DeviceError(f"cannot write {error.filename or path}: {error.strerror}")

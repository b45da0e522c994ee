# SPDX-License-Identifier: BSD-2-Clause
"""U-Boot's environment in the second flash, so that it boots at once.

Without one U-Boot waits two seconds for a key, looks for USB and tries EFI first. Where the size is not
what U-Boot was built with, the checksum fails and it falls back to all of that.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from cloister_qemu.storage import disk_error

#: Size of each of the virt machine's two flashes (QEMU hw/arm/virt.c: 2 x 64 MiB); QEMU takes no other.
FLASH_SIZE = 64 << 20


def environment(variables: Mapping[str, str], size: int) -> bytes:
    """An environment of `size` bytes: CRC-32 of the rest, `name=value` strings, zeros (U-Boot env/common.c)."""
    text = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items()) + b"\0"
    if len(text) > size - 4:
        raise ValueError(f"an environment of {len(text)} bytes does not fit into {size}")
    data = text.ljust(size - 4, b"\0")
    return struct.pack("<I", zlib.crc32(data)) + data


def write_environment(path: Path, variables: Mapping[str, str], size: int) -> None:
    """Write the second flash's image: sparse, the environment at its beginning. Raises DeviceError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(environment(variables, size))
            file.truncate(FLASH_SIZE)
        aside.rename(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        aside.unlink(missing_ok=True)

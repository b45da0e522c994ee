# SPDX-License-Identifier: BSD-2-Clause
"""The firmware index: which built files make up the emulated device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.device.errors import FirmwareMissing
from cloister_qemu.paths import firmware_file

REMEDY = "run build/demo, or python -m cloister_build firmware"


@dataclass(frozen=True)
class Firmware:
    """The contents of `out/firmware/qemu.json`.

    Attributes:
        flash, kernel, initrd, rootfs: files that QEMU boots.
        append: base of the kernel's command line.
        ta: trusted applications to install, by UUID.
        engine: the engine as an aarch64 Linux library, None when it is not built.
        teec: directory with the cross-built `_teec` extension, None when it is not built.
        extra_ta_dir: directory with OP-TEE's and xtest's trusted applications, None when there is none.
        versions: name to version of what the firmware is made of.
    """

    index: Path
    flash: Path
    kernel: Path
    initrd: Path
    rootfs: Path
    append: str
    ta: Mapping[str, Path]
    engine: Path | None
    teec: Path | None
    extra_ta_dir: Path | None
    versions: Mapping[str, str]

    def digest(self) -> str:
        """Identity of what is booted: changes when the index names other files or one was rewritten."""
        state = hashlib.sha256()
        for path in (self.flash, self.kernel, self.initrd, self.rootfs):
            status = path.stat()
            state.update(f"{path}:{status.st_size}:{status.st_mtime_ns}\n".encode())
        state.update(self.append.encode())
        return state.hexdigest()[:16]


def load_firmware(index: Path | None = None) -> Firmware:
    """Read the firmware index and check that every file it names is there.

    Raises FirmwareMissing, which says what is missing and how to build it.
    """
    path = index if index is not None else firmware_file()
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FirmwareMissing(f"the device's firmware is not built: {path} does not exist", REMEDY) from None
    except (OSError, ValueError) as error:
        raise FirmwareMissing(f"the firmware index {path} cannot be read: {error}", REMEDY) from error
    if not isinstance(data, dict):
        raise FirmwareMissing(f"the firmware index {path} is not a JSON object", REMEDY)
    missing: list[str] = []

    def need(name: str) -> Path:
        value = data.get(name)
        if not isinstance(value, str) or not Path(value).is_file():
            missing.append(f"{name} ({value or 'not in the index'})")
            return Path()
        return Path(value)

    def optional(name: str) -> Path | None:
        value = data.get(name)
        if not value:
            return None
        if not Path(str(value)).exists():
            missing.append(f"{name} ({value})")
            return None
        return Path(str(value))

    applications: dict[str, Path] = {}
    for uuid, value in _table(data, "ta").items():
        if not Path(str(value)).is_file():
            missing.append(f"ta {uuid} ({value})")
        applications[uuid] = Path(str(value))
    firmware = Firmware(
        index=path,
        flash=need("flash"),
        kernel=need("kernel"),
        initrd=need("initrd"),
        rootfs=need("rootfs"),
        append=str(data.get("append", "")),
        ta=applications,
        engine=optional("engine"),
        teec=optional("teec"),
        extra_ta_dir=optional("extra_ta_dir"),
        versions={key: str(value) for key, value in _table(data, "versions").items()},
    )
    if missing:
        raise FirmwareMissing(f"the firmware index {path} names files that are not there: {'; '.join(missing)}", REMEDY)
    return firmware


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}

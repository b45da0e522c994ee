# SPDX-License-Identifier: BSD-2-Clause
"""Places of the launcher: machine definitions, firmware index, the directories of the instances."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cloister.device.errors import DeviceError

REPOSITORY = Path(__file__).resolve().parents[2]


def machine_file(name: str = "virt") -> Path:
    """Path of the definition of a machine, `qemu/NAME.toml`."""
    return REPOSITORY / "qemu" / f"{name}.toml"


def firmware_file() -> Path:
    """Path of the firmware index: `CLOISTER_FIRMWARE`, else `out/firmware/qemu.json`."""
    override = os.environ.get("CLOISTER_FIRMWARE")
    return Path(override) if override else REPOSITORY / "out" / "firmware" / "qemu.json"


def state_root() -> Path:
    """Directory that holds all instances: `CLOISTER_STATE`, else below `XDG_STATE_HOME`."""
    override = os.environ.get("CLOISTER_STATE")
    if override:
        return Path(override).absolute()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base).absolute() if base else Path.home() / ".local" / "state") / "cloister"


def instance_directory(name: str) -> Path:
    """Directory of one instance. Raises DeviceError when the name cannot be one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise DeviceError(
            f"{name!r} cannot name a device: use up to 64 letters, digits, '.', '_' and '-', "
            "the first a letter or a digit"
        )
    return state_root() / "devices" / name

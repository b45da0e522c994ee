# SPDX-License-Identifier: BSD-2-Clause
"""Devices: the emulator and boards over SSH, and the session that a user holds.

>>> from cloister.device import connect                                   # doctest: +SKIP
>>> with connect("qemu") as device:                                       # doctest: +SKIP
...     with device.load("model.clb", "model.lic") as session:
...         labels = session.run(x)

A part of this package runs on the device itself, where neither paramiko nor the launcher is installed: names are
imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister.device.base import Device
    from cloister.device.session import Answers, Session
    from cloister.device.ta import RemoteTa
    from cloister.device.targets import connect

_HOMES = {
    "Device": "cloister.device.base",
    "connect": "cloister.device.targets",
    "Session": "cloister.device.session",
    "Answers": "cloister.device.session",
    "RemoteTa": "cloister.device.ta",
}

__all__ = ["Answers", "Device", "RemoteTa", "Session", "connect"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

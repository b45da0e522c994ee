# SPDX-License-Identifier: BSD-2-Clause
"""Cloister protects trained neural networks on Arm TrustZone devices.

``cloister.compile``, ``cloister.licence`` and ``cloister.connect`` are the whole of daily use; see
:mod:`cloister.api`. Names are imported when they are first used, so that the part which runs on a device needs no
more than Python and cffi.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister.api import attack, compile, edgepro, licence, protect, prune, quantize  # noqa: A004
    from cloister.device import connect
    from cloister.errors import CloisterError
    from cloister.seal import Bundle, Licence, VendorKey

__version__ = "0.1.0"
__all__ = [
    "Bundle",
    "CloisterError",
    "Licence",
    "VendorKey",
    "attack",
    "compile",
    "connect",
    "edgepro",
    "licence",
    "protect",
    "prune",
    "quantize",
]

_HOMES = {
    "attack": "cloister.api",  # a package that can be called once it is imported, which needs torch
    "edgepro": "cloister.api",
    "licence": "cloister.api",
    "protect": "cloister.api",  # likewise
    "prune": "cloister.api",
    "quantize": "cloister.api",
    "connect": "cloister.device",
    "CloisterError": "cloister.errors",
    "Bundle": "cloister.seal",
    "Licence": "cloister.seal",
    "VendorKey": "cloister.seal",
}


def __getattr__(name: str) -> Any:
    if name == "compile":  # a package that can be called; see there
        return importlib.import_module("cloister.compile")
    if name not in _HOMES:
        raise AttributeError(f"module 'cloister' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

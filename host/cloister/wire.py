# SPDX-License-Identifier: BSD-2-Clause
"""The structures that cross a world or a file, read from the C headers themselves.

``ta/include/cloister_format.h`` and ``cloister_ta.h`` are the single source of truth; this module parses
the part between their ``cffi`` marks, so that no layout is written twice.

>>> from cloister.wire import C, ffi, new, pack
>>> header = new("struct cl_partition", magic=C.CL_MAGIC_PARTITION)
>>> len(pack(header))
40
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

HEADERS = ("cloister_format.h", "cloister_ta.h")


def header_dir() -> Path:
    """The directory of the wire format's headers: beside this package on a device, in ``ta/include`` in a checkout."""
    override = os.environ.get("CLOISTER_INCLUDE")
    here = Path(__file__).resolve().parent
    candidates = [Path(override)] if override else [here / "include", here.parents[1] / "ta" / "include"]
    for candidate in candidates:
        if (candidate / HEADERS[0]).is_file():
            return candidate
    raise FileNotFoundError(f"{HEADERS[0]} not found in {', '.join(map(str, candidates))}; set CLOISTER_INCLUDE")


def engine_header() -> Path:
    """The header of the engine, whose functions a device's shared library has."""
    beside = header_dir() / "engine.h"
    return beside if beside.is_file() else header_dir().parent / "engine" / "engine.h"


def cffi_part(text: str) -> str:
    """The declarations between ``/* cffi: begin */`` and ``/* cffi: end */``."""
    return text.split("/* cffi: begin */", 1)[1].split("/* cffi: end */", 1)[0]


def _parsed() -> Any:
    import cffi

    made = cffi.FFI()
    for path in (*(header_dir() / name for name in HEADERS), engine_header()):
        made.cdef(cffi_part(path.read_text(encoding="utf-8")))
    return made


def python_module() -> str:
    """The declarations as the source of the module ``cloister._wire``, which needs cffi's back end alone.

    A device gets it beside this module: to parse the headers takes an emulated CPU seconds at every start.
    """
    made = _parsed()
    made.set_source("cloister._wire", None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "_wire.py"
        with contextlib.redirect_stdout(io.StringIO()):  # cffi announces what it writes
            made.emit_python_code(str(path))
        return path.read_text(encoding="utf-8")


def _load() -> Any:
    try:
        return importlib.import_module("cloister._wire").ffi
    except ModuleNotFoundError:
        return _parsed()


ffi: Any = _load()

#: The headers' constants, by name: ``C.CL_MAGIC_MANIFEST``.
C: Any = ffi.dlopen(None)


def new(struct: str, **fields: Any) -> Any:
    """A zeroed ``struct`` with some fields set (nested structures as dictionaries, arrays as lists or bytes)."""
    return ffi.new(f"{struct} *", fields)


def pack(cdata: Any) -> bytes:
    """The bytes of a structure that :func:`new` made."""
    return bytes(ffi.buffer(cdata))


def unpack(struct: str, data: bytes | bytearray | memoryview, offset: int = 0) -> Any:
    """A copy of the ``struct`` at ``offset`` of ``data``.

    Raises:
        ValueError: ``data`` ends before the structure does.
    """
    size = ffi.sizeof(struct)
    part = bytes(data[offset : offset + size])
    if len(part) != size:
        raise ValueError(f"{struct} needs {size} bytes at offset {offset}, {len(part)} are there")
    cdata = ffi.new(f"{struct} *")
    ffi.buffer(cdata)[:] = part
    return cdata

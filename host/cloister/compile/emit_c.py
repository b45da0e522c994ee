# SPDX-License-Identifier: BSD-2-Clause
"""A sealed bundle as C source, to be linked into the TA (ta/embed.h)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cloister.errors import CloisterError

LINE = 16
#: Sources beside ours in the directory would be compiled into the TA as well.
FILES = ("embedded_manifest.c", "embedded_payload.c")


class EmbedError(CloisterError):
    """The directory for C arrays cannot be used."""


def c_array(name: str, data: bytes) -> str:
    """Definition of ``const uint8_t name[]`` on a CL_ALIGN boundary; an empty one gets a zero byte, as C needs one."""
    text = (data or b"\0").hex(" ").upper()
    # Three characters for each byte: "0A " becomes "0x0A,".
    width = 3 * LINE
    lines = (text[start : start + width].rstrip() for start in range(0, len(text), width))
    body = "\n".join("\t0x" + line.replace(" ", ", 0x") + "," for line in lines)
    return f"const uint8_t {name}[] __attribute__((aligned(CL_ALIGN))) = {{\n{body}\n}};\n"


def c_sources(manifest: bytes, payload: bytes) -> dict[str, str]:
    """C sources by file name that define the four symbols of ta/embed.h; the same bytes give the same text."""
    head = (
        "/* SPDX-License-Identifier: BSD-2-Clause */\n"
        "/* Made by `cloister compile --embed`: a sealed bundle. Do not edit. */\n"
        '#include "embed.h"\n\n'
    )
    return {
        "embedded_manifest.c": f"{head}{c_array('cl_embedded_manifest', manifest)}\n"
        f"const uint32_t cl_embedded_manifest_size = {len(manifest)};\n",
        "embedded_payload.c": f"{head}{c_array('cl_embedded_payload', payload)}\n"
        f"const uint64_t cl_embedded_payload_size = {len(payload)};\n",
    }


def write_embedded(directory: Path, manifest: bytes, payload: bytes) -> Path:
    """Writes the C sources into ``directory`` (made where missing); returns it.

    Raises:
        EmbedError: other C sources lie there, or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        foreign = sorted(path.name for path in directory.glob("*.c") if path.name not in FILES)
        if foreign:
            raise EmbedError(
                f"{directory} holds other C sources ({', '.join(foreign)}), which would be linked into the TA",
                "give an empty directory",
            )
        for name, text in c_sources(manifest, payload).items():
            aside = directory / f".{name}.{os.getpid()}"
            try:
                aside.write_text(text, encoding="ascii")
                aside.replace(directory / name)
            finally:
                aside.unlink(missing_ok=True)
    except OSError as error:
        raise EmbedError(f"cannot write {directory}: {error.strerror}", "check the path and free space") from error
    return directory


def parse_c_array(text: str) -> bytes:
    """The bytes of the one array in a C source that :func:`c_array` wrote (for tests and tools)."""
    body = text.split("{", 1)[1].split("}", 1)[0]
    return bytes(int(value, 16) for value in re.findall(r"0x([0-9A-F]{2})", body))

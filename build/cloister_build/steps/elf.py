# SPDX-License-Identifier: BSD-2-Clause
"""Checks of ELF files in a root file system."""

from __future__ import annotations

import os
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile


def needed_libraries(path: Path) -> list[str]:
    """Return the names of the shared libraries that a file wants; none for what is no ELF file."""
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return []
        file.seek(0)
        try:
            for section in ELFFile(file).iter_sections():
                if isinstance(section, DynamicSection):
                    return [str(vars(tag)["needed"]) for tag in section.iter_tags("DT_NEEDED")]
        except ELFError:
            return []
    return []


def unresolved_libraries(root: Path) -> list[str]:
    """Return each library that a program or library of a root file system wants and that is nowhere in it.

    The names come with the first file that wants them.
    """
    files = [path for path in root.rglob("*") if path.is_file()]
    present = {name for _, _, names in os.walk(root) for name in names}
    missing: dict[str, str] = {}
    for path in files:
        if path.is_symlink():
            continue
        for name in needed_libraries(path):
            if name not in present:
                missing.setdefault(name, str(path.relative_to(root)))
    return [f"{name} (for {user})" for name, user in sorted(missing.items())]

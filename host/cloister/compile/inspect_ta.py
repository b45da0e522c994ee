# SPDX-License-Identifier: BSD-2-Clause
"""Looks into a built trusted application: what it will take of secure memory, and whether it is safe to load.

Source of the layouts: ELF (System V gABI), ``ta_head`` in OP-TEE's ``user_ta_header.h``, ``shdr`` in its
``signed_hdr.h``.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from elftools.common.exceptions import ELFError
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from cloister.errors import CloisterError

PAGE = 4096
_SIGNED_MAGIC = 0x4F545348  # "HSTO"
_SIGNED_HEADER = struct.Struct("<IIIIHH")  # magic, type, image size, algorithm, hash size, signature size
_TYPE_BOOTSTRAP = 1  # adds UUID and version
_TYPE_ENCRYPTED = 2
_BOOTSTRAP_SIZE = 20
_TA_HEAD = struct.Struct("<IHH8sIIQ")  # UUID, stack size, flags, unused entry point


class TaError(CloisterError):
    """The file is no trusted application, or one that must not be shipped."""


@dataclass(frozen=True)
class TaReport:
    """What was found in a trusted application; sizes in bytes.

    Attributes:
        uuid: the application's name.
        sections: name and size of each section that is loaded, in the order of the file.
        code_size: loaded read-only, executable or not.
        data_size: loaded writable, the zeroed part (heap and all) included.
        stack_size: as the header asks for.
        writable_executable: virtual addresses of segments that are both, which must not be.
        undefined: symbols that nothing defines, which must not be.
    """

    uuid: UUID
    sections: tuple[tuple[str, int], ...]
    code_size: int
    data_size: int
    stack_size: int
    writable_executable: tuple[int, ...]
    undefined: tuple[str, ...]

    @property
    def memory_size(self) -> int:
        """Secure memory that a session takes before any model is loaded, in whole pages."""
        return sum(-(-size // PAGE) * PAGE for size in (self.code_size, self.data_size, self.stack_size))

    def check(self, budget: int) -> None:
        """Refuse what must not be shipped.

        Args:
            budget: most bytes of secure memory that a session may take before a model is loaded.

        Raises:
            TaError: names every fault at once.
        """
        faults = [f"the segment at {address:#x} is writable and executable" for address in self.writable_executable]
        if self.undefined:
            faults.append(f"undefined symbols: {', '.join(self.undefined)}")
        if self.memory_size > budget:
            largest = ", ".join(f"{name} {size}" for name, size in sorted(self.sections, key=lambda s: -s[1])[:3])
            faults.append(f"a session takes {self.memory_size} bytes, the budget is {budget} (largest: {largest})")
        if faults:
            raise TaError(
                f"trusted application {self.uuid}: {'; '.join(faults)}",
                "link all sources with the dev kit's linker script; lower TA_DATA_SIZE, or embed a smaller model",
            )


def _image(data: bytes, source: str) -> bytes:
    """The ELF file inside a signed application, or the data itself."""
    if len(data) < _SIGNED_HEADER.size or int.from_bytes(data[:4], "little") != _SIGNED_MAGIC:
        return data
    _, kind, size, _, hash_size, signature_size = _SIGNED_HEADER.unpack_from(data)
    if kind == _TYPE_ENCRYPTED:
        raise TaError(f"{source} is encrypted", "inspect the .elf or .stripped.elf file that lies beside it")
    start = _SIGNED_HEADER.size + hash_size + signature_size + (_BOOTSTRAP_SIZE if kind == _TYPE_BOOTSTRAP else 0)
    if len(data) != start + size:
        raise TaError(f"{source} has {len(data)} bytes, its header says {start + size}", "build it again")
    return data[start:]


def _head(elf: ELFFile, source: str) -> tuple[UUID, int]:
    """UUID and stack size from the section that OP-TEE reads them from."""
    section = elf.get_section_by_name(".ta_head")
    if section is None or section["sh_size"] < _TA_HEAD.size:
        raise TaError(f"{source} has no .ta_head section", "give the file that a TA dev kit linked")
    low, mid, high, node, stack, _flags, _entry = _TA_HEAD.unpack_from(section.data())
    return UUID(bytes=struct.pack(">IHH", low, mid, high) + node), stack


def inspect_ta(path: Path) -> TaReport:
    """Inspect a trusted application.

    Args:
        path: ``<uuid>.elf``, ``<uuid>.stripped.elf`` or a signed ``<uuid>.ta`` that is not encrypted.

    Raises:
        TaError: the file cannot be read, or is no trusted application.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaError(f"cannot read {path}: {error.strerror}", "build the TA first") from error
    try:
        elf = ELFFile(io.BytesIO(_image(data, str(path))))
        uuid, stack_size = _head(elf, str(path))
        loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        sections = [s for s in elf.iter_sections() if s["sh_flags"] & 2 and s["sh_size"]]  # SHF_ALLOC
        tables = [s for s in elf.iter_sections() if isinstance(s, SymbolTableSection)]
        undefined = {
            symbol.name
            for table in tables
            for symbol in table.iter_symbols()
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name
        }
    except (ELFError, struct.error, ValueError) as error:
        raise TaError(f"{path} is no ELF file of a trusted application: {error}", "build the TA again") from error

    writable = [s for s in loads if s["p_flags"] & P_FLAGS.PF_W]
    return TaReport(
        uuid=uuid,
        sections=tuple((s.name, int(s["sh_size"])) for s in sections),
        code_size=sum(int(s["p_memsz"]) for s in loads if s not in writable),
        data_size=sum(int(s["p_memsz"]) for s in writable),
        stack_size=stack_size,
        writable_executable=tuple(int(s["p_vaddr"]) for s in writable if s["p_flags"] & P_FLAGS.PF_X),
        undefined=tuple(sorted(undefined)),
    )

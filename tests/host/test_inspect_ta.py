# SPDX-License-Identifier: BSD-2-Clause
"""Inspection of trusted applications, on small ELF files that show one fault each."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from cloister.compile.inspect_ta import TaError, inspect_ta

NAME = UUID("12345678-9abc-def0-0102-030405060708")
SOURCE = """
#include <stdint.h>
__attribute__((section(".ta_head"), used)) const struct {{
    uint32_t low; uint16_t mid, high; uint8_t node[8]; uint32_t stack, flags; uint64_t entry;
}} head = {{0x12345678, 0x9abc, 0xdef0, {{1, 2, 3, 4, 5, 6, 7, 8}}, 6000, 0, UINT64_MAX}};
__attribute__((used)) static uint8_t heap[10000];
{more}
void start(void) {{ heap[1] = 2; {call} }}
"""


def link(tmp_path: Path, *flags: str, more: str = "", call: str = "") -> Path:
    (tmp_path / "ta.c").write_text(SOURCE.format(more=more, call=call))
    out = tmp_path / "ta.elf"
    command = ["aarch64-linux-gnu-gcc", "-O1", "-fPIC", "-nostdlib", "-shared", "-Wl,-z,max-page-size=4096"]
    subprocess.run([*command, *flags, "-o", str(out), str(tmp_path / "ta.c")], check=True, timeout=60)
    return out


def test_a_good_application(tmp_path: Path) -> None:
    report = inspect_ta(link(tmp_path))
    report.check(1 << 20)
    assert report.uuid == NAME
    assert report.stack_size == 6000
    assert report.data_size >= 10000
    assert report.memory_size % 4096 == 0 and report.memory_size >= 10000 + 6000
    assert dict(report.sections)[".bss"] >= 10000


def test_budget(tmp_path: Path) -> None:
    report = inspect_ta(link(tmp_path))
    report.check(report.memory_size)
    with pytest.raises(TaError, match=rf"takes {report.memory_size} bytes.*\.bss 10000"):
        report.check(report.memory_size - 1)


def test_writable_and_executable(tmp_path: Path) -> None:
    report = inspect_ta(link(tmp_path, "-Wl,-N"))
    assert report.writable_executable
    with pytest.raises(TaError, match="writable and executable"):
        report.check(1 << 20)


def test_undefined_symbol(tmp_path: Path) -> None:
    report = inspect_ta(link(tmp_path, more="void missing(void);", call="missing();"))
    assert report.undefined == ("missing",)
    with pytest.raises(TaError, match="undefined symbols: missing"):
        report.check(1 << 20)


def signed(elf: bytes, kind: int = 1, size: int | None = None) -> bytes:
    header = struct.pack("<IIIIHH", 0x4F545348, kind, len(elf) if size is None else size, 0, 32, 256)
    return header + bytes(32 + 256 + 20) + elf


def test_signed_application(tmp_path: Path) -> None:
    elf = link(tmp_path)
    path = tmp_path / "signed.ta"
    path.write_bytes(signed(elf.read_bytes()))
    assert inspect_ta(path) == inspect_ta(elf)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no ELF file"),
        (b"\x7fELF", "no ELF file"),
        (bytes(1000), "no ELF file"),
        (signed(b"x" * 10, size=11), "its header says"),
        (signed(b"x" * 10, kind=2), "is encrypted"),
    ],
)
def test_foreign_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TaError, match=message):
        inspect_ta(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TaError, match="cannot read"):
        inspect_ta(tmp_path / "none")


def test_elf_that_is_no_ta(tmp_path: Path) -> None:
    source = tmp_path / "a.c"
    source.write_text("int x;")
    out = tmp_path / "a.so"
    subprocess.run(
        ["aarch64-linux-gnu-gcc", "-shared", "-nostdlib", "-o", str(out), str(source)], check=True, timeout=60
    )
    with pytest.raises(TaError, match=r"no \.ta_head"):
        inspect_ta(out)

# SPDX-License-Identifier: BSD-2-Clause
"""C arrays of a bundle: the C compiler reads the same bytes back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cloister.compile.emit_c import EmbedError, c_sources, parse_c_array, write_embedded
from cloister.wire import header_dir

MAIN = """
#include <stdio.h>
#include "embed.h"

int main(void)
{
	if ((uintptr_t)cl_embedded_manifest % CL_ALIGN || (uintptr_t)cl_embedded_payload % CL_ALIGN)
		return 2;
	fwrite(cl_embedded_manifest, 1, cl_embedded_manifest_size, stdout);
	fwrite(cl_embedded_payload, 1, cl_embedded_payload_size, stdout);
	return 0;
}
"""


@pytest.mark.parametrize("sizes", [(1, 15), (16, 17), (300, 70001), (0, 0)])
def test_the_c_compiler_reads_the_same_bytes_back(tmp_path: Path, sizes: tuple[int, int]) -> None:
    manifest, payload = (os.urandom(size) for size in sizes)
    assert write_embedded(tmp_path / "embed", manifest, payload) == tmp_path / "embed"
    (tmp_path / "main.c").write_text(MAIN)
    sources = sorted(map(str, (tmp_path / "embed").glob("*.c")))
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{header_dir()}", f"-I{header_dir().parent}"]
    program = str(tmp_path / "program")
    subprocess.run(["gcc", *flags, "-o", program, str(tmp_path / "main.c"), *sources], check=True)
    assert subprocess.run([program], capture_output=True, check=True).stdout == manifest + payload


def test_the_same_bytes_give_the_same_text_and_are_read_back() -> None:
    payload = bytes(range(256)) * 5 + b"\1"
    sources = c_sources(b"m", payload)
    assert sources == c_sources(b"m", payload)
    assert parse_c_array(sources["embedded_payload.c"]) == payload
    assert max(map(len, sources["embedded_payload.c"].splitlines())) < 110


def test_a_second_bundle_replaces_the_first_and_foreign_sources_are_refused(tmp_path: Path) -> None:
    write_embedded(tmp_path, b"one", b"two")
    write_embedded(tmp_path, b"three", b"four")
    assert parse_c_array((tmp_path / "embedded_manifest.c").read_text()) == b"three"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embedded_manifest.c", "embedded_payload.c"]
    (tmp_path / "other.c").write_text("int x;\n")
    with pytest.raises(EmbedError, match=r"other\.c"):
        write_embedded(tmp_path, b"one", b"two")


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbedError, match="file"):
        write_embedded(tmp_path / "file", b"m", b"p")

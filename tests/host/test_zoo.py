# SPDX-License-Identifier: BSD-2-Clause
"""The long suite of networks, with the smallest of them natively; and its table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloister.errors import CloisterError
from cloister.zoo.__main__ import main
from cloister.zoo.table import BEGIN, END, Result, write

RESULT = Result("alexnet", 1 << 20, 2 << 20, 3, 1 << 20, 110, 100, 5 << 20, 2e-6, True, (1.0, 2.0))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(f"above\n{BEGIN}\n{END}\nbelow\n")
    return path


def test_a_network_agrees_with_onnxruntime_and_is_written_down(page: Path) -> None:
    found = CliRunner().invoke(main, ["squeezenet", "--secure-memory", "2MiB", "--write", str(page)])
    assert found.exit_code == 0, found.output
    assert "squeezenet: error" in found.output and "top-5 same" in found.output
    assert "| squeezenet | 4.7 MiB |" in page.read_text()


def test_rows_are_replaced_and_kept(page: Path) -> None:
    write(page, [RESULT, replace(RESULT, name="vgg19")])
    write(page, [replace(RESULT, same_top5=False)])
    rows = [row for row in page.read_text().splitlines() if row.startswith("|")]
    assert len(rows) == 4
    assert rows[2].startswith("| alexnet | 1.0 MiB | 3 | 2.0 MiB |") and "1.100" in rows[2] and "DIFFERENT" in rows[2]
    assert rows[3].startswith("| vgg19 |") and rows[3].endswith("| same |")
    assert page.read_text().startswith("above\n") and page.read_text().endswith("\nbelow\n")


def test_only_agreement_is_good() -> None:
    assert RESULT.good
    assert not replace(RESULT, error=1.1e-4).good
    assert not replace(RESULT, same_top5=False).good
    assert not replace(RESULT, error=float("nan")).good


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("nothing")
    with pytest.raises(CloisterError, match="has no place for the table"):
        write(path, [RESULT])

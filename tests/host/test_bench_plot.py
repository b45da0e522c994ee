# SPDX-License-Identifier: BSD-2-Clause
"""Plots and tables of the documentation, drawn from the benchmark's records."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cloister_bench.document import write_tables
from cloister_bench.errors import BenchError
from cloister_bench.plot import Line, decades, draw, write_plots
from cloister_bench.records import Record, append_history, read_history

SVG = "{http://www.w3.org/2000/svg}"


def _records() -> list[Record]:
    found = []
    for width, macs in ((4, 1e6), (8, 1e7)):
        name = f"resnet20, width {width}"
        found.append(Record("sizes", name, "", "fp32", "macs", macs, "multiply-accumulates"))
        for where, each in (("ta", 0.2), ("normal", 0.19), ("onnxruntime", 0.5)):
            found.append(Record("sizes", name, where, "fp32", "instructions", each * macs, "instructions"))
        found.append(Record("sizes", name, "ta", "fp32", "estimate", 0.21 * macs, "instructions"))
    for share, ratio in ((1.0, 1.0), (0.75, 1.1), (0.5, 1.2), (0.31, 1.3)):
        name = f"vgg7 at {share:.2f}"
        found.append(Record("stream", name, "ta", "fp32", "ratio", ratio, "of resident"))
        found.append(Record("stream", name, "ta", "fp32", "peak", 1024 * 500 * share, "bytes"))
    return found


def test_all_plots_are_drawn(tmp_path: Path) -> None:
    written = write_plots(_records(), tmp_path)
    assert [path.name for path in written] == ["cost-by-size.svg", "cost-by-memory.svg", "estimate.svg"]
    for path, points in zip(written, (6, 4, 2), strict=True):
        root = ElementTree.parse(path).getroot()
        assert len(root.findall(f"{SVG}circle")) == points


def test_points_lie_inside_and_in_order() -> None:
    x = y = decades("size", [3, 4000])
    assert (x.low, x.high) == (1, 10000)
    root = ElementTree.fromstring(draw("a & b", x, y, [Line("one <line>", [(1000, 10), (10, 1000)])]))
    left, right = root.findall(f"{SVG}circle")
    assert float(left.attrib["cx"]) < float(right.attrib["cx"])
    assert float(left.attrib["cy"]) < float(right.attrib["cy"]), "larger values lie higher"
    assert all(0 < float(point.attrib[axis]) < 760 for point in (left, right) for axis in ("cx", "cy"))


def test_nothing_to_plot_is_said(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nothing to plot"):
        write_plots([], tmp_path)


def test_the_history_gives_the_latest_of_each_figure(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    old, new, quick = (Record("tee", "call", "ta", "", "instructions", value, "instructions") for value in (1, 2, 3))
    other = Record("tee", "other", "ta", "", "instructions", 5, "instructions")
    append_history(path, {"quick": False}, [old, other])
    append_history(path, {"quick": False}, [new])
    append_history(path, {"quick": True}, [quick])
    assert {record.name: record.value for record in read_history(path)} == {"call": 2, "other": 5}
    assert len(path.read_text().splitlines()) == 3 and json.loads(path.read_text().splitlines()[0])["records"]


def test_tables_are_put_between_their_markers(tmp_path: Path) -> None:
    text = "# P\n<!-- sizes: begin -->\nold\n<!-- sizes: end -->\n<!-- stream: begin -->\n<!-- stream: end -->\nlast\n"
    (tmp_path / "performance.md").write_text(text)
    (tmp_path / "estimate.md").write_text("<!-- estimates: begin --><!-- estimates: end -->")
    write_tables(_records(), tmp_path)
    made = (tmp_path / "performance.md").read_text()
    assert "old" not in made and made.startswith("# P\n") and made.endswith("last\n")
    assert "| resnet20, width 4 | 1 M | 200 k | 190 k | 500 k | 1.053 | 0.400 | 0.200 |" in made
    assert "| vgg7 | fp32 | 1.000 (500 KiB) | 1.100 (375 KiB) | 1.200 (250 KiB) | 0.31: 1.300 (155 KiB) |" in made
    assert "| sizes | resnet20, width 8 | fp32 | 2 M | 2.1 M | 1.050 |  |" in (tmp_path / "estimate.md").read_text()
    (tmp_path / "estimate.md").write_text("no markers")
    with pytest.raises(BenchError, match="no place for the table estimates"):
        write_tables(_records(), tmp_path)

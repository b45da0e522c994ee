# SPDX-License-Identifier: BSD-2-Clause
"""The benchmark's records: their file, the history, the comparison, and the tables made of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cloister.errors import CloisterError, FormatError
from cloister_bench.records import Record, Samples, append_history, compare, from_json, read_records, to_json
from cloister_bench.tables import TABLES, compare_table, number

TA = Record("models", "lenet", "ta", "fp32", "instructions", 400_000.0, "instructions", 0.001)
NORMAL = replace(TA, where="normal", value=380_000.0)
ORT = replace(TA, where="onnxruntime", value=800_000.0)
MACS = Record("models", "lenet", "", "fp32", "macs", 575_400, "multiply-accumulates")
KERNEL = Record("kernels", "conv 3x3 s1 64->64 16x16", "ta", "fp32", "per_mac", 0.3125, "instructions/MAC", 0.002)


def shown(table: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_json_holds_the_keys_that_others_read_and_comes_back() -> None:
    rows = json.loads(to_json([TA, MACS]))
    assert rows[0] == {
        "suite": "models",
        "name": "lenet",
        "where": "ta",
        "precision": "fp32",
        "metric": "instructions",
        "value": 400_000.0,
        "unit": "instructions",
        "spread": 0.001,
    }
    assert "spread" not in rows[1]
    assert from_json(rows, "here") == [TA, MACS]


@pytest.mark.parametrize(
    "text",
    ["{}", "[1]", '[{"suite": "tee"}]', *(to_json([TA]).replace("400000.0", word) for word in ('"many"', "true"))],
)
def test_a_file_that_holds_no_records_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"other\.json"):
        read_records(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CloisterError, match=r"none\.json"):
        read_records(tmp_path / "none.json")


def test_the_history_keeps_all_runs_and_is_read_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "out" / "history.jsonl"
    append_history(path, {"commit": "a"}, [TA])
    append_history(path, {"commit": "b"}, [NORMAL, MACS])
    assert [json.loads(line)["commit"] for line in path.read_text().splitlines()] == ["a", "b"]
    assert read_records(path) == [NORMAL, MACS]


def test_compare_tells_what_changed_what_is_new_and_what_is_gone() -> None:
    before = [TA, MACS, NORMAL, KERNEL]
    after = [replace(TA, value=440_000.0), MACS, ORT]
    found = {difference.key[2]: difference for difference in compare(before, after, 0.01)}
    assert set(found) == {"ta", "onnxruntime", "normal"}
    assert found["ta"].change == pytest.approx(0.1)
    assert (found["onnxruntime"].before, found["normal"].after) == (None, None)
    assert math.isnan(found["normal"].change)
    assert "+10.00 %" in shown(compare_table(list(found.values()), "before.json"))


def test_compare_keeps_quiet_below_its_threshold() -> None:
    assert compare([TA], [replace(TA, value=401_000.0)], 0.01) == []
    assert len(compare([TA], [replace(TA, value=401_000.0)])) == 1


def test_samples_give_the_median_and_how_far_the_repeats_are_apart() -> None:
    samples = Samples([100.0, 103.0, 99.0])
    assert (samples.median, samples.spread) == (100.0, pytest.approx(0.04))
    assert Samples([0.0, 0.0]).spread == 0.0


def test_model_table_shows_the_ratios() -> None:
    text = shown(TABLES["models"]([TA, NORMAL, ORT, MACS]))
    for cell in ("lenet", "400 k", "380 k", "800 k", "1.053", "0.500", "0.695"):
        assert cell in text, text


def test_kernel_table_shows_what_is_missing_as_a_dash() -> None:
    row = next(line for line in shown(TABLES["kernels"]([KERNEL])).splitlines() if "64->64" in line)
    assert "0.3125" in row
    assert row.count(" - ") >= 2


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.31254, "0.3125"), (16981.0, "16,981"), (209953.0, "210 k"), (2e9, "2 G")]
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text

# SPDX-License-Identifier: BSD-2-Clause
"""Errors of predictions: how they are added up, kept with the constants, and put into the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.estimate.fit import Sample
from cloister.estimate.instructions import constants, fed_terms
from cloister_bench.calibrate import make_table, table_text
from cloister_bench.document import write_tables
from cloister_bench.evaluation import keep_evaluation, rows_of, summary
from cloister_bench.handed import handed_pairs
from cloister_bench.pairs import prepare_pair
from cloister_bench.plot import write_plots
from cloister_bench.records import Record, append_history, read_history


def strategy(name: str, drawn: bool = False, **both: tuple[float, float]) -> list[Record]:
    """Measured and predicted figures by metric."""
    found = [Record("strategies", name, "", "fp32", "drawn", float(drawn), "from the space")]
    for metric, (measured, predicted) in both.items():
        found.append(Record("strategies", name, "", "fp32", metric, measured, "instructions"))
        found.append(Record("strategies", name, "", "fp32", f"{metric}, predicted", predicted, "instructions"))
    return found


RECORDS = [
    *strategy("one", total=(100_000, 101_000), secure=(10_000, 9_000), boundary=(30_000, 32_000), peak=(8192, 8192)),
    *strategy("two", total=(200_000, 196_000), secure=(20_000, 21_000), boundary=(30_000, 30_000), peak=(4096, 8192)),
    *strategy("three", True, total=(300_000, 303_000), secure=(0, 0), boundary=(30_000, 30_300), peak=(4096, 4096)),
]


def test_errors_are_relative_and_kept_by_what_is_predicted() -> None:
    found = summary(rows_of(RECORDS))
    assert found["total"] == {"strategies": 3, "median": 0.01, "worst": 0.02, "mean": 0.0}
    assert found["secure world"]["strategies"] == 2, "where nothing runs in it there is no error"
    assert found["secure world"]["worst"] == pytest.approx(0.1)
    assert found["secure world and boundary"]["worst"] == pytest.approx(0.025), "errors of both cancel in part"
    assert found["peak of secure memory"]["worst"] == 1
    assert "crossings" not in found


def test_the_constants_keep_the_errors_until_they_are_fitted_again(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(table_text(make_table([Sample(fed_terms(8, 1, 1), 20_000.0)], "qemu", {})))
    keep_evaluation(path, rows_of(RECORDS), {"measured": "today"})
    kept = constants(path)["evaluation"]
    assert kept["measured"] == "today"
    assert kept["total"]["worst"] == 0.02
    assert "FEED" in constants(path)["kernels"]
    assert "evaluation" not in make_table([], "qemu", {})


def test_the_documentation_shows_each_strategy_and_the_errors(tmp_path: Path) -> None:
    places = "".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->\n" for name in ("evaluation", "strategies"))
    (tmp_path / "estimate.md").write_text(places)
    write_tables(RECORDS, tmp_path)
    text = (tmp_path / "estimate.md").read_text()
    assert "| total | 3 | 1.0 % | 2.0 % | +0.0 % | 1.5 %, 2.0 % | 1.0 %, 1.0 % |" in text
    assert "| one | 100 k | +1.0 % |" in text
    assert "three (drawn)" in text
    assert "4 KiB, not 8 KiB" in text
    (plot,) = write_plots(RECORDS, tmp_path)
    assert plot.name == "strategies.svg"
    assert plot.read_text().count("<circle") == 8, "as many as there are figures above 0"


def test_a_run_replaces_the_strategies_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    other = [Record("tee", "empty invocation", "ta", "", "instructions", 17_000, "instructions")]
    for records in (strategy("gone", total=(1, 1)), strategy("kept", total=(1, 1)), other):
        append_history(path, {"time": "", "commit": "", "suites": [], "quick": False}, records)
    assert {record.name for record in read_history(path)} == {"kept", "empty invocation"}


def test_pairs_of_the_calibration_hand_their_taps_over_one_by_one() -> None:
    counts = set()
    for files in handed_pairs():
        pair = prepare_pair(files, "handed").pair
        assert pair is not None
        assert [tap.ready for tap in pair.taps] == list(range(1, len(pair.taps) + 1))
        assert len(pair.cpm.partitions) == len(pair.taps)
        counts.add(len(pair.taps))
    assert counts == {2, 3, 4}

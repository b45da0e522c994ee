# SPDX-License-Identifier: BSD-2-Clause
"""What cloister protect makes of the benchmark's records, without a device; on one: test_protect_device.py."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import canned_bench as bench
import pytest
from digits_data import digits_splits
from torch import nn

from cloister.errors import CloisterError
from cloister.estimate.pair import predict
from cloister.protect.automatic import measure
from cloister.protect.automatic.costs import VICTIM_FILE, Costs, copied, sketch
from cloister.protect.automatic.measure import check_measurable, measured, resident, told
from cloister.protect.automatic.whole import MODEL_FILE
from cloister.protect.mirror import build_pair
from cloister.protect.strategy import Strategy
from cloister.protect.training import network

TAPPED = Strategy(taps=("2",), cpm_width=4, cpm_depth=0, head="average")
WHOLE = Strategy(kind="whole", precision="fp32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of both strategies, which nobody has trained, and the victim's."""
    folder, splits = tmp_path_factory.mktemp("files"), digits_splits()
    victim: nn.Module = network("digits", 1, 10, 5).eval()
    copied(Costs(victim, splits, folder).victim_file("fp32"), folder, MODEL_FILE)
    sketch(build_pair(victim, splits.shape, len(splits.classes), TAPPED), folder)
    return folder


def test_a_pair_s_records_have_the_names_of_a_prediction(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "subprocess", bench.PROCESSES)
    found = measured(tmp_path / "measure", place, TAPPED, place / VICTIM_FILE)
    inside = bench.CALL - bench.BOUNDARY
    assert found == {
        "unprotected": bench.VICTIM, "normal_world": bench.PAIR - bench.CALL, "secure_world": inside,
        "boundary": bench.BOUNDARY, "total": bench.PAIR, "overhead": pytest.approx(0.2), "loaded": bench.PEAK,
        "bytes_in": bench.TAPS,
    }  # fmt: skip
    assert found.keys() <= predict(place / VICTIM_FILE, place / "cpm.onnx", place / "backbone.onnx").as_json().keys()


def test_a_whole_model_is_measured_where_it_runs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "subprocess", bench.PROCESSES)
    found = measured(tmp_path / "measure", place, WHOLE, place / VICTIM_FILE)
    assert found == {
        "unprotected": bench.VICTIM, "normal_world": 0.0, "total": bench.INSIDE, "overhead": pytest.approx(0.5),
        "loaded": bench.PEAK,
    }  # fmt: skip


def test_a_benchmark_that_is_missing_or_fails_is_told(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], *, records: str | None, **_: Any) -> subprocess.CompletedProcess[bytes]:
        if records is not None:
            Path(command[command.index("--json") + 1]).write_text(records)
        return subprocess.CompletedProcess(command, 3)

    for records, message in ((None, "ended with status 3"), ("[]", "did not measure .*'normal'")):
        starts = SimpleNamespace(run=partial(run, records=records))
        monkeypatch.setattr(measure, "subprocess", starts)
        with pytest.raises(CloisterError, match=message) as caught:
            measured(tmp_path / "measure", place, WHOLE, place / VICTIM_FILE)
        assert "-m cloister_bench --suite models" in caught.value.remedy
    monkeypatch.setattr("cloister.protect.automatic.measure.find_spec", lambda _: None)
    with pytest.raises(CloisterError, match="benchmark, which is not here"):
        check_measurable()


def test_what_is_swapped_is_held_against_the_resident_prediction(place: Path) -> None:
    whole = predict(place / VICTIM_FILE, place / MODEL_FILE)
    assert resident(place, WHOLE, place / VICTIM_FILE, None) is None
    assert resident(place, WHOLE, place / VICTIM_FILE, whole.secure_memory) is None
    found = resident(place, WHOLE, place / VICTIM_FILE, whole.secure_memory - 1)
    assert found is not None and found["total"] == whole.total


def test_the_line_of_what_was_measured_says_what_it_is_held_against() -> None:
    report: dict[str, Any] = {
        "measured": {"overhead": 0.5}, "resident": None, "prediction": {"unit": "instructions"},
        "budget": {"memory": 1 << 20, "overhead": 0.4},
    }  # fmt: skip
    assert told(report).endswith("MORE THAN THE BUDGET of 40 %; give a smaller one, and run it again")
    assert told({**report, "budget": {"memory": None, "overhead": 0.6}}) == (
        "50.00 % more instructions on the emulated device"
    )
    assert "BUDGET" not in told({**report, "prediction": {"unit": "nanoseconds"}}), "the budget is of time"
    swapped = told({**report, "resident": {"overhead": 0.45}})
    assert "where 45.00 % were predicted; within 1 MiB partitions are swapped, which was not measured" in swapped

# SPDX-License-Identifier: BSD-2-Clause
"""``cloister search`` on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cloister.cli.main import main

RUN = ["--evaluator", "analytic:make", "--estimates", "40", "--proxies", "6", "--trainings", "2"]


def cloister(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    try:
        main(["search", *args])
        left = 0
    except SystemExit as ended:
        left = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert left == status, out + err
    return out, err


def test_run_list_show(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    study, plot = str(tmp_path / "study.journal"), tmp_path / "front.svg"
    out, err = cloister(capsys, "run", study, *RUN, "--budget-overhead", "1%", "--budget-accuracy", "2")
    assert "Chosen:" in out and "6 short and 2 full trainings" in out
    assert [len(re.findall(rf"\b{what} \d+: ", err)) for what in ("proxy", "training")] == [6, 2]
    for place in ("briefly, 1 of 6", "briefly, 6 of 6", "in full, 1 of 2", "in full, 2 of 2"):
        assert err.count(f"training {place}") == 1
    assert "in full, 2 of 2, about 1 min left: " in err
    # what was done is not done again, and the budget is remembered
    again, err = cloister(capsys, "run", study, *RUN)
    assert again.splitlines()[-2:] == out.splitlines()[-2:] and "proxy" not in err
    data = json.loads(cloister(capsys, "trials", study, "--json")[0])
    assert [entry["stage"] for entry in data] == ["proxy"] * 6 + ["training"] * 2
    assert "taps" in cloister(capsys, "trials", study)[0]
    assert len(json.loads(cloister(capsys, "trials", study, "--stage", "estimate", "--json")[0])) == 40
    assert "Runner-up:" in cloister(capsys, "front", study, "--plot", str(plot))[0]
    assert plot.read_text().startswith("<svg")
    shown = json.loads(cloister(capsys, "front", study, "--json")[0])
    assert shown["budget"] == {"memory": None, "overhead": 0.01, "accuracy": 2.0}
    assert shown["chosen"]["stage"] == "training" and shown["cost"] == pytest.approx(2 + 0.2 * 6)
    other = json.loads(cloister(capsys, "front", study, "--budget-memory", "1KiB", "--json")[0])
    assert other["chosen"]["fits"] is False and "None of the 2" in other["why"]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["run", "STUDY", "--evaluator", "analytic"], "package.module:factory"),
        (["run", "STUDY", "--evaluator", "no_such_module:make"], "no_such_module"),
        (["run", "STUDY", "--evaluator", "analytic:nothing"], "'nothing'"),
        (["run", "STUDY", "--evaluator", "json:JSONDecoder"], "proxy_share"),
        (["run", "STUDY", *RUN, "--budget-overhead", "1"], "write 1%"),
        (["run", "STUDY", "--evaluator", "analytic:make", "--proxies", "3", "--trainings", "9"], "9 trainings"),
        (["front", "STUDY"], "no such study"),
        (["trials", "STUDY"], "no such study"),
    ],
)
def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], named: str) -> None:
    study = str(tmp_path / "study.journal")
    _, err = cloister(capsys, *[study if arg == "STUDY" else arg for arg in args], status=1)
    assert named in err and "remedy:" in err
    assert not Path(study).exists()


def test_unknown_name_lists_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = str(tmp_path / "study.journal")
    cloister(capsys, "run", study, *RUN, "--name", "first")
    assert "its searches are first" in cloister(capsys, "front", study, status=1)[1]


def test_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = str(tmp_path / "study.journal")
    assert "such as 2h" in cloister(capsys, "run", study, *RUN, "--time-limit", "soon", status=2)[1]
    out, _ = cloister(capsys, "run", study, *RUN, "--time-limit", "0s")
    assert "Nothing was trained" in out and "the same command goes on" in out


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["run"], ["trials"], ["front"]):
        assert "cloister search run study.journal" in cloister(capsys, *args, "--help")[0]

# SPDX-License-Identifier: BSD-2-Clause
"""The scripts behind docs/results.md, on a small data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cloister.protect.results.__main__ import _without_folders, main


def invoke(place: Path, *more: str) -> str:
    arguments = ["--model", "digits", "--seeds", "0", "--work", str(place / "work"), "--docs", str(place / "docs")]
    result = CliRunner().invoke(main, [*arguments, "--device", "cpu", *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return (place / "docs" / "results.md").read_text()


def test_records_are_made_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = invoke(tmp_path, "--epochs", "0.5")
    records = json.loads((tmp_path / "docs" / "results.json").read_text())["records"]
    assert {(record["experiment"], record.get("variant")) for record in records} >= {
        ("victim", None), ("edgepro", "published"), ("edgepro", "turned"), ("edgepro", "mixed"),
    }  # fmt: skip
    victim = next(record for record in records if record["experiment"] == "victim")
    assert victim["test"] > 0.9 and f"{victim['test']:.2%}" in page
    turned = next(record for record in records if record.get("variant") == "turned")
    assert turned["test"]["with_password"] > 0.85 and turned["test"]["without_password"] < 0.3
    monkeypatch.setattr("cloister.protect.training.loop.fit", None)
    monkeypatch.setattr("cloister.protect.results.context.fit", None)
    assert invoke(tmp_path, "--epochs", "0.5") == page, "a second run computes nothing"


def test_the_command_that_is_recorded_names_no_folder_of_a_machine() -> None:
    given = ["--data", "/home/me/sets", "--work=/tmp/w", "--model", "vgg7", "--docs", "docs"]
    assert _without_folders(given) == ["--data", "DATA", "--work", "WORK", "--model", "vgg7", "--docs", "DOCS"]
    assert _without_folders([]) == []


def test_data_that_is_missing_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["--model", "vgg7", "--data", str(tmp_path), "--work", str(tmp_path), "--docs", str(tmp_path)]
    )
    assert result.exit_code == 1 and "cifar10.npz is missing" in result.output

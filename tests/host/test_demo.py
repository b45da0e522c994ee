# SPDX-License-Identifier: BSD-2-Clause
"""The demo as far as it needs neither torch nor a device: what is kept, what is shown, what is printed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cloister.demo.__main__ import main
from cloister.demo.kept import NEEDED, Kept, find, place
from cloister.demo.protecting import overheard, shown
from cloister.demo.running import Result
from cloister.demo.settings import DemoSettings
from cloister.demo.story import Story

REPORT: dict[str, Any] = {"measured": {"total": 1.0}, "chosen": {}}


def made(folder: Path, report: dict[str, Any] = REPORT) -> Kept:
    folder.mkdir(parents=True)
    for name in NEEDED:
        (folder / name).write_text(json.dumps(report))
    kept = Kept(folder, 0.25, 0.5, 61.25, report)
    kept.save()
    return kept


def test_what_was_made_is_found_again_and_halves_are_not(tmp_path: Path) -> None:
    assert find(tmp_path / "nothing") is None
    kept = made(tmp_path / "whole")
    assert find(tmp_path / "whole") == replace(kept, seconds=61.2)
    assert kept.normalised(np.full((1, 1, 8, 8), 0.75)).dtype == np.float32
    np.testing.assert_allclose(kept.normalised(np.full((1, 1, 8, 8), 0.75)), 1.0)
    made(tmp_path / "unmeasured", {**REPORT, "measured": None})
    assert find(tmp_path / "unmeasured") is None
    for name in (*NEEDED, "demo.json"):
        damaged = tmp_path / name.replace(".", "-")
        made(damaged)
        (damaged / name).unlink()
        assert find(damaged) is None
    (tmp_path / "whole" / "demo.json").write_text("{")
    assert find(tmp_path / "whole") is None


def test_other_settings_have_another_folder(tmp_path: Path) -> None:
    usual = DemoSettings()
    assert place(tmp_path, usual) == place(tmp_path, DemoSettings())
    others = [replace(usual, epochs=3), replace(usual, seed=3), replace(usual, revision=3)]
    assert len({place(tmp_path, settings) for settings in (usual, *others)}) == 4


def test_progress_of_the_search_is_told_in_short() -> None:
    lines = {
        "     51 s  5 strategies estimated": "5 strategies estimated",
        "     13 s  proxy 0: tampered, taps 11, int8: attacker 4.57 times the black box, 7.74 % overhead": (
            "trained briefly and attacked: tampered, taps 11, int8"
        ),
        "pair d766d96acb12: 7 of 8, 34 s, 5 s left; loss 1.2, score 0.9": "  the pair: 7 of 8 epochs in 34 s, 5 s left",
        "attacks: 3 of 9, 50 s, 99 s left; steal of white box (unprotected)": "  attackers: 3 of 9 in 50 s, 99 s left",
        "  [2/5]   10 s  2c06bc20e091, boundary in the TA": "  measurements: 2 of 5 in 10 s",
        "  [1/5]    5 s  onnxruntime": None,
        "a warning of torch": None,
    }
    assert {line: shown(line) for line in lines} == lines


def test_what_goes_to_standard_error_is_logged_and_heard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    with overheard(tmp_path / "log", heard.append):
        print("      3 s  5 strategies estimated", file=sys.stderr)
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'  [1/5]    5 s  a job\\n')"], check=True)
        os.write(2, b"noise\n")
    print("after", file=sys.stderr)
    assert heard == ["5 strategies estimated", "  measurements: 1 of 5 in 5 s"]
    assert (tmp_path / "log").read_text().splitlines()[2] == "noise"
    assert capfd.readouterr().err == "after\n"


def test_the_table_says_what_was_found() -> None:
    printed = io.StringIO()
    attack = {"backbone": 0.969, "scratch": 0.951, "white_box": 0.991, "images": 115, "steps": 50}
    found = Result(
        images=450, accuracy=0.98, victim_accuracy=0.984, backbone_accuracy=0.01, gap=97.0, label_agreement=1.0,
        max_abs_error=0.0, secure_memory_peak=8192, secure_memory_session=466944, attack=attack,
        instructions={"unprotected": 362352, "total": 405030, "boundary": 26835, "overhead": 0.1178},
        refused={"one": "MAC_INVALID", "two": "not refused"}, report="out/report.html",
    )  # fmt: skip
    Story(Console(file=printed, width=80)).end(found, Path("out/result.json"))
    lines = [" ".join(line.split()) for line in printed.getvalue().splitlines()]
    for wanted in (
        "the protected pair, on the device 98.0%", "the exposed backbone as it is 1.0% 97.0 points below the pair",
        "fine-tuned by a thief 96.9% 115 images, 50 steps", "protected, in both worlds 405,030 +11.8%",
        "of these for the boundary 26,835 +7.4%", "tampering refused 1 of 2", "report: out/report.html",
    ):  # fmt: skip
        assert wanted in lines
    assert "worth +1.8 points" in printed.getvalue() and "worse than guessing" in printed.getvalue()


def test_without_torch_the_demo_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOISTER_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["--target", "ssh://root@nowhere", "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().out
    assert "this needs torch" in told and "build/setup --train" in told


def test_where_torch_cannot_be_installed_the_command_says_what_to_do(tmp_path: Path) -> None:
    build = tmp_path / "build"
    build.mkdir()
    (build / "demo").write_bytes((Path(__file__).parents[2] / "build" / "demo").read_bytes())
    (build / "setup").write_text('#!/bin/sh\n[ "$1" != --train ]\n')
    for script in build.iterdir():
        script.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "CLOISTER_TORCH_INDEX"}
    done = subprocess.run([build / "demo"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1 and done.stdout == ""
    assert "takes gigabytes" in done.stderr
    assert "torch for that could not be installed" in done.stderr and "remedy: let CLOISTER_TORCH_INDEX" in done.stderr

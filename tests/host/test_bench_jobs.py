# SPDX-License-Identifier: BSD-2-Clause
"""What the benchmark sends to the device and how it reads what comes back; its networks and kernels."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from cloister.compile import compile_onnx
from cloister.device.errors import TrustedApplicationPanic
from cloister.device.script import ScriptResult
from cloister_bench import device
from cloister_bench.cli import main
from cloister_bench.device import Job, make_script, parse_result, run_jobs
from cloister_bench.kernels import KERNELS, Kernel
from cloister_bench.networks import NETWORKS, SMALL
from cloister_bench.prepare import plain_files, prepare
from cloister_bench.suites.kernels import PARTITION

MACS = {"lenet": 575_400, "vgg7": 7_553_664, "resnet20": 40_813_184}


def test_result_files_become_samples_and_values() -> None:
    files = {
        "a.rc": b"0\n",
        "a.txt": b"value first 900\nsample 10 1000\nsample 10 1010\nvalue peak 4096\n",
        "a.out": b"answer",
    }
    outcome = parse_result("a", files)
    assert outcome.samples is not None
    assert list(outcome.samples.calls) == [100.0, 101.0]
    assert (outcome.values, outcome.answer, outcome.error) == ({"first": 900, "peak": 4096}, b"answer", "")


def test_a_job_that_failed_says_why() -> None:
    files = {"a.rc": b"1\n", "a.err": b"LOAD: result 0x80c10002, origin 4\n", "b.rc": b"139\n", "c.rc": b"0\n"}
    assert "another device" in parse_result("a", files).error
    assert "139" in parse_result("b", files).error
    assert parse_result("c", files).error == "it printed nothing"
    assert parse_result("d", files).error == "it was not reached"


def test_the_script_runs_every_job_and_survives_one_that_fails(tmp_path: Path) -> None:
    for name in ("input", "results"):
        (tmp_path / name).mkdir()
    client = tmp_path / "input" / "bench_client"
    client.write_text('#!/bin/sh\necho "$@"; [ "$1" != bad ]\n')
    jobs = [Job("one", ("bad", "$INPUT/m"), ""), Job("two", ("ta", "$INPUT/m n", "$RESULTS/two.out"), "")]
    script = make_script(jobs, 3, 1000).replace("/tmp/", f"{tmp_path}/")
    environment = {"INPUT": str(tmp_path / "input"), "RESULTS": str(tmp_path / "results"), "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-c", script], check=True, env=environment)
    results = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    assert (results["one.rc"], results["two.rc"]) == (b"1\n", b"0\n")
    assert results["two.txt"].decode() == f"ta {tmp_path}/input/m n {tmp_path}/results/two.out\n"


def test_a_job_that_takes_the_device_with_it_does_not_cost_the_others_their_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job("one", ("ta",), "first"), Job("two", ("ta",), "second"), Job("three", ("ta",), "third")]
    results = tmp_path / "share" / "results"
    boots: list[list[str]] = []

    def boot(script: str, *_: object, progress: Callable[[float, str], None], **__: object) -> ScriptResult:
        """A device whose TA panics in job "two"."""
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
        names = [line.split('"')[1] for line in script.splitlines() if line.startswith('job "')]
        boots.append(names)
        for name in names:
            (results / f"{name}.begun").touch()
            progress(1.0, "")
            if name == "two":
                raise TrustedApplicationPanic("the TA panicked")
            (results / f"{name}.txt").write_text("sample 10 1000\n")
            (results / f"{name}.rc").write_text("0")
            progress(2.0, "")
        return ScriptResult(0, {path.name: path.read_bytes() for path in results.iterdir()}, "", 1.0)

    monkeypatch.setattr(device, "run_script", boot)
    monkeypatch.setattr(device, "InstanceFiles", lambda _name: SimpleNamespace(share=tmp_path / "share"))
    journal = tmp_path / "journal.jsonl"
    told: list[tuple[int, int, str]] = []
    outcomes = run_jobs(
        jobs,
        {},
        repeats=1,
        instructions=1,
        progress=lambda done, total, step, _elapsed: told.append((done, total, step)),
        timeout=60.0,
        journal=journal,
    )
    assert boots == [["one", "two", "three"], ["three"]]
    assert [outcomes[job.name].error for job in jobs] == ["", "the TA panicked", ""]
    assert [json.loads(line)["step"] for line in journal.read_text().splitlines()] == ["first", "third"]
    assert told[0] == (0, 3, "first") and told[-1] == (3, 3, "")


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "share" / "results"

    def boot(_script: str, *_: object, progress: Callable[[float, str], None], **__: object) -> ScriptResult:
        results.mkdir(parents=True)
        (results / "slow.begun").touch()
        for elapsed in range(100):
            progress(float(elapsed), "")
        raise AssertionError("nobody ended it")

    monkeypatch.setattr(device, "run_script", boot)
    monkeypatch.setattr(device, "InstanceFiles", lambda _name: SimpleNamespace(share=tmp_path / "share"))
    outcomes = run_jobs(
        [Job("slow", ("ta",), "slow")],
        {},
        repeats=1,
        instructions=1,
        progress=lambda *_: None,
        timeout=60.0,
        job_timeout=30.0,
    )
    assert outcomes["slow"].error == "it took more than 30 s"


@pytest.mark.parametrize("name", SMALL)
def test_networks_have_the_size_they_are_known_for_and_finite_answers(name: str) -> None:
    model = NETWORKS[name]()
    work = prepare(name, name, model)
    assert work.macs == MACS[name]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, work.inputs)
    assert np.isfinite(answer).all()
    assert answer.max() < 0.999, "a saturated softmax would hide errors"


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_copies_of_a_kernel_add_that_kernel_and_next_to_nothing_else(kernel: Kernel) -> None:
    models = [kernel.model(copies) for copies in (1, 3)]
    one, three = (compile_onnx(model, max_partition=PARTITION, winograd=False).report for model in models)
    kinds = {"conv": "CONV2D", "depthwise": "DEPTHWISE", "gemm": "GEMM", "matmul": "MATMUL"}
    counts = [sum(kinds[kernel.kind] in row.kernel.upper() for row in report.rows) for report in (one, three)]
    assert counts[1] - counts[0] == 2
    if kernel.kind in ("gemm", "matmul"):
        macs = kernel.side * kernel.inputs * kernel.outputs
    else:
        side = kernel.side // kernel.stride
        group = kernel.inputs if kernel.kind == "depthwise" else 1
        macs = side * side * kernel.outputs * kernel.inputs // group * kernel.size**2
    assert three.macs - one.macs == 2 * macs


def test_the_normal_world_gets_the_very_partitions() -> None:
    compiled = compile_onnx(NETWORKS["lenet"](), max_partition=40_000)
    table, data = plain_files(compiled)
    places = [line.split()[1:] for line in table.splitlines() if line.startswith("partition")]
    assert len(places) > 1
    found = [data[int(offset) : int(offset) + int(size)] for offset, size in places]
    assert found == list(compiled.partitions)
    assert all(int(offset) % 64 == 0 for offset, _ in places)


def test_a_mistyped_name_is_told_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare", str(tmp_path / "none.json")]) == 1
    assert main(["--models", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert "none.json" in errors
    assert ".onnx" in errors

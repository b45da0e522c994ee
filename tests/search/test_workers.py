# SPDX-License-Identifier: BSD-2-Clause
"""Several workers on one search: a file's, and a real PostgreSQL server's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest
from analytic import Analytic
from postgres import NoServer, server

from cloister.search import Budget, Stage
from cloister.search.book import Book

BUDGET = ["--budget-memory", "256KiB", "--budget-overhead", "1%", "--budget-accuracy", "1"]
EFFORT = ["--estimates", "24", "--proxies", "6", "--trainings", "2"]


def start(study: str, log: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-m", "cloister.cli.main", "search", "run", study, "--evaluator", "analytic:logged", "--json",
         *BUDGET, *EFFORT],
        env={
            **os.environ, "PYTHONPATH": path,
            "ANALYTIC_LOG": str(log), "ANALYTIC_PAUSE": "0.3", "ANALYTIC_WORKERS": "2",
        },
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def two_workers(study: str, log: Path) -> None:
    """Two processes, begun at once, share the work, and come to the same choice."""
    workers = [start(study, log) for _ in range(2)]
    told = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    found = [json.loads(out) for out, _ in told]
    lines = [tuple(json.loads(line)) for line in log.read_text().splitlines()]
    costly = [(stage, digest) for stage, digest, _ in lines if stage != "estimate"]
    assert len(costly) == len(set(costly)) == 6 + 2, "a strategy was trained twice, or one too many"
    assert len({number for stage, _, number in lines if stage != "estimate"}) == 2, "one worker did everything"
    book = Book(study, "search", create=False)
    done = Counter(record.stage for stage in Stage for record in book.records(stage) if record.state == "done")
    assert (done[Stage.PROXY], done[Stage.TRAINING]) == (6, 2)
    # who ends last has seen everything; both ended when nothing was left to begin
    assert max(one["trainings"] for one in found) == 2
    assert any(one["chosen"] and one["chosen"]["fits"] for one in found)


def test_file(tmp_path: Path) -> None:
    two_workers(str(tmp_path / "study.journal"), tmp_path / "log")


def test_postgresql(tmp_path: Path) -> None:
    try:
        with server() as url:
            two_workers(url, tmp_path / "log")
    except NoServer as reason:
        print(f"not run: {reason}")
        pytest.skip(str(reason))


def test_another_worker_was_faster_with_all_that_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna then draws a trial of its own, which is no strategy: the given one is evaluated nevertheless."""
    real, looks = optuna.Study._pop_waiting_trial_id, []

    def pop(study: optuna.Study) -> int | None:
        looks.append(study)
        return None if len(looks) == 1 else real(study)

    monkeypatch.setattr(optuna.Study, "_pop_waiting_trial_id", pop)
    evaluator, book = Analytic(), Book(None, "search")
    point = {name: values[0] for name, values in evaluator.space.choices.items()}
    record = book.work(Stage.PROXY, point, evaluator.space, evaluator.proxy, Budget())
    assert len(looks) == 2 and record is not None
    assert evaluator.calls == [("proxy", evaluator.space.build(point))]
    assert [one.strategy for one in book.records(Stage.PROXY)] == [record.strategy]


def test_lost_database() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cloister.cli.main", "search", "front", "postgresql://me:hidden@localhost:1/none"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "remedy: check that the server runs" in done.stderr
    assert "hidden" not in done.stderr and "Traceback" not in done.stderr

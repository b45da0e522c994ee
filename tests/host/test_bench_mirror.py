# SPDX-License-Identifier: BSD-2-Clause
"""The benchmark of pairs: what it makes, sends and works out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from pair_models import backbone, cpm, expected

from cloister.seal import VendorKey
from cloister_bench.device import Outcome
from cloister_bench.errors import BenchError
from cloister_bench.overlap import Side
from cloister_bench.pairs import made_pairs, own_pairs, prepare_pair
from cloister_bench.records import Samples
from cloister_bench.suites.base import Options
from cloister_bench.suites.mirror import MirrorSuite, longer_path, reference
from cloister_bench.tables import mirror_table


@pytest.mark.parametrize(
    ("normal", "secure", "path"),
    [
        ([10, 10, 10], [1, 1, 1], 31),  # all but the last call is hidden
        ([10, 10, 10], [9, 9, 9], 39),
        ([1, 1, 1], [10, 10, 10], 31),  # the TA is never idle once it began
        ([10, 1], [20, 5], 35),
        ([7], [5], 12),
    ],
)
def test_the_longer_of_both_worlds(normal: list[int], secure: list[int], path: int) -> None:
    assert longer_path(normal, secure) == path
    assert max(sum(normal), sum(secure)) < path <= sum(normal) + sum(secure)


def test_own_pairs_are_found_by_folder(tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        (tmp_path / name).mkdir(parents=True)
        onnx.save(cpm(image=True), tmp_path / name / "cpm.onnx")
        onnx.save(backbone(), tmp_path / name / "backbone.onnx")
    onnx.save(backbone(), tmp_path / "a" / "victim.onnx")
    found = own_pairs(tmp_path)
    assert [(pair.name, pair.victim is not None) for pair in found] == [("a", True), ("b/c", False)]
    work = prepare_pair(found[0], "mirror/0")
    answer = np.frombuffer(reference(work), np.float32)
    np.testing.assert_allclose(answer, expected(cpm(image=True), backbone(), work.inputs["image"])[0], atol=1e-4)
    with pytest.raises(BenchError, match="holds no pair"):
        own_pairs(tmp_path / "a" / "nothing")


def test_files_for_the_device() -> None:
    (pair,) = made_pairs(quick=True)
    work = prepare_pair(pair, "mirror/0")
    assert work.pair is not None and work.compiled is work.pair.cpm
    files = work.files(bytes(range(32)), VendorKey.generate(), False, "chacha20-poly1305")
    rows = [[int(word) for word in line.split()] for line in files["mirror/0/taps"].decode().splitlines()]
    assert [row[1:] for row in rows] == [[tap.ready, tap.offset, tap.size] for tap in work.pair.taps]
    assert {row[0] for row in rows} == {(1 << 32) - 1}
    assert files["mirror/0/table"].decode().count("partition") == len(work.pair.backbone.partitions)


@pytest.fixture
def suite() -> MirrorSuite:
    made = MirrorSuite(Options(quick=True))
    made.prepare()
    return made


def outcomes(suite: MirrorSuite, **changed: Outcome) -> dict[str, Outcome]:
    answer = reference(suite._cases[0][0])
    told = {"taps": 1560, "peak": 77824, "stages": 2, "0.normal": 100, "1.normal": 50, "0.secure": 30, "1.secure": 40}
    told |= {"normal": 147, "secure": 32}
    found = {
        "victim": Outcome(Samples([200.0, 200.0])),
        "backbone": Outcome(Samples([150.0])),
        "boundary": Outcome(Samples([20.0])),
        "pair": Outcome(Samples([180.0]), told, answer),
        "stages": Outcome(Samples([220.0]), told, answer),
        **changed,
    }
    names = {job.name.rpartition("-")[2]: job.name for job in suite.jobs()}
    return {names[name]: outcome for name, outcome in found.items()}


def test_what_belongs_to_whom(suite: MirrorSuite) -> None:
    suite.evaluate(outcomes(suite))
    values = {record.metric: record.value for record in suite.found.records}
    assert (values["cpm"], values["boundary"], values["staged"], values["path"]) == (12, 20, 220, 190)
    assert values["overhead"] == pytest.approx(-0.1)
    assert suite.found.problems == []
    assert mirror_table(suite.found.records).row_count == 1


def test_wrong_answers_are_problems(suite: MirrorSuite) -> None:
    answer = reference(suite._cases[0][0])
    told = outcomes(suite)["mirror-0-stages"].values
    suite.evaluate(outcomes(suite, stages=Outcome(Samples([220.0]), told, bytes(len(answer)))))
    assert any("changes the answer" in problem for problem in suite.found.problems)


def test_a_part_that_failed_is_named_and_nothing_is_made_up(suite: MirrorSuite) -> None:
    suite.evaluate(outcomes(suite, boundary=Outcome(None, error="it ended")))
    assert suite.found.records == []
    assert any("it ended" in problem for problem in suite.found.problems)


def test_the_share_saved_side_by_side() -> None:
    def turn(pair: float, stages: float, overlap: float) -> dict[str, float]:
        return {"pair": pair, "stages": stages, "overlap": overlap}

    assert Side("x", (turn(100.0, 120.0, 80.0),)).gain == pytest.approx(0.2)
    found = Side("x", (turn(100.0, 90.0, 180.0), turn(200.0, 120.0, 72.0)))
    assert found.least == turn(100.0, 90.0, 72.0)
    assert found.gain == pytest.approx(0.2), "against the better way of one after the other"
    assert found.gains == (pytest.approx(-1.0), pytest.approx(0.4))

# SPDX-License-Identifier: BSD-2-Clause
"""Predictions of a few untrained strategies held against the emulated device: the same on every machine."""

from __future__ import annotations

import pytest

from cloister.seal import VendorKey
from cloister_bench import device, tools
from cloister_bench.corpus import GROUPS
from cloister_bench.evaluation import COMPARED, Row, rows_of
from cloister_bench.handed import handed_pairs
from cloister_bench.strategies import SHAPES, cases
from cloister_bench.suites.base import Options
from cloister_bench.suites.strategies import StrategySuite
from cloister_build.paths import cache_dir
from cloister_build.report import Report

#: What the prediction of all instructions is to keep, and of what the secure world and its boundary take.
NEAR = 0.10
NAMES = [case.name for case in cases(quick=True)]
#: Exporting and booting take their time beside other work.
pytestmark = pytest.mark.timeout(1500)


def _silent(_done: int, _total: int, _step: str, _elapsed: float) -> None:
    pass


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """Predicted and measured, in one boot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "INSTANCE", "strategies-test")
        suite = StrategySuite(Options(quick=True))
        works = suite.prepare()
        client = tools.build_client(cache_dir(), Report())
        key = device.device_key(client, _silent)
        vendor = VendorKey.load_or_generate()
        files = {"bench_client": client}
        for work in works:
            files |= work.files(key, vendor, False, suite.options.ciphers[0])
        outcomes = device.run_jobs(
            suite.jobs(), files, repeats=3, instructions=2_000_000, progress=_silent, timeout=900
        )
        suite.evaluate(outcomes)
        assert suite.found.problems == []
        return {row.name: row for row in rows_of(suite.found.records)}


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_is_near(name: str, rows: dict[str, Row]) -> None:
    row = rows[name]
    for what in ("total", "total, taps one by one", "secure world and boundary"):
        error = row.error(COMPARED[what])
        if error is not None:
            print(f"{name}: {what} {row.both(COMPARED[what])}, {error:+.3f}")
            assert abs(error) <= NEAR, f"{what}: {error:+.3f}; kernels changed? run: cloister calibrate"
    for what in ("peak of secure memory", "crossings", "crossings, taps one by one", "bytes in"):
        assert not row.error(COMPARED[what]), f"{what} is reckoned, not estimated: {row.both(COMPARED[what])}"


def test_the_strategies_are_many_and_varied() -> None:
    found = cases()
    assert len(found) >= 24
    assert len({case.name for case in found}) == len(found)
    assert {case.network for case in found} == set(SHAPES)
    strategies = [case.strategy for case in found]
    for field, least in {"kind": 2, "backbone": 4, "precision": 2, "operator": 3, "merge": 2, "head": 2, "cpm_depth": 3,
                         "cpm_width": 4, "pool": 4, "channels": 3, "backbone_width": 4}.items():  # fmt: skip
        assert len({getattr(strategy, field) for strategy in strategies}) >= least, field
    taps = {tap for strategy in strategies for tap in strategy.taps}
    assert {"image", "logits"} <= taps
    assert {len(strategy.taps) for strategy in strategies if strategy.kind == "mirror"} == {1, 2, 3, 4}
    assert sum(case.drawn for case in found) >= 12


def test_none_of_them_is_in_the_calibration() -> None:
    measured = {name for models in GROUPS.values() for name, _ in models()} | {pair.name for pair in handed_pairs()}
    assert not measured & {case.name for case in cases()}
    assert not [name for name in measured if any(network in name for network in SHAPES)]

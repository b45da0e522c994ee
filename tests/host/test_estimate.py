# SPDX-License-Identifier: BSD-2-Clause
"""The estimate of instructions: what is counted, how constants are fitted, and what is told of their limits."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cloister.cli.plan import trust
from cloister.errors import FormatError
from cloister.estimate.counting import Term, inside, merged, tile_counts
from cloister.estimate.features import terms_of
from cloister.estimate.fit import Sample, cost_of, fit, nonnegative
from cloister.estimate.instructions import Streaming, constants, inference
from cloister_bench.builder import Builder
from cloister_bench.calibrate import all_cases, make_table, read_samples, samples_text, table_text
from cloister_bench.cases import lowered
from cloister_bench.quantised import quantised


def test_nonnegative_least_squares_finds_what_is_there() -> None:
    random = np.random.default_rng(1)
    a = random.random((40, 6))
    wanted = np.array([3.0, 0.0, 0.5, 0.0, 2.0, 1.0])
    assert np.allclose(nonnegative(a, a @ wanted), wanted, atol=1e-8)


def test_nonnegative_least_squares_keeps_away_from_negative_costs() -> None:
    random = np.random.default_rng(2)
    a = random.random((40, 4))
    b = a @ np.array([2.0, -1.0, 1.0, 0.5])
    found = nonnegative(a, b)
    assert (found >= 0).all() and found[1] == 0
    # No other set of constants that are not negative is nearer along any axis.
    gradient = a.T @ (b - a @ found)
    assert (gradient[found == 0] <= 1e-8).all() and np.allclose(gradient[found > 0], 0, atol=1e-8)


def _samples(error: float = 0.0) -> list[Sample]:
    random = np.random.default_rng(3)
    found = []
    for size in (10, 30, 100, 300, 1000, 3000, 10000):
        for rows in (1, 4, 20):
            counts = {"call": 1.0, "row": float(rows), "element": float(size)}
            cost = (300 + 20 * rows + 1.5 * size) * (1 + error * random.standard_normal())
            found.append(Sample([Term("K", counts, {"size": size})], cost))
    return found


def test_the_fit_finds_the_costs_and_the_range() -> None:
    found = fit(_samples())["K"]
    assert found["costs"] == pytest.approx({"call": 300, "row": 20, "element": 1.5}, rel=1e-3)
    assert found["error"] < 1e-3 and found["samples"] == 21
    assert found["shape"] == {"size": [10, 10000]}


def test_the_error_that_the_fit_tells_is_that_of_what_it_did_not_see() -> None:
    told = fit(_samples(0.05))["K"]
    assert 0.03 < told["error"] < 0.12
    assert told["worst"] >= told["error"]


def test_what_follows_a_kernel_is_taken_off() -> None:
    alone = [Sample([Term("F", {"call": 1, "element": n})], 100 + 3 * n) for n in (1, 10, 100, 1000)]
    both = [
        Sample([Term("K", {"call": 1, "mac": m}), Term("F", {"call": 1, "element": 10})], 500 + m / 4 + 130)
        for m in (1000, 2000, 5000, 20000)
    ]
    found = fit([*alone, *both])
    assert found["K"]["costs"] == pytest.approx({"call": 500, "mac": 0.25}, rel=1e-3)


def test_a_measurement_survives_its_file(tmp_path: Path) -> None:
    kept = [("a kernel", _samples()[0])]
    path = tmp_path / "measured.json"
    path.write_text(samples_text(kept))
    ((name, sample),) = read_samples(path)
    assert name == "a kernel" and sample.cost == kept[0][1].cost
    assert dict(sample.terms[0].counts) == dict(kept[0][1].terms[0].counts)
    path.write_text("[{}]")
    with pytest.raises(FormatError, match="holds no measurements"):
        read_samples(path)


def test_counts_of_tiles() -> None:
    counts = tile_counts(tiles=2, rows=13, columns=20, taps=9, depth=6, function="CL_UNARY_RELU")
    assert counts["panel"] == 2 * 3 and counts["tap"] == 2 * 3 * 9
    assert counts["mac"] == 13 * 24 * 9 * 6
    assert counts["four steps"] == counts["tap"] and counts["tail"] == counts["tap"]
    assert counts["relu"] == counts["row"] == 13 * 3
    assert counts["partial row"] == 13


def test_windows_and_walks_are_the_engines() -> None:
    assert inside(5, 3, 1, 1, 1, 5) == [2, 3, 3, 3, 2]
    assert inside(3, 3, 2, 1, 0, 7) == [3, 3, 3]
    assert merged([4, 5, 6], [30, 6, 1], [30, 6, 1]) == [(120, (1, 1))]
    assert merged([4, 5, 6], [30, 6, 1], [0, 6, 1]) == [(4, (30, 0)), (30, (1, 1))]
    assert merged([1, 6], [6, 1], [6, 1]) == [(6, (1, 1))]


def test_a_convolution_by_each_way() -> None:
    def kinds(channels: int, kernel: int, stride: int = 1, group: int = 1) -> list[str]:
        b = Builder("conv", [1, channels, 12, 12])
        model = b.finish(b.conv("x", 32, kernel, stride, group=group))
        return [term.kind for op in lowered(model).ops for term in terms_of(op) if "COPY" not in term.kind]

    assert kinds(32, 1) == ["CONV2D 1x1"]
    assert kinds(8, 3) == ["CONV2D rows"]
    assert kinds(32, 5) == ["CONV2D pixels"]
    assert kinds(32, 3, group=4) == ["CONV2D pixels"]
    assert kinds(32, 3, group=32) == ["DEPTHWISE 3x3 stride 1"]


def test_weights_of_each_kind_are_measured() -> None:
    b = Builder("conv", [1, 32, 12, 12])
    model = b.finish(b.conv("x", 16, 3))
    found = set()
    for kind in ("normal", "uniform", "full"):
        for op in lowered(quantised(model, kind)).ops:
            if op.kernel == "CONV2D_S8":
                (term,) = terms_of(op)
                found |= {name for name, count in term.counts.items() if name.endswith(" step") and count}
    assert {"symmetric step", "any step", "fours step"} <= found


def test_the_measured_kernels_cover_every_kernel_of_the_engine() -> None:
    from cloister.compile.lowering import STRUCTS

    kinds = Counter(term.kind for case in all_cases() for term in case.terms)
    assert {kind.split()[0].replace("_S8", "") for kind in kinds} >= {name.replace("_S8", "") for name in STRUCTS}
    assert set(kinds) <= set(constants()["kernels"]), "calibrate again: cloister calibrate"
    assert not [kind for kind in ("CONV2D 1x1", "CONV2D pixels", "WINOGRAD", "CONV2D_S8 rows") if kinds[kind] < 20]


def _table() -> dict[str, object]:
    rows = ["RUN", "OPEN aegis-128l", "STEP", "CONV2D rows", "COPY transpose 4"]
    own = {"costs": {"call": 100.0, "mac": 0.25, "byte": 2.0}, "error": 0.1, "bias": 0.02, "worst": 0.2, "samples": 9}
    shape = {"input channels": [1, 8], "output channels": [8, 64], "width": [8, 32], "kernel": [9, 9]}
    return {"version": 2, "kernels": {row: {**own, "shape": shape if row == "CONV2D rows" else {}} for row in rows}}


def test_what_was_not_measured_is_told() -> None:
    def told(channels: int) -> str:
        b = Builder("conv", [1, channels, 16, 16])
        ops = lowered(b.finish(b.conv("x", 32, 3))).ops
        return trust(inference([ops], Streaming(), 1024, 10, table=_table()))

    assert "every kernel is of a size that was measured" in told(8)
    assert "EXTRAPOLATED" in told(12) and "CONV2D rows with input channels 12, measured from 1 to 8" in told(12)
    assert "CONV2D pixels was not measured" in told(32)


def test_streaming_costs_by_the_byte_and_in_steps_more() -> None:
    b = Builder("conv", [1, 8, 16, 16])
    ops = lowered(b.finish(b.conv("x", 32, 3))).ops
    resident = inference([ops], Streaming(), 1024, 10, table=_table())
    once = inference([ops], Streaming([1000, 500], 2, 1500), 1024, 10, table=_table())
    steps = inference([ops], Streaming([1000, 500], 2, 1500, True), 1024, 10, table=_table())
    assert resident.decrypt == 0
    assert once.decrypt == 2 * 1500
    assert steps.decrypt > once.decrypt
    assert once.compute == resident.compute == steps.compute
    assert 0 < once.error < 0.11


def test_errors_of_different_kernels_cancel_in_part_and_those_of_equal_ones_do_not() -> None:
    def told(*depths: int) -> float:
        ops = []
        for channels in depths:
            b = Builder("conv", [1, channels, 16, 16])
            ops += [op for op in lowered(b.finish(b.conv("x", 32, 3))).ops if op.kernel == "CONV2D"]
        return inference([ops], Streaming(), 0, 0, table=_table()).error

    assert told(7, 8) < told(8, 8) < told(8) * 1.05
    assert told(5, 6, 7, 8) < told(7, 8)


def test_a_table_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "constants.json"
    path.write_text(json.dumps({"version": 1}))
    monkeypatch.setenv("CLOISTER_CONSTANTS", str(path))
    with pytest.raises(FormatError, match="no table of version 2"):
        constants()


def test_a_written_table_is_read_again(tmp_path: Path) -> None:
    table = make_table(_samples(), "qemu", {"measured": "today"})
    path = tmp_path / "mine.json"
    path.write_text(table_text(table))
    assert constants(path) == table
    assert cost_of(_samples()[0].terms[0], constants(path)["kernels"]["K"]) == pytest.approx(335, rel=1e-3)


def test_the_command_explains_itself() -> None:
    from cloister.cli.calibrate import calibrate

    told = CliRunner().invoke(calibrate, ["--help"])
    assert told.exit_code == 0 and "--refit" in told.output

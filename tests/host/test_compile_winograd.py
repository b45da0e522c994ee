# SPDX-License-Identifier: BSD-2-Clause
"""The choice of WINOGRAD for 3x3 convolutions: who gets it, with how much scratch, and how exact it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx_models import build, engine, floats, kernels, node

from cloister.cli.compile import compile as compile_command
from cloister.compile import compile_onnx
from cloister.compile.memory import TA_OWN, reside
from cloister.compile.winograd import winograd_room, winograd_scratch
from cloister.ir.reference import Reference
from cloister.native import _load, find_library
from cloister.seal import VendorKey


def stack(layers: int, channels: int, size: int) -> onnx.ModelProto:
    """Residual pairs of 3x3 convolutions with ReLU, weights scaled so that the activations keep their size."""
    nodes, constants, last = [], {}, "x"
    scale = np.float32((2 / (9 * channels)) ** 0.5)
    for i in range(layers):
        constants[f"w{i}"] = floats(channels, channels, 3, 3, seed=i) * scale
        constants[f"b{i}"] = floats(channels, seed=i)
        nodes.append(node("Conv", f"{last} w{i} b{i}", f"c{i}", pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", f"c{i}", f"r{i}"))
        last = f"r{i}"
    nodes.append(node("GlobalAveragePool", last, "y"))
    return build(nodes, {"x": [1, channels, size, size]}, ["y", last], constants)


def test_the_compiler_and_the_engine_agree_about_winograds_scratch() -> None:
    ffi, lib = _load(str(find_library()))
    ffi.cdef("uint64_t cl_winograd_scratch(const struct cl_conv2d *conv, uint32_t tiles);")
    numbers = np.random.default_rng(11)
    for _ in range(300):
        fields = {
            "batch": int(numbers.integers(1, 3)), "in_c": int(numbers.integers(1, 70)),
            "out_h": int(numbers.integers(1, 40)), "out_w": int(numbers.integers(1, 40)),
        }  # fmt: skip
        tiles = int(numbers.integers(1, 100))
        record = ffi.new("struct cl_conv2d *", fields)
        assert winograd_scratch(fields, tiles) == lib.cl_winograd_scratch(record, tiles), (fields, tiles)


def test_a_deep_stack_is_computed_so_and_stays_exact() -> None:
    model = stack(18, 32, 16)
    x = {"x": floats(1, 32, 16, 16, seed=5)}
    expected = Reference(model).run(x)
    compiled = compile_onnx(model)
    assert kernels(compiled).count("WINOGRAD") == 18
    direct = compile_onnx(model, winograd=False)
    assert "WINOGRAD" not in kernels(direct)
    assert compiled.report.weight_bytes == direct.report.weight_bytes
    for name, value in engine().run(compiled, x).items():
        assert np.abs(value - expected[name]).max() <= 1e-5 * np.ptp(expected[name]), name


@pytest.mark.parametrize(
    ("weights", "attrs"),
    [
        ((32, 32, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((32, 32, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ((32, 16, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
        ((32, 32, 5, 5), {"pads": [2, 2, 2, 2]}),
        ((32, 32, 1, 1), {}),
    ],
)
def test_other_convolutions_are_left_alone(weights: tuple[int, ...], attrs: dict[str, Any]) -> None:
    model = build([node("Conv", "x w", "y", **attrs)], {"x": [1, 32, 16, 16]}, ["y"], {"w": floats(*weights)})
    assert "WINOGRAD" not in kernels(compile_onnx(model))


def test_a_tiny_convolution_is_not_worth_transformed_weights() -> None:
    model = build([node("Conv", "x w", "y")], {"x": [1, 64, 3, 3]}, ["y"], {"w": floats(64, 64, 3, 3)})
    assert kernels(compile_onnx(model)).count("CONV2D") == 1


def test_three_channels_are_computed_directly() -> None:
    weights = floats(16, 3, 3, 3)
    model = build([node("Conv", "x w", "y", pads=[1] * 4)], {"x": [1, 3, 32, 32]}, ["y"], {"w": weights})
    assert kernels(compile_onnx(model)).count("CONV2D") == 1


def test_room_counts_the_tiles_that_scratch_was_asked_for() -> None:
    fields = {"batch": 1, "in_c": 16, "out_h": 32, "out_w": 32}
    for tiles in (1, 3, 8, 16, 64):
        assert winograd_room(fields, winograd_scratch(fields, tiles)) == tiles
    assert winograd_room(fields, winograd_scratch(fields, 13)) == 8
    assert winograd_room(fields, 1 << 20) == 64


def test_bands_leave_room_for_winograd_and_hold_whole_tiles() -> None:
    nodes, constants, last = [], {}, "x"
    for i, (into, out) in enumerate(((16, 32), (32, 32))):
        constants[f"w{i}"] = floats(out, into, 3, 3, seed=i) * np.float32((2 / (9 * into)) ** 0.5)
        nodes.append(node("Conv", f"{last} w{i}", f"c{i}", pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", f"c{i}", f"r{i}"))
        last = f"r{i}"
    nodes.append(node("MaxPool", last, "p", kernel_shape=[2, 2], strides=[2, 2]))
    model = build(nodes, {"x": [1, 16, 32, 32]}, ["p"], constants)
    whole = compile_onnx(model, winograd=False)
    # Both layers' results whole would take more than this.
    budget = TA_OWN + (240 << 10)
    assert whole.arena_size + max(map(len, whole.partitions)) > budget - TA_OWN
    cut = compile_onnx(model, secure_memory=budget)
    rows = [row for row in cut.report.rows if row.kernel in ("WINOGRAD", "CONV2D")]
    assert len(rows) > 2
    assert all(row.kernel == "WINOGRAD" for row in rows)
    assert all(row.output_shape[2] % 4 in (0, 1, 3) for row in rows)
    x = {"x": floats(1, 16, 32, 32, seed=9)}
    np.testing.assert_allclose(engine().run(cut, x)["p"], engine().run(whole, x)["p"], rtol=1e-4, atol=1e-5)


def test_scratch_stays_in_the_budget() -> None:
    model = stack(4, 32, 16)
    whole = compile_onnx(model)
    roomy = compile_onnx(model, secure_memory=8 << 20)
    assert kernels(roomy).count("WINOGRAD") == 4
    for budget in (700 << 10, 600 << 10):
        tight = compile_onnx(model, secure_memory=budget)
        assert tight.arena_size + max(map(len, tight.partitions)) <= budget
        x = {"x": floats(1, 32, 16, 16, seed=3)}
        np.testing.assert_allclose(engine().run(tight, x)["y"], engine().run(whole, x)["y"], rtol=1e-4, atol=1e-5)


def test_what_decrypting_costs_decides_between_scratch_and_resident_partitions() -> None:
    model = stack(4, 32, 16)
    budget = TA_OWN + (176 << 10)
    streamed, scratch = {}, {}
    for cipher in ("aegis-128l", "chacha20-poly1305"):
        compiled = compile_onnx(model, secure_memory=budget, cipher=cipher)
        lies = reside(compiled.arena_size, [len(part) for part in compiled.partitions], 3, budget)
        assert lies is not None
        streamed[cipher] = lies.streamed
        scratch[cipher] = max(row.scratch_bytes for row in compiled.report.rows)
    assert streamed["aegis-128l"] > streamed["chacha20-poly1305"]
    assert scratch["aegis-128l"] > scratch["chacha20-poly1305"]


@pytest.mark.parametrize(("option", "kernel"), [("--winograd", "WINOGRAD"), ("--no-winograd", "CONV2D")])
def test_the_command_can_leave_winograd_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, kernel: str
) -> None:
    compiled = []

    def keep(*args: Any, **kwargs: Any) -> Any:
        compiled.append(compile_onnx(*args, **kwargs))
        return compiled[-1]

    monkeypatch.setenv("CLOISTER_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("cloister.compile.compile_onnx", keep)
    VendorKey.generate().save(tmp_path / "keys")
    onnx.save(stack(1, 16, 16), tmp_path / "m.onnx")
    told = CliRunner().invoke(compile_command, [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.clb"), option])
    assert told.exit_code == 0, told.output
    assert kernel in kernels(compiled[0])

# SPDX-License-Identifier: BSD-2-Clause
"""``cloister quantize`` and its Python form: a standard QDQ model, what it reports, and its refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import build, floats, node
from quant_models import network

import cloister
from cloister import arrays
from cloister.arrays import not_finite
from cloister.cli.main import main
from cloister.quantization import QuantizationError, quantize_model

IMAGES = np.random.default_rng(3).random((30, 1, 3, 16, 16), dtype=np.float32)


def test_the_command_writes_a_standard_model_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", IMAGES)
    options = ["--samples", str(tmp_path / "x.npy"), "-o", str(tmp_path / "q.onnx"), "--per-channel"]
    main(["quantize", str(tmp_path / "m.onnx"), *options])
    text = capsys.readouterr().out
    assert "same label" in text and "30" in text and "dB" in text
    model = onnx.load(str(tmp_path / "q.onnx"))
    onnx.checker.check_model(model)
    assert {each.domain for each in model.graph.node} == {""}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= {each.op_type for each in model.graph.node}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "q.onnx", "x.npy"]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_methods_and_report(method: str, tmp_path: Path) -> None:
    report = cloister.quantize(network(), IMAGES[:, 0], tmp_path / "q.onnx", method=method)
    assert report.samples == 30 and report.same_label >= 0.8 and report.signal_to_noise > 15
    assert 0 < report.largest_error < report.output_range and report.int8_bytes < report.fp32_bytes


def test_several_inputs_and_an_old_opset(tmp_path: Path) -> None:
    nodes = [node("Add", "a b", "s"), node("MatMul", "s w", "y")]
    model = build(nodes, {"a": [2, 8], "b": [2, 8]}, ["y"], {"w": floats(8, 5)}, opset=11)
    np.savez(tmp_path / "x.npz", a=floats(20, 2, 8), b=floats(20, 2, 8, seed=1))
    report = cloister.quantize(model, tmp_path / "x.npz", tmp_path / "q.onnx", per_channel=True)
    assert report.samples == 20 and report.signal_to_noise > 25


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (IMAGES.astype(np.float64), "dtype float64"),
        (IMAGES[:, :, :2], r"one sample of the model is \(3, 16, 16\)\n.*array of shape \(samples, 3, 16, 16\)"),
        (IMAGES[:0], "zero"),
        ({"z": IMAGES}, "the model's inputs are x"),
    ],
)
def test_samples_that_do_not_fit(samples: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize_model(network(), samples, tmp_path / "q.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("of", "says"), [("npy", "x.npy"), ("npz", "x.npz[x]"), ("array", "samples")])
def test_samples_that_are_not_finite(of: str, says: str, tmp_path: Path) -> None:
    images = IMAGES.copy()
    images[7, 0, 1, 2, 3], images[9] = np.inf, np.nan
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", x=images)
    given = images if of == "array" else tmp_path / f"x.{of}"
    with pytest.raises(QuantizationError) as refused:
        cloister.quantize(network(), given, tmp_path / "q.onnx")
    assert f"{says}: 2 of 30 samples hold NaN or infinity, the first at index 7" in refused.value.message
    assert "leave out" in refused.value.remedy and not (tmp_path / "q.onnx").exists()


def test_samples_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_AT_ONCE", 3 * 8 + 1)
    values = np.zeros((10, 2, 4), np.float32)
    assert not_finite(values, "x") == "" and not_finite(np.zeros((0, 3), np.float32), "x") == ""
    values[8, 1, 1] = -np.inf
    assert not_finite(values, "x") == "x: 1 of 10 samples holds NaN or infinity, the first at index 8"
    assert not_finite(np.array(np.nan), "x").startswith("x: 1 of 1 samples") and not_finite(np.array([1]), "x") == ""


def test_a_model_that_overflows_is_no_perfect_one(tmp_path: Path) -> None:
    model = build([node("Add", "a a", "s"), node("Relu", "s", "y")], {"a": [1, 8]}, ["y"])
    with pytest.raises(QuantizationError, match="answers the sample at index 1 with NaN or infinity"):
        cloister.quantize(model, np.array([[[1.0] * 8], [[3e38] * 8]], np.float32), tmp_path / "q.onnx")


def test_where_nothing_differs_there_is_no_noise(tmp_path: Path) -> None:
    model = build([node("Relu", "a", "s"), node("Softmax", "s", "y")], {"a": [1, 8]}, ["y"])
    report = cloister.quantize(model, np.zeros((4, 1, 8), np.float32), tmp_path / "q.onnx")
    assert report.signal_to_noise == float("inf") and report.same_label == 1


def test_other_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(QuantizationError, match="holds no samples"):
        cloister.quantize(network(), tmp_path / "x.npy", tmp_path / "q.onnx")
    with pytest.raises(QuantizationError, match="unknown method"):
        cloister.quantize(network(), IMAGES, tmp_path / "q.onnx", method="guess")
    cloister.quantize(network(), IMAGES, tmp_path / "q.onnx")
    with pytest.raises(QuantizationError, match="quantised already"):
        cloister.quantize(tmp_path / "q.onnx", IMAGES, tmp_path / "r.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(QuantizationError, match=r"pip install cloister\[quantize\]"):
        cloister.quantize(network(), IMAGES, tmp_path / "r.onnx")

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
        (IMAGES[:, :, :2], "one sample of the model is"),
        (IMAGES[:0], "zero"),
        ({"z": IMAGES}, "the model's inputs are x"),
    ],
)
def test_samples_that_do_not_fit(samples: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize_model(network(), samples, tmp_path / "q.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


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

# SPDX-License-Identifier: BSD-2-Clause
"""Whole networks quantised by onnxruntime: mostly 8-bit kernels, and onnxruntime's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx_models import build, engine, floats, node
from quant_models import (
    ALL,
    OFF,
    Builder,
    assert_within_a_step,
    kernels,
    network,
    quantised_network,
    reference,
    weights,
)

from cloister.compile import compile_onnx
from cloister.compile.survey import survey


def output_scale(model: onnx.ModelProto) -> float:
    """Scale of the DequantizeLinear that makes the model's output."""
    made = next(each for each in model.graph.node if model.graph.output[0].name in each.output)
    assert made.op_type == "DequantizeLinear"
    scale = next(each for each in model.graph.initializer if each.name == made.input[1])
    return float(numpy_helper.to_array(scale).reshape(-1)[0])


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("level", [OFF, ALL])
def test_a_network_answers_as_onnxruntime_does(unsigned: bool, per_channel: bool, level: Any, tmp_path: Path) -> None:
    model, images = quantised_network(tmp_path / "q.onnx", unsigned, per_channel)
    compiled = compile_onnx(model)
    found = kernels(compiled)
    assert not {"CONV2D", "DEPTHWISE", "GEMM", "BINARY", "POOL", "REDUCE", "UNARY"} & set(found)
    assert found.count("CONV2D_S8") == 3 and found.count("DEPTHWISE_S8") == 1
    scale, worst = output_scale(model), 0.0
    for image in images:
        got = engine().run(compiled, image[None])["y"]
        wanted = reference(model, {"x": image[None]}, level)["y"]
        worst = max(worst, float(np.abs(got - wanted).max() / scale))
        best = wanted[0].argsort()[::-1]
        # A label may differ only where onnxruntime's own two best are as close as the rounding.
        assert got.argmax() == best[0] or wanted[0, best[0]] - wanted[0, best[1]] <= 2.5 * scale
    assert worst <= 2.5, worst


def test_it_is_close_to_the_fp32_network(tmp_path: Path) -> None:
    model, images = quantised_network(tmp_path / "q.onnx", False, True)
    compiled, exact = compile_onnx(model), compile_onnx(network())
    same = [
        engine().run(compiled, image[None])["y"].argmax() == engine().run(exact, image[None])["y"].argmax()
        for image in images
    ]
    assert np.mean(same) >= 0.9
    assert sum(map(len, compiled.partitions)) < 0.5 * sum(map(len, exact.partitions))


def test_an_unsigned_tensor_enters_and_leaves_as_the_model_says() -> None:
    b = Builder(np.uint8)
    x = b.input("x", (1, 3, 8, 8), (0.03, 5))
    b.quantize(b.add("Conv", f"{x} {b.constant('w', weights(5, 3, 3, 3), (0.01, 0))}", "v"), (0.05, -11))
    compiled = assert_within_a_step(b.model(), b.data())
    assert [info.numpy_dtype for info in (*compiled.inputs, *compiled.outputs)] == [np.uint8, np.uint8]


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23])
def test_opsets(opset: int) -> None:
    b = Builder()
    x = b.input("x", (4, 20), (0.03, 5))
    w = b.constant("w", weights(20, 6), (0.01, 0))
    if opset < 13:
        for each in b.nodes:
            del each.attribute[:]
    b.quantize(b.add("MatMul", f"{x} {w}", "v"), (0.1, 1))
    assert kernels(assert_within_a_step(b.model(opset=opset), b.data())) == ["GEMM_S8"]


def test_weights_behind_a_transposition_stay_integers() -> None:
    b = Builder()
    x = b.input("x", (4, 20), (0.03, 5))
    b.constant("w", weights(6, 20), (np.linspace(0.01, 0.02, 6), np.zeros(6)), axis=0)
    b.quantize(b.add("MatMul", f"{x} {b.add('Transpose', 'w_f', 't', perm=[1, 0])}", "v"), (0.1, 1))
    assert kernels(assert_within_a_step(b.model(), b.data(), [OFF])) == ["GEMM_S8"]


def test_weights_quantised_in_the_graph_become_integers() -> None:
    b = Builder()
    x = b.input("x", (4, 20), (0.03, 5))
    b.constants["w"] = floats(20, 6)
    w = b.dequantize(b.quantize("w", (0.02, 0), "q"), (0.02, 0))
    b.quantize(b.add("MatMul", f"{x} {w}", "v"), (0.1, 1))
    assert kernels(assert_within_a_step(b.model(), b.data(), [OFF])) == ["GEMM_S8"]


def test_operators_without_an_8_bit_kernel_run_in_float_between() -> None:
    b = Builder()
    x = b.input("x", (2, 12), (0.05, 5))
    v = b.dequantize(b.quantize(b.add("Softmax", x, "s", axis=1), (1 / 256, -128), "q"), (1 / 256, -128))
    b.quantize(b.add("MatMul", f"{v} {b.constant('w', weights(12, 6), (0.01, 0))}", "v"), (0.01, 1))
    compiled = assert_within_a_step(b.model(), b.data(), [OFF])
    assert kernels(compiled) == ["DEQUANTIZE", "SOFTMAX", "QUANTIZE", "GEMM_S8"]


def test_large_products_are_cut_by_columns_and_answer_the_same() -> None:
    b = Builder()
    x = b.input("x", (1, 8, 6, 6), (0.03, 5))
    w = b.constant("w", weights(50, 8, 3, 3), (0.01, 0))
    v = b.dequantize(b.quantize(b.add("Conv", f"{x} {w}", "v"), (0.09, -11), "q"), (0.09, -11))
    f = b.add("Flatten", v, "f")
    b.quantize(b.add("MatMul", f"{f} {b.constant('m', weights(800, 61), (0.01, 0))}", "n"), (0.9, 2))
    model = b.model()
    whole, cut = compile_onnx(model), compile_onnx(model, max_partition=20_000)
    assert len(cut.partitions) > 3 and max(map(len, cut.partitions)) <= 20_000
    results = [engine().run(compiled, b.data())["y"] for compiled in (whole, cut)]
    np.testing.assert_array_equal(*results)
    assert np.abs(results[0].astype(int) - reference(model, b.data())["y"].astype(int)).max() <= 1


def test_a_scale_of_run_time_is_refused_with_its_reason() -> None:
    model = build(
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
        {"x": [4], "s": []}, ["y"], {"z": np.array(0, np.int8)}, types={"y": TensorProto.FLOAT},
    )  # fmt: skip
    with pytest.raises(Exception, match=r"scale.*must be constant"):
        compile_onnx(model)


def test_a_survey_counts_the_8_bit_operators(tmp_path: Path) -> None:
    model, _ = quantised_network(tmp_path / "q.onnx", False, True)
    found = survey(model)
    rows = {row.operator: row for row in found.operators}
    assert not found.problems and rows["int8::Conv"].count == 4 and rows["int8::Gemm"].macs == 320
    assert found.macs == survey(network()).macs

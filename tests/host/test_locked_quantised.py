# SPDX-License-Identifier: BSD-2-Clause
"""Locked models in 8 bits: with the password they are the owner's model in 8 bits, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from lock_models import apply_s8
from test_password import lock
from test_password import model as small

from cloister.cli.main import cloister
from cloister.compile import compile_onnx
from cloister.locked_quantised import quantize_locked
from cloister.password import Password, PasswordError
from cloister.quantization import quantize_model

RANDOM = np.random.default_rng(8)
SAMPLES = RANDOM.normal(size=(64, 2, 4, 4)).astype(np.float32)
TURNED = Password("m", [lock("c", [0, 2, 5], [-1, 1, -1], [0.5, 0.25, -0.3]), lock("g", [1], [-1], [2.0])])


def model(transposed: int = 1) -> onnx.ModelProto:
    """The other tests' model and one more layer: at the end the quantiser would take the ReLU away, and "g" with it."""
    made = small(transposed=transposed, beta=1.0)
    last = onnx.numpy_helper.from_array(RANDOM.normal(size=(3, 4)).astype(np.float32), "last")
    made.graph.initializer.append(last)
    made.graph.node.append(onnx.helper.make_node("Gemm", ["y", "last"], ["z"], transB=1))
    del made.graph.output[:]
    made.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 3]))
    return made


def answers(path: Path | onnx.ModelProto) -> np.ndarray:
    data = str(path) if isinstance(path, Path) else path.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": x[None]})[0] for x in SAMPLES])


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("transposed", [0, 1])
def test_with_the_password_it_is_the_owners_model_in_8_bits(tmp_path: Path, per_channel: bool, transposed: int) -> None:
    locked = model(transposed)
    report = quantize_locked(locked, TURNED, SAMPLES, tmp_path / "locked8.onnx", per_channel=per_channel)
    quantize_model(TURNED.apply(locked), SAMPLES, tmp_path / "owner8.onnx", per_channel=per_channel)
    owner = answers(tmp_path / "owner8.onnx")
    if transposed:  # the helper of the other tests knows rows of output channels only
        assert np.array_equal(answers(apply_s8_any(onnx.load(tmp_path / "locked8.onnx"), TURNED)), owner)
    assert report.samples == 64
    assert compile_onnx(tmp_path / "locked8.onnx", password=TURNED).partitions
    alone = answers(tmp_path / "locked8.onnx")
    assert np.abs(alone - owner).max() > 0.2 * np.abs(owner).max()
    plain = onnxruntime.InferenceSession(locked.SerializeToString(), providers=["CPUExecutionProvider"])
    fp32 = np.concatenate([plain.run(None, {"x": x[None]})[0] for x in SAMPLES])
    assert np.corrcoef(alone.ravel(), fp32.ravel())[0, 1] > 0.8, "without it, the locked model in 8 bits"


def apply_s8_any(quantised: onnx.ModelProto, password: Password) -> onnx.ModelProto:
    """The shared helper, for weights that share one scale too."""
    for node in quantised.graph.node:
        if node.op_type == "DequantizeLinear":
            scale = next((entry for entry in quantised.graph.initializer if entry.name == node.input[1]), None)
            layer = next((one for one in quantised.graph.node if node.output[0] in one.input[1:3]), None)
            if scale is not None and not scale.dims and layer is not None:
                rows = next(entry for entry in quantised.graph.initializer if entry.name == node.input[0]).dims[0]
                value = onnx.numpy_helper.to_array(scale)
                scale.CopyFrom(onnx.numpy_helper.from_array(np.full(rows, value), scale.name))
                zero = next(entry for entry in quantised.graph.initializer if entry.name == node.input[2])
                kind = onnx.numpy_helper.to_array(zero).dtype
                zero.CopyFrom(onnx.numpy_helper.from_array(np.zeros(rows, kind), zero.name))
                del node.attribute[:]
                node.attribute.append(onnx.helper.make_attribute("axis", 0))
    return apply_s8(quantised, password)


def test_constants_and_other_scales(tmp_path: Path) -> None:
    password = Password("m", [lock("c", [0, 3, 4], [0, 0.5, -2], [0.7, 0.25, -0.3]), lock("g", [2], [0], [1.5])])
    locked = model()
    quantize_locked(locked, password, SAMPLES, tmp_path / "locked8.onnx", per_channel=True)
    opened = answers(apply_s8(onnx.load(tmp_path / "locked8.onnx"), password))
    owner = onnxruntime.InferenceSession(password.apply(locked).SerializeToString())
    expected = np.concatenate([owner.run(None, {"x": x[None]})[0] for x in SAMPLES])
    assert np.abs(opened - expected).max() < 0.05 * np.abs(expected).max()
    weights = {
        entry.name: onnx.numpy_helper.to_array(entry)
        for entry in onnx.load(tmp_path / "locked8.onnx").graph.initializer
    }
    eight = next(value for value in weights.values() if value.dtype == np.int8 and value.ndim == 4)
    assert np.abs(eight[0]).max() == 127, "a constant channel keeps its weights"
    with pytest.raises(PasswordError, match="per-channel"):
        quantize_locked(locked, password, SAMPLES, tmp_path / "no.onnx")


def test_the_command_takes_the_password(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "locked.onnx")
    TURNED.write(tmp_path / "p.pwd")
    np.save(tmp_path / "x.npy", SAMPLES)
    arguments = ["quantize", str(tmp_path / "locked.onnx"), "--samples", str(tmp_path / "x.npy"), "--per-channel"]
    arguments += ["--password", str(tmp_path / "p.pwd"), "-o", str(tmp_path / "q.onnx")]
    result = CliRunner().invoke(cloister, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    opened = answers(apply_s8(onnx.load(tmp_path / "q.onnx"), TURNED))
    assert np.isfinite(opened).all() and not np.array_equal(opened, answers(tmp_path / "q.onnx"))

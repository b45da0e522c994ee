# SPDX-License-Identifier: BSD-2-Clause
"""A quantised network in the TA: bit for bit what the native build of the engine computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import cloister
from cloister.api import compile as compile_model
from cloister.api import licence as issue
from cloister.compile import compile_onnx
from cloister.demo.data import MODEL, digits
from cloister.device import Device
from cloister.native import NativeEngine
from cloister.seal import VendorKey
from cloister.seal.keys import default_key_dir


@pytest.fixture(scope="module", params=[False, True], ids=["per tensor", "per channel"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "digits_int8.onnx"
    images, _, _, _ = digits()
    cloister.quantize(MODEL, images[:200], path, per_channel=request.param)
    return path


@pytest.mark.parametrize("memory", [0, 60_000], ids=["whole", "streamed"])
def test_the_ta_and_the_native_engine_agree_in_every_bit(device: Device, model: Path, memory: int) -> None:
    VendorKey.load(default_key_dir())
    _, _, images, labels = digits()
    chosen = images[:12]
    bundle = compile_model(model, name=f"digits-int8-{memory}", max_partition=30_000)
    compiled, engine = compile_onnx(onnx.load(str(model))), NativeEngine()
    assert "CONV2D_S8" in {row.kernel for row in compiled.report.rows}
    with device.load(bundle, issue(bundle, device.public_key(), output="full"), memory=memory) as session:
        answers = session.run(chosen, "full")
    assert answers.outputs is not None
    (outputs,) = answers.outputs.values()
    (native,) = zip(*(engine.run(compiled, image[None]).values() for image in chosen), strict=True)
    np.testing.assert_array_equal(
        np.asarray(outputs).reshape(len(chosen), -1), np.asarray(native).reshape(len(chosen), -1)
    )
    assert np.mean(np.asarray(answers.labels) == labels[: len(chosen)]) >= 0.9

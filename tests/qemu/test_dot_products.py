# SPDX-License-Identifier: BSD-2-Clause
"""Dot products in the TA: used where the CPU has them, with the same bits; a lie about the CPU costs one session."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ta_driver import TARGET_DEAD, Sample, Ta

import cloister
from cloister.api import compile as compile_model
from cloister.api import licence as issue
from cloister.compile import CompiledModel, compile_onnx
from cloister.demo.data import MODEL, digits
from cloister.device import Device
from cloister.device.qemu import start_device
from cloister.native import NativeEngine
from cloister.seal import VendorKey, seal_bundle
from cloister.seal.keys import default_key_dir
from cloister.teec.params import Value
from cloister.wire import C
from cloister_qemu.files import InstanceFiles

#: It has dot products, and the firmware starts on it.
CPU = "cortex-a76"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "digits_int8.onnx"
    images, _, _, _ = digits()
    cloister.quantize(MODEL, images[:200], path, per_channel=True)
    return path


@pytest.fixture(scope="module")
def native(model: Path) -> tuple[CompiledModel, Any]:
    """The compiled model, and the native engine's answer to the first test image."""
    compiled = compile_onnx(onnx.load(str(model)))
    _, _, images, _ = digits()
    (outputs,) = NativeEngine().run(compiled, images[0][None]).values()
    return compiled, outputs


def test_a_cpu_with_dot_products_gives_the_same_bits(model: Path, native: tuple[CompiledModel, Any]) -> None:
    name = f"pytest-dot-{os.getpid()}"
    VendorKey.load(default_key_dir())
    _, _, images, _ = digits()
    bundle = compile_model(model, name="digits-int8-dot")
    try:
        with start_device(name, cpu=CPU) as device:
            assert "asimddp" in device.run("grep -m1 Features /proc/cpuinfo").stdout.decode().split()
            with device.load(bundle, issue(bundle, device.public_key(), output="full")) as session:
                answers = session.run(images[:1], "full")
            device.check()
    finally:
        shutil.rmtree(InstanceFiles(name).directory, ignore_errors=True)
    assert answers.outputs is not None
    (outputs,) = answers.outputs.values()
    np.testing.assert_array_equal(np.asarray(outputs).reshape(-1), np.asarray(native[1]).reshape(-1))


def test_a_false_claim_ends_one_session_and_no_other(device: Device, native: tuple[CompiledModel, Any]) -> None:
    """The default CPU, an A53, has no dot products; that the session dies shows that the TA uses them."""
    compiled, wanted = native
    vendor, key = VendorKey.load(default_key_dir()), device.public_key()
    bundle, content_key = seal_bundle(compiled, vendor, name=f"dot {os.urandom(8).hex()}")
    sample = Sample(vendor, key, bundle, content_key)
    _, _, images, _ = digits()
    request = {"data": images[0].tobytes(), "size": wanted.nbytes}
    with Ta(device) as honest, Ta(device) as liar:
        honest.load(sample)
        manifest, licence, out, _ = liar.load_params(bundle.manifest, sample.licence())
        liar.invoke(C.CL_CMD_LOAD, manifest, licence, out, Value(0, C.CL_CPU_DOTPROD, "inout"))
        with device.expect_ta_panic() as lines:
            assert liar.run_code(bundle.payload, **request) == TARGET_DEAD
        assert lines
        assert honest.run(bundle.payload, **request)[0] == wanted.tobytes()

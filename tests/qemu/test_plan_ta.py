# SPDX-License-Identifier: BSD-2-Clause
"""A model whose layers and activations are both larger than its memory, in the TA; and the plan held against the TA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cloister
from cloister.compile import compile_onnx
from cloister.compile.memory import TA_OWN
from cloister.device import Device
from cloister.estimate.plan import plan_model
from cloister.ir.reference import Reference
from cloister.seal import Bundle, Licence
from cloister.teec import TeecError

SIZE = 64
BUDGET = TA_OWN + (640 << 10)


def network() -> onnx.ModelProto:
    """Activations of 768 KiB between layers of up to 256 KiB of weights, then a dense layer."""
    numbers = np.random.default_rng(5)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(*shape: int) -> str:
        values = numbers.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        constants.append(numpy_helper.from_array(values, f"c{len(constants)}"))
        return constants[-1].name

    def add(op: str, *inputs: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [f"t{len(nodes)}"], **attrs))
        return str(nodes[-1].output[0])

    def conv(x: str, into: int, out: int) -> str:
        return add("Relu", add("Conv", x, constant(out, into, 3, 3), pads=[1] * 4))

    x = conv(conv("x", 3, 48), 48, 48)
    x = add("Add", conv(x, 48, 48), x)
    x = add("MaxPool", x, kernel_shape=[3, 3], strides=[4, 4], pads=[1] * 4)
    x = add("Flatten", conv(x, 48, 16))
    x = add("Gemm", x, constant(100, 16 * (SIZE // 4) ** 2), transB=1)
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 100])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return network()


@pytest.fixture(scope="module")
def sealed(model: onnx.ModelProto, device: Device) -> tuple[Bundle, Licence]:
    bundle = cloister.compile(model, name="wide", secure_memory=BUDGET)
    return bundle, cloister.licence(bundle, device.public_key(), output="full")


@pytest.fixture(scope="module")
def inputs() -> np.ndarray[Any, Any]:
    return np.random.default_rng(6).standard_normal((1, 3, SIZE, SIZE), np.float32)


def test_the_network_is_cut_in_every_way(model: onnx.ModelProto) -> None:
    whole = compile_onnx(model)
    planned = plan_model(model, BUDGET)
    assert planned.regions > 0
    assert whole.arena_size > BUDGET
    assert max(len(part) for part in whole.partitions) > planned.largest
    assert planned.weights > BUDGET


@pytest.mark.parametrize("more", [0, 256 << 10, 1 << 20, 8 << 20])
def test_the_ta_takes_what_was_planned_and_answers_right(
    model: onnx.ModelProto, sealed: tuple[Bundle, Licence], inputs: Any, device: Device, more: int
) -> None:
    planned = plan_model(model, BUDGET + more, compiled_for=BUDGET)
    (expected,) = Reference(model).run({"x": inputs}).values()
    with device.load(*sealed, memory=BUDGET + more - TA_OWN) as session:
        assert session.resident_count == planned.resident
        assert session.partition_count == planned.partitions
        answers = session.run(inputs, output="full")
        before = session.usage().bytes_decrypted
        again = session.run(inputs, output="full")
        usage = session.usage()
        assert usage.peak_bytes == planned.loaded
        assert usage.bytes_decrypted - before == planned.streamed
        assert answers.outputs is not None and again.outputs is not None
        (got,), (repeated,) = answers.outputs.values(), again.outputs.values()
        assert abs(got - expected).max() <= 1e-4 * np.ptp(expected)
        assert got.tobytes() == repeated.tobytes()


def test_partitions_come_one_by_one_from_a_file(sealed: tuple[Bundle, Licence], inputs: Any, device: Device) -> None:
    outputs = []
    for mode in ("whole", "steps"):
        with device.load(*sealed, memory=BUDGET - TA_OWN, mode=mode) as session:
            for _ in range(2):
                answers = session.run(inputs, output="full")
                assert answers.mode == mode
                assert answers.outputs is not None
                outputs += [value.tobytes() for value in answers.outputs.values()]
    assert len(set(outputs)) == 1


def test_less_than_the_smallest_budget_is_refused(
    sealed: tuple[Bundle, Licence], model: onnx.ModelProto, device: Device
) -> None:
    compiled = plan_model(model, BUDGET)
    least = compiled.used - compiled.resident_bytes - TA_OWN
    with pytest.raises(TeecError) as caught:
        device.load(*sealed, memory=least - (64 << 10))
    assert caught.value.name == "OUT_OF_MEMORY"


def test_the_tas_own_pages_are_what_the_plan_reserves() -> None:
    import json
    import os

    from cloister.compile.inspect_ta import inspect_ta
    from cloister.device.ta import CLOISTER_TA

    index = os.environ.get("CLOISTER_FIRMWARE") or Path(__file__).resolve().parents[2] / "out/firmware/qemu.json"
    path = json.loads(Path(index).read_text())["ta"][str(CLOISTER_TA)]
    assert inspect_ta(Path(path)).memory_size <= TA_OWN

# SPDX-License-Identifier: BSD-2-Clause
"""Small models that are cut in every further way, in the TA: samples of a batch, steps of a signal, rows of Resize,
rows of a matrix, and groups of a convolution whose weights exceed a partition."""

from __future__ import annotations

from collections.abc import Callable
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


class Net:
    """A model that grows node by node."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.numbers = np.random.default_rng(9)

    def constant(self, values: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def weights(self, *shape: int) -> str:
        fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        return self.constant(self.numbers.standard_normal(shape) * np.sqrt(2 / fan_in))

    def add(self, op: str, *inputs: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [f"t{len(self.nodes)}"], **attrs))
        return str(self.nodes[-1].output[0])

    def model(self) -> onnx.ModelProto:
        result = helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)]
        graph = helper.make_graph(self.nodes, "cut", inputs, [result], self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made, data_prop=True)


def batch() -> onnx.ModelProto:
    """Three images, enlarged and computed in groups of 36 KiB of weights each."""
    net = Net(3, 8, 24, 24)
    x = net.add("Relu", net.add("Conv", "x", net.weights(32, 8, 3, 3), pads=[1] * 4))
    x = net.add("Resize", x, "", net.constant([1, 1, 2, 2]), mode="linear")
    x = net.add("Relu", net.add("Conv", x, net.weights(64, 16, 3, 3), group=2, pads=[1] * 4, strides=[2, 2]))
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    net.add("Gemm", x, net.weights(64, 10))
    return net.model()


def signal() -> onnx.ModelProto:
    """A signal of 4,000 steps."""
    net = Net(1, 2, 4000)
    x = net.add("Relu", net.add("Conv", "x", net.weights(24, 2, 9), pads=[4, 4]))
    x = net.add("Add", net.add("Conv", x, net.weights(24, 24, 5), dilations=[3], pads=[6, 6]), x)
    net.add("MaxPool", net.add("Conv", x, net.weights(8, 24, 4), strides=[4]), kernel_shape=[8], strides=[8])
    return net.model()


def sequence() -> onnx.ModelProto:
    """The wide inner layer of a transformer, for 256 steps."""
    net = Net(1, 256, 32)
    x = net.add("Tanh", net.add("MatMul", "x", net.weights(32, 512)))
    net.add("Softmax", net.add("MatMul", x, net.weights(512, 32)), axis=-1)
    return net.model()


#: Bytes behind the TA's own pages, and of a partition.
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], int, int | None]] = {
    "batch": (batch, 400 << 10, 24 << 10),
    "signal": (signal, 300 << 10, None),
    "sequence": (sequence, 300 << 10, None),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_cut_fits_and_answers_right(name: str, device: Device) -> None:
    make, memory, most = CASES[name]
    model = make()
    whole = compile_onnx(model)
    planned = plan_model(model, TA_OWN + memory, max_partition=most)
    assert planned.fits and planned.regions > 0
    assert whole.arena_size > memory
    if name == "batch":
        cut = compile_onnx(model, secure_memory=TA_OWN + memory, max_partition=most)
        # Groups apart, and samples cut by rows.
        assert any(row.kernel == "CONV2D" and row.output_shape[:2] == (1, 32) for row in cut.report.rows)
        assert all(row.output_shape[0] == 1 for row in cut.report.rows if row.kernel == "RESAMPLE")
    bundle = cloister.compile(model, name=f"cut-{name}", secure_memory=TA_OWN + memory, max_partition=most)
    licence = cloister.licence(bundle, device.public_key(), output="full")
    x = np.random.default_rng(3).standard_normal(whole.inputs[0].shape, np.float32)
    (expected,) = Reference(model).run({"x": x}).values()
    with device.load(bundle, licence, memory=memory) as session:
        answers = session.run(x, output="full")
        usage = session.usage()
    assert usage.peak_bytes == planned.loaded <= memory
    assert answers.outputs is not None
    (got,) = answers.outputs.values()
    assert got.shape == expected.shape
    assert abs(got - expected).max() <= 1e-4 * np.ptp(expected)

# SPDX-License-Identifier: BSD-2-Clause
"""Budgets below the activations of batches, signals, images that are resized, and sequences: met bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import build, engine, floats, node
from test_stripes import Chain

from cloister.compile import compile_onnx
from cloister.compile.memory import TA_OWN, least_memory


def batch() -> onnx.ModelProto:
    """Six images: samples are computed one after the other, each in bands of its own rows."""
    chain = Chain(1, 4, 40, 40, batch=6)
    for piece in ("conv", "conv", "residual", "skip", "max"):
        chain.grow(piece)
    chain.value = chain.conv(chain.value, 8)
    chain.shape = (8, *chain.shape[1:])
    mean = chain.add("GlobalAveragePool", chain.value)
    chain.value = chain.add("Gemm", f"{chain.add('Flatten', mean)} {chain.constant(8, 5)} {chain.constant(5)}")
    return chain.model()


def signal() -> onnx.ModelProto:
    """A signal of 3,000 steps through dilated and strided convolutions, pooling and a residual."""
    numbers = {name: floats(*shape) * np.float32(0.2) for name, shape in {
        "a": (16, 2, 9), "b": (16, 16, 5), "c": (16, 1, 3), "d": (24, 16, 4), "e": (24,),
    }.items()}  # fmt: skip
    nodes = [
        node("Conv", "x a", "1", pads=[4, 4]), node("Relu", "1", "2"),
        node("Conv", "2 b", "3", dilations=[2], pads=[4, 4]), node("Add", "3 2", "4"),
        node("Conv", "4 c", "5", group=16, pads=[1, 1]), node("MaxPool", "5", "6", kernel_shape=[4], strides=[2]),
        node("Conv", "6 d e", "7", strides=[3], pads=[0, 2]), node("Tanh", "7", "y"),
    ]  # fmt: skip
    return build(nodes, {"x": [1, 2, 3000]}, ["y"], numbers)


def resized() -> onnx.ModelProto:
    """Down and up again with a skip connection, as segmentation networks are."""
    chain = Chain(2, 4, 48, 48)
    for piece in ("conv", "conv"):
        chain.grow(piece)
    skip, channels = chain.value, chain.shape[0]
    chain.grow("strided")
    chain.grow("conv")
    for _ in range(2):
        chain.value = chain.conv(chain.value, channels)
        chain.shape = (channels, *chain.shape[1:])
    chain.resize("linear", 2.0)
    chain.value = chain.add("Add", f"{chain.value} {skip}")
    chain.value = chain.conv(chain.value, 2)
    chain.shape = (2, *chain.shape[1:])
    return chain.model()


def sequence() -> onnx.ModelProto:
    """The wide inner layer of a transformer, for 256 steps."""
    constants = {"a": floats(32, 512) * np.float32(0.1), "b": floats(512), "c": floats(512, 32), "d": floats(32)}
    nodes = [
        node("MatMul", "x a", "1"), node("Add", "1 b", "2"), node("Sigmoid", "2", "3"), node("Mul", "2 3", "4"),
        node("MatMul", "4 c", "5"), node("Add", "5 d", "6"), node("Softmax", "6", "y", axis=-1),
    ]  # fmt: skip
    return build(nodes, {"x": [1, 256, 32]}, ["y"], constants)


#: Budgets behind the TA's own pages. The batch needs less than one sample's activations.
CASES = {"batch": (batch, 330), "signal": (signal, 200), "resized": (resized, 280), "sequence": (sequence, 290)}


@pytest.mark.parametrize("name", CASES)
def test_a_budget_below_the_activations_is_met_bit_by_bit(name: str) -> None:
    make, kib = CASES[name]
    model = make()
    budget = TA_OWN + (kib << 10)
    whole = compile_onnx(model, winograd=False)
    small = compile_onnx(model, secure_memory=budget, winograd=False)
    sizes = [len(part) for part in small.partitions]
    assert least_memory(small.arena_size, sizes, 2) <= budget
    assert small.arena_size < 0.8 * whole.arena_size
    x = floats(*whole.inputs[0].shape)
    found: dict[str, Any] = engine().run(small, x)
    for output, value in engine().run(whole, x).items():
        assert value.tobytes() == found[output].tobytes()

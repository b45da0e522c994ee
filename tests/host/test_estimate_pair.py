# SPDX-License-Identifier: BSD-2-Clause
"""Predictions for pairs: they add up, follow what is asked, and say what they do not know."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloister.compile.arrange import MemoryBudgetError
from cloister.estimate.pair import predict


def network(
    inputs: dict[str, tuple[int, ...]], layers: list[tuple[str, str, int, int]], outputs: list[str]
) -> onnx.ModelProto:
    """3x3 convolutions with ReLU as (input, output, channels in, channels out); images stay 16 x 16."""
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for source, name, channels, wanted in layers:
        values = random.normal(0, 0.1, (wanted, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"{name}.weight"))
        nodes.append(helper.make_node("Conv", [source, f"{name}.weight"], [f"{name}.out"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"{name}.out"], [name]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )


IMAGE = {"image": (1, 3, 16, 16)}
VICTIM = network(IMAGE, [("image", "a", 3, 16), ("a", "b", 16, 16), ("b", "c", 16, 10)], ["c"])
BACKBONE = network(IMAGE, [("image", "tap_0", 3, 16), ("tap_0", "tap_1", 16, 8)], ["tap_0", "tap_1"])
CPM = network({"tap_0": (1, 16, 16, 16), "tap_1": (1, 8, 16, 16)}, [("tap_0", "d", 16, 8), ("tap_1", "e", 8, 8)], ["d"])
TAPS = (16 + 8) * 16 * 16 * 4


def test_a_pair_costs_what_its_parts_cost() -> None:
    found = predict(VICTIM, CPM, BACKBONE)
    assert found.normal_world == pytest.approx(predict(BACKBONE, CPM).unprotected)
    assert found.total == found.normal_world + found.secure_world + found.boundary
    assert found.overhead == pytest.approx(found.total / found.unprotected - 1)
    assert found.bytes_in == TAPS
    assert 0 < found.error < 0.5


def test_a_whole_model_in_the_ta_has_no_backbone() -> None:
    found = predict(VICTIM, VICTIM)
    assert found.normal_world == 0
    assert found.secure_world == pytest.approx(found.unprotected)
    assert found.overhead == pytest.approx(found.boundary / found.unprotected)


def test_taps_on_their_own_cost_an_invocation_each() -> None:
    together, apart = predict(VICTIM, CPM, BACKBONE), predict(VICTIM, CPM, BACKBONE, staged=True)
    assert (together.crossings, apart.crossings) == (1, 2)
    assert apart.boundary > together.boundary + 10_000
    assert apart.bytes_in == together.bytes_in


def test_less_secure_memory_costs_decryption() -> None:
    wide = network(IMAGE, [("image", "a", 3, 64), *(("a", f"b{i}", 64, 64) for i in range(3))], ["b0", "b1", "b2"])
    ample = predict(wide, wide)
    with pytest.raises(MemoryBudgetError) as refused:
        predict(wide, wide, budget=1 << 16)
    tight = predict(wide, wide, budget=refused.value.smallest)
    assert tight.secure_memory <= refused.value.smallest < ample.secure_memory
    assert tight.secure_world > ample.secure_world


def test_what_was_not_measured_is_told() -> None:
    from cloister.estimate.instructions import constants

    table = constants()
    known = predict(VICTIM, CPM, BACKBONE)
    assert known.extrapolated < 0.5
    kinds = {kind: value for kind, value in table["kernels"].items() if kind not in ("WINOGRAD", "CONV2D rows")}
    found = predict(VICTIM, CPM, BACKBONE, table={**table, "kernels": kinds})
    assert {part.kind for part in found.extrapolations} >= {"CONV2D rows"}
    assert found.extrapolated > known.extrapolated
    assert found.error > known.error

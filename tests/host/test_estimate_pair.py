# SPDX-License-Identifier: BSD-2-Clause
"""Predictions for pairs: they add up, follow what is asked, and say what they do not know."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cloister.compile.arrange import MemoryBudgetError
from cloister.compile.pair import arrange_pair
from cloister.estimate.instructions import constants, kernel_instructions
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
    parts = arrange_pair(CPM, BACKBONE).backbone_arrangement.parts
    kernels = sum(kernel_instructions(op) for part in parts for op in part)
    # beyond the kernels there are copies of the image and of the taps
    assert kernels < found.normal_world < kernels + 0.2 * TAPS
    assert found.total == found.normal_world + found.secure_world + found.boundary
    assert found.overhead == pytest.approx(found.total / found.unprotected - 1)
    assert found.bytes_in == TAPS
    assert 0 < found.error < 0.5
    assert found.secure_memory > found.loaded > TAPS


def test_what_the_monitor_does_not_read_is_not_run() -> None:
    layers = [("image", "tap_0", 3, 16), ("tap_0", "tap_1", 16, 8)]
    longer = network(IMAGE, [*layers, ("tap_1", "logits", 8, 64)], ["logits", "tap_0", "tap_1"])
    assert predict(VICTIM, CPM, longer).normal_world == predict(VICTIM, CPM, BACKBONE).normal_world


def test_a_whole_model_in_the_ta_has_no_backbone() -> None:
    found = predict(VICTIM, VICTIM)
    assert found.normal_world == 0
    # in the TA a kernel costs a little more than in the normal world
    assert found.unprotected < found.secure_world < 1.05 * found.unprotected
    assert found.overhead == pytest.approx((found.secure_world + found.boundary) / found.unprotected - 1)


def test_entering_costs_by_the_byte_not_by_what_is_computed() -> None:
    wide = network({"tap_0": (1, 16, 16, 16), "tap_1": (1, 8, 16, 16)},
                   [("tap_0", "d", 16, 64), ("tap_1", "e", 8, 8)], ["d"])  # fmt: skip
    small, large = predict(VICTIM, CPM, BACKBONE), predict(VICTIM, wide, BACKBONE)
    assert large.secure_world > small.secure_world
    # the answer has more values among which the label is sought
    assert large.boundary - small.boundary == pytest.approx(17 * 56 * 256, rel=0.3)


def test_taps_on_their_own_cost_an_invocation_each() -> None:
    together, apart = predict(VICTIM, CPM, BACKBONE), predict(VICTIM, CPM, BACKBONE, staged=True)
    assert (together.crossings, apart.crossings) == (1, 2)
    assert "FEED" not in {part.kind for part in apart.extrapolations}, "what it takes was measured"
    assert apart.boundary > together.boundary + 10_000
    assert apart.bytes_in == together.bytes_in


def test_taps_that_are_ready_together_cross_together() -> None:
    layers = [("image", "tap_0", 3, 16), ("image", "tap_1", 3, 8)]
    found = predict(VICTIM, CPM, network({**IMAGE}, layers, ["tap_0", "tap_1"]), staged=True)
    assert found.crossings == 2
    with_image = network(
        {"image": (1, 3, 16, 16), "tap_0": (1, 16, 16, 16)}, [("image", "d", 3, 8), ("tap_0", "e", 16, 8)], ["d", "e"]
    )
    backbone = network(IMAGE, [("image", "tap_0", 3, 16)], ["tap_0"])
    # the image is ready before anything is computed
    assert predict(VICTIM, with_image, backbone, staged=True).crossings == 2


def test_less_secure_memory_costs_decryption() -> None:
    wide = network(IMAGE, [("image", "a", 3, 64), *(("a", f"b{i}", 64, 64) for i in range(3))], ["b0", "b1", "b2"])
    ample = predict(wide, wide)
    with pytest.raises(MemoryBudgetError) as refused:
        predict(wide, wide, budget=1 << 16)
    tight = predict(wide, wide, budget=refused.value.smallest)
    assert tight.secure_memory <= refused.value.smallest < ample.secure_memory
    assert tight.secure_world > ample.secure_world


def test_what_was_not_measured_is_told() -> None:
    table = constants()
    known = predict(VICTIM, CPM, BACKBONE)
    assert known.extrapolated < 0.5
    kinds = {kind: value for kind, value in table["kernels"].items() if kind not in ("WINOGRAD", "CONV2D rows")}
    found = predict(VICTIM, CPM, BACKBONE, table={**table, "kernels": kinds})
    assert {part.kind for part in found.extrapolations} >= {"CONV2D rows"}
    assert found.extrapolated > known.extrapolated
    assert found.error > known.error


def test_sizes_outside_of_what_was_measured_are_told_with_their_range() -> None:
    table = constants()
    kinds = {kind: dict(value) for kind, value in table["kernels"].items()}
    for kind in kinds:
        kinds[kind]["shape"] = {size: [low, min(high, 12.0)] for size, (low, high) in kinds[kind]["shape"].items()}
    found = predict(VICTIM, CPM, BACKBONE, table={**table, "kernels": kinds})
    outside = [part for part in found.extrapolations if part.size == "output channels"]
    assert outside and all((part.value, part.high) == (16, 12) for part in outside)
    assert 0 < found.extrapolated <= 1
    assert found.as_json()["extrapolated"] == found.extrapolated


def test_a_prediction_tells_how_far_others_were_off() -> None:
    table = {name: value for name, value in constants().items() if name != "evaluation"}
    assert predict(VICTIM, CPM, BACKBONE, table=table).evaluation is None
    kept = {"total": {"strategies": 30, "median": 0.01, "worst": 0.05, "mean": 0.0}}
    found = predict(VICTIM, CPM, BACKBONE, table={**table, "evaluation": kept})
    assert found.as_json()["evaluation"] == kept


def test_the_shipped_table_was_held_against_strategies() -> None:
    told = predict(VICTIM, CPM, BACKBONE).evaluation
    assert told is not None, "the constants changed: run build/bench --suite strategies"
    assert told["total"]["strategies"] >= 20
    assert told["total"]["median"] <= 0.05
    assert told["total"]["worst"] <= 0.10

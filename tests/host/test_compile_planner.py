# SPDX-License-Identifier: BSD-2-Clause
"""The arena's plan: nothing alive overlaps, the bound holds, in place only where it is right."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import assert_matches, build, floats, node

from cloister.compile import compile_onnx
from cloister.compile.planner import Item, lower_bound, place_items


@st.composite
def items(draw: st.DrawFn) -> Item:
    first = draw(st.integers(-1, 20))
    return Item(64 * draw(st.integers(1, 40)), first, first + draw(st.integers(0, 8)))


@settings(max_examples=60, deadline=None)
@given(st.lists(items(), max_size=25))
def test_nothing_alive_at_the_same_time_overlaps(found: list[Item]) -> None:
    offsets, size = place_items(found)
    for i, (one, start) in enumerate(zip(found, offsets, strict=True)):
        assert start % 64 == 0
        assert start + one.size <= size
        for other, begin in list(zip(found, offsets, strict=True))[i + 1 :]:
            if one.first <= other.last and other.first <= one.last:
                assert start + one.size <= begin or begin + other.size <= start
    assert size >= lower_bound(found)
    assert place_items(found) == (offsets, size)


def test_a_chain_reaches_the_bound() -> None:
    chain = [Item(64 * size, i, i + 1) for i, size in enumerate([5, 9, 2, 7, 7, 1, 12, 3])]
    assert place_items(chain)[1] == lower_bound(chain) == 64 * 15


def test_an_elementwise_chain_takes_one_buffer() -> None:
    nodes = [node("Tanh", "x", "a"), node("Abs", "a", "b"), node("Add", "b k", "c"), node("Exp", "c", "y")]
    compiled = assert_matches(build(nodes, {"x": [1000]}, ["y"], {"k": floats(1000)}), {"x": floats(1000)})
    assert compiled.arena_size == compiled.report.arena_bound == 4032
    assert compiled.report.in_place == 3


def test_an_operand_that_is_needed_later_is_not_overwritten() -> None:
    nodes = [node("Tanh", "x", "a"), node("Abs", "a", "b"), node("Sub", "a b", "c"), node("Mul", "c x", "y")]
    assert_matches(build(nodes, {"x": [100]}, ["y"]), {"x": floats(100)})


def test_an_operand_that_leaves_the_model_is_not_overwritten() -> None:
    nodes = [node("Tanh", "x", "a"), node("Abs", "a", "y")]
    assert_matches(build(nodes, {"x": [100]}, ["a", "y"]), {"x": floats(100)})


def test_a_broadcast_part_of_an_operand_is_read_before_it_is_overwritten() -> None:
    # "top" is a view of the first row of "a"; writing the sum over "a" would change it while it is still read.
    nodes = [node("Tanh", "x", "a"), node("Slice", "a s e", "top"), node("Add", "a top", "y")]
    constants = {"s": np.array([0], np.int64), "e": np.array([1], np.int64)}
    assert_matches(build(nodes, {"x": [4, 16]}, ["y"], constants), {"x": floats(4, 16)})


def test_both_operands_may_be_the_same() -> None:
    nodes = [node("Tanh", "x", "a"), node("Add", "a a", "b"), node("Sum", "b b b", "y")]
    assert_matches(build(nodes, {"x": [4, 16]}, ["y"]), {"x": floats(4, 16)})


def test_an_input_that_is_an_output_keeps_its_value() -> None:
    nodes = [node("Identity", "x", "same"), node("Neg", "x", "y")]
    assert_matches(build(nodes, {"x": [8]}, ["same", "y"]), {"x": floats(8)})


def test_inputs_and_outputs_lie_apart() -> None:
    nodes = [node("Neg", "x", "a"), node("Neg", "z", "b")]
    compiled = compile_onnx(build(nodes, {"x": [8], "z": [8]}, ["a", "b"]))
    assert compiled.inputs[0].offset != compiled.inputs[1].offset
    assert compiled.outputs[0].offset != compiled.outputs[1].offset

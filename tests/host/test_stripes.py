# SPDX-License-Identifier: BSD-2-Clause
"""Bands of rows: the same bits as whole tensors, in less memory, for any chain of operators that can be cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx_models import build, engine, floats, node

from cloister.compile import CompiledModel, compile_onnx
from cloister.compile.arrange import Arrangement, Lowered, MemoryBudgetError, lower
from cloister.compile.compiler import emit
from cloister.compile.memory import TA_OWN, least_memory
from cloister.compile.partition import split
from cloister.compile.planner import plan_arena, storages
from cloister.compile.rows import cut
from cloister.compile.stripes import find_region, stripe, uses_of
from cloister.ir.importer import import_onnx
from cloister.ir.passes.pipeline import clean, optimise

PIECES = (
    "conv", "strided", "dilated", "grouped", "depthwise", "max", "average", "ceil", "relu", "scale", "lrn", "shift",
    "residual", "concat", "skip", "nearest", "linear", "shrink",
)  # fmt: skip


class Chain:
    """A random network, one operator after the other."""

    def __init__(self, seed: int, channels: int, height: int, width: int, batch: int = 1) -> None:
        self.seed = seed
        self.shape = (channels, height, width)
        self.input = (batch, channels, height, width)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.value = "x"

    def name(self) -> str:
        return f"t{len(self.nodes)}"

    def constant(self, *shape: int) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = floats(*shape, seed=self.seed + len(self.constants)) * np.float32(0.3)
        return name

    def add(self, op: str, inputs: str, **attrs: Any) -> str:
        name = self.name()
        self.nodes.append(node(op, inputs, name, **attrs))
        return name

    def conv(self, x: str, out: int, kernel: int = 3, group: int = 1, stride: int = 1, dilation: int = 1) -> str:
        pad = dilation * (kernel // 2)
        weights = self.constant(out, self.shape[0] // group, kernel, kernel)
        attrs = {"pads": [pad] * 4, "strides": [stride] * 2, "dilations": [dilation] * 2, "group": group}
        return self.add("Conv", f"{x} {weights} {self.constant(out)}", **attrs)

    def pool(self, op: str, kernel: int, stride: int, **attrs: Any) -> None:
        extent = [(size + 2 - kernel) / stride + 1 for size in self.shape[1:]]
        if min(extent) < 2:
            return
        self.value = self.add(op, self.value, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[1] * 4, **attrs)
        sizes = []
        for length, size in zip(self.shape[1:], extent, strict=True):
            count = int(np.ceil(size) if attrs.get("ceil_mode") else size)
            sizes.append(count - (1 if attrs.get("ceil_mode") and (count - 1) * stride >= length + 1 else 0))
        self.shape = (self.shape[0], sizes[0], sizes[1])

    def grow(self, piece: str) -> None:
        channels, height, width = self.shape
        x = self.value
        if piece == "strided" and min(height, width) >= 6:
            self.value = self.conv(x, channels, stride=2)
            self.shape = (channels, -(-height // 2), -(-width // 2))
        elif piece in ("conv", "strided"):
            self.value = self.add("Relu", self.conv(x, channels + 4))
            self.shape = (channels + 4, height, width)
        elif piece == "dilated":
            self.value = self.conv(x, channels, dilation=2)
        elif piece in ("grouped", "depthwise"):
            self.value = self.conv(x, channels, group=2 if piece == "grouped" else channels)
        elif piece in ("max", "average", "ceil"):
            attrs = {"max": {}, "average": {"count_include_pad": 1}, "ceil": {"ceil_mode": 1}}[piece]
            self.pool("MaxPool" if piece == "max" else "AveragePool", 3, 2 if piece == "ceil" else 1, **attrs)
        elif piece == "relu":
            self.value = self.add("Sigmoid", x)
        elif piece == "scale":
            self.value = self.add("Mul", f"{x} {self.constant(1, channels, 1, 1)}")
        elif piece == "lrn":
            self.value = self.add("LRN", x, size=3)
        elif piece == "shift":
            self.value = self.add("Add", f"{x} {self.constant(1, channels, height, width)}")
        elif piece == "residual":
            self.value = self.add("Add", f"{self.conv(self.add('Relu', self.conv(x, channels)), channels)} {x}")
        elif piece == "concat":
            self.value = self.add("Concat", f"{x} {self.conv(x, 4, 1)} {self.conv(x, 4)}", axis=1)
            self.shape = (channels + 8, height, width)
        elif piece in ("nearest", "linear", "shrink"):
            self.resize("linear" if piece == "shrink" else piece, 0.6 if piece == "shrink" else 2.0)
        elif piece == "skip":
            self.value = self.add("Add", f"{self.conv(x, channels, 1)} {self.add('Tanh', x)}")

    def resize(self, mode: str, factor: float) -> None:
        channels, height, width = self.shape
        sizes = [int(np.floor(np.float32(factor) * np.float32(size))) for size in (height, width)]
        if max(sizes) > 60 or min(sizes) < 4:
            return
        scales = f"c{len(self.constants)}"
        self.constants[scales] = np.array([1, 1, factor, factor], np.float32)
        self.value = self.add("Resize", f"{self.value} - {scales}", mode=mode)
        self.shape = (channels, sizes[0], sizes[1])

    def model(self) -> onnx.ModelProto:
        last = self.add("Relu", self.value)
        return build(self.nodes, {"x": self.input}, [last], self.constants)


def lowered(model: onnx.ModelProto, limit: int | None) -> tuple[Any, Lowered]:
    graph = import_onnx(model).graph
    clean(graph)
    optimise(graph)
    return graph, lower(graph, limit)


def compiled(graph: Any, ops: list[Any], base: Lowered) -> CompiledModel:
    plan = plan_arena(ops, *base.ends)
    return emit(graph, Arrangement(Lowered(ops, base.inputs, base.outputs), plan, split(ops, 1 << 20, None)))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=6), st.integers(5, 20), st.integers(2, 9),
    st.integers(0, 99), st.integers(1, 7), st.sampled_from([None, 2000]), st.sampled_from([1, 1, 3]),
)  # fmt: skip
def test_bands_compute_the_same_bits(
    pieces: list[str], height: int, width: int, seed: int, rows: int, limit: int | None, batch: int
) -> None:
    chain = Chain(seed, 4, height, 2 * width, batch)
    for piece in pieces:
        chain.grow(piece)
    graph, base = lowered(chain.model(), limit)
    cuts = [cut(op) for op in base.ops]
    uses = uses_of(base.ops)
    fixed = {*storages(base.ends[0]), *storages(base.ends[1])}
    # The longest run of kernels that can be cut, from the second on: the first turns the input channels-last.
    start = next((i for i in range(len(cuts)) if cuts[i] is not None), None)
    assume(start is not None)  # a single product by channels lies plain, where its rows are channels
    assert start is not None
    stop = next((i for i in range(start, len(cuts)) if cuts[i] is None), len(cuts))
    region = None
    while region is None and stop > start:
        region = find_region(start, cuts[start:stop], uses, fixed)
        stop -= region is None
    assert region is not None
    rows = min(rows, region.height - 1)
    bands = [*base.ops[:start], *stripe(region, rows, 0), *base.ops[stop:]]
    x = floats(*chain.input, seed=seed)
    whole = engine().run(compiled(graph, base.ops, base), x)
    striped = engine().run(compiled(graph, bands, base), x)
    for name, value in whole.items():
        assert value.tobytes() == striped[name].tobytes()


def wide_network() -> onnx.ModelProto:
    """Activations of 1.6 MiB, and a layer whose weights are larger than a partition."""
    chain = Chain(3, 4, 96, 96)
    for _ in range(2):
        chain.grow("conv")
    chain.value = chain.conv(chain.value, 48)
    chain.shape = (48, *chain.shape[1:])
    chain.grow("residual")
    chain.pool("MaxPool", 3, 2)
    chain.value = chain.conv(chain.value, 64)
    chain.shape = (64, *chain.shape[1:])
    chain.pool("MaxPool", 3, 2)
    return chain.model()


def test_a_budget_below_the_activations_is_met_bit_by_bit() -> None:
    model = wide_network()
    x = floats(1, 4, 96, 96)
    whole = compile_onnx(model, winograd=False)
    budget = TA_OWN + (1 << 20)
    assert whole.arena_size > 3 << 20
    small = compile_onnx(model, secure_memory=budget, winograd=False)
    sizes = [len(part) for part in small.partitions]
    assert least_memory(small.arena_size, sizes, 2) <= budget
    assert len({row.node for row in small.report.rows}) < len(small.report.rows)
    for name, value in engine().run(whole, x).items():
        assert value.tobytes() == engine().run(small, x)[name].tobytes()


def narrow_network() -> onnx.ModelProto:
    """Partitions as small as they may be cost less memory here than one layer does."""
    chain = Chain(1, 3, 32, 32)
    for index, channels in enumerate((28, 32, 56, 56, 64)):
        chain.value = chain.add("Relu", chain.conv(chain.value, channels))
        chain.shape = (channels, *chain.shape[1:])
        if index % 2:
            chain.pool("MaxPool", 2, 2)
    return chain.model()


@pytest.mark.parametrize("network", [wide_network, narrow_network])
def test_the_error_names_the_least_budget_that_is_enough(network: Callable[[], onnx.ModelProto]) -> None:
    model = network()
    with pytest.raises(MemoryBudgetError, match="the smallest that it can run in is") as caught:
        compile_onnx(model, secure_memory=TA_OWN + (64 << 10))
    smallest = caught.value.smallest
    made = compile_onnx(model, secure_memory=smallest)
    assert least_memory(made.arena_size, [len(part) for part in made.partitions], 2) <= smallest
    with pytest.raises(MemoryBudgetError):
        compile_onnx(model, secure_memory=smallest * 98 // 100)


def test_the_budget_that_was_named_is_enough_where_the_usual_search_finds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = narrow_network()
    with pytest.raises(MemoryBudgetError) as caught:
        compile_onnx(model, secure_memory=TA_OWN + (64 << 10))
    monkeypatch.setattr("cloister.compile.arrange.for_budget", lambda *_: None)
    made = compile_onnx(model, secure_memory=caught.value.smallest)
    assert least_memory(made.arena_size, [len(part) for part in made.partitions], 2) <= caught.value.smallest
    x = floats(1, 3, 32, 32)
    for name, value in engine().run(compile_onnx(model), x).items():
        np.testing.assert_allclose(engine().run(made, x)[name], value, atol=1e-5 * np.abs(value).max())
    with pytest.raises(MemoryBudgetError):
        compile_onnx(model, secure_memory=caught.value.smallest - 1)


def test_the_same_model_gives_the_same_bytes() -> None:
    budget = TA_OWN + (1 << 20)
    one, two = (compile_onnx(wide_network(), secure_memory=budget) for _ in range(2))
    assert one.partitions == two.partitions


def test_weights_of_a_region_are_shipped_once_where_they_fit() -> None:
    made = compile_onnx(wide_network(), secure_memory=TA_OWN + (2 << 20))
    whole = compile_onnx(wide_network())
    assert sum(map(len, made.partitions)) < 1.3 * sum(map(len, whole.partitions))

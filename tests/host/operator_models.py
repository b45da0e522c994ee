# SPDX-License-Identifier: BSD-2-Clause
"""Small ONNX models with random attributes, held against onnxruntime or ONNX's reference evaluator."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import numpy as np
import onnx.printer
import onnxruntime
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cloister.compile import compile_onnx
from cloister.native import NativeEngine

#: CLOISTER_EXAMPLES=1000 looks at that many new examples of each property; else the same few each time.
EXAMPLES = os.environ.get("CLOISTER_EXAMPLES")

property_settings = settings(
    max_examples=int(EXAMPLES or 100),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

MOVED = ("float32", "int32", "int64", "uint8", "int8", "bool")
Shape = tuple[int, ...]


@cache
def engine() -> NativeEngine:
    return NativeEngine()


Oracle = Callable[[onnx.ModelProto, dict[str, np.ndarray]], list[np.ndarray]]


def with_onnxruntime(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Its fusion of Transpose into MatMul is wrong for a vector on the right (1.31.1).
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def with_reference(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(ReferenceEvaluator(model).run(None, inputs))


@dataclass
class Build:
    """A model that grows node by node; tensors are named t0, t1, ..."""

    seed: int = 0
    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def values(self, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
        """Random values; floats are rounded so that ties occur."""
        if dtype == "float32":
            return np.asarray(self.random.standard_normal(tuple(shape)) * 2, np.float32).round(2)
        if dtype == "bool":
            return np.asarray(self.random.integers(0, 2, tuple(shape)), bool)
        return np.asarray(self.random.integers(0, 100, tuple(shape)), dtype)

    def input(self, value: np.ndarray) -> str:
        name = self.name()
        self.inputs[name] = np.asarray(value)
        return name

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = self.name()
        self.constants[name] = np.asarray(value, dtype)
        return name

    def node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attrs: Any) -> Any:
        """Adds a node; the name of its output, or the list of them."""
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attrs))
        return names[0] if outputs == 1 else names

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "random",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in self.inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        kinds = {
            info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
        }
        del model.graph.output[:]
        model.graph.output.extend(kinds[name] for name in outputs)
        for info in model.graph.output:
            if not info.type.tensor_type.HasField("shape"):
                # Inference left it open; a valid model says at least its element type, and that it has a shape.
                value = with_reference(model, self.inputs)[outputs.index(info.name)]
                info.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(value.dtype)
                for axis in range(value.ndim):
                    info.type.tensor_type.shape.dim.add().dim_param = f"{info.name}_{axis}"
        return model

    def hold(
        self,
        *outputs: str,
        rtol: float = 1e-4,
        atol: float = 1e-5,
        oracle: Oracle = with_onnxruntime,
        max_partition: int | None = None,
    ) -> None:
        """Compiles, runs natively, and compares all outputs with the oracle's."""
        model = self.model(outputs)
        note(onnx.printer.to_text(model))
        expected = oracle(model, self.inputs)
        compiled = compile_onnx(model, max_partition=max_partition or 1 << 20)
        found = engine().run(compiled, self.inputs)
        for name, wanted in zip(outputs, expected, strict=True):
            assert found[name].shape == wanted.shape
            assert found[name].dtype == wanted.dtype
            np.testing.assert_allclose(found[name], wanted, rtol=rtol, atol=atol)


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 1 << 30)


def shapes(least: int = 0, most: int = 5, size: int = 5, count: int = 400) -> st.SearchStrategy[Shape]:
    """Shapes of ``least`` to ``most`` axes, at most ``count`` elements."""
    return st.lists(st.integers(1, size), min_size=least, max_size=most).map(tuple).filter(lambda s: prod(s) <= count)


@st.composite
def tensor(draw: st.DrawFn, build: Build, shape: Shape, dtype: str = "float32", value: Any = None) -> str:
    """A run-time tensor of that shape whose bytes lie in any order: as it is, transposed, or channels last."""
    value = build.values(shape, dtype) if value is None else np.asarray(value)
    rank = len(shape)
    ways = ["plain"] + ["transposed"] * (rank > 1) + ["channels last"] * (3 <= rank <= 5 and dtype == "float32")
    way = draw(st.sampled_from(ways))
    if way == "transposed":
        perm = draw(st.permutations(range(rank)))
        return str(build.node("Transpose", [build.input(np.transpose(value, np.argsort(perm)))], perm=list(perm)))
    name = build.input(value)
    if way == "channels last":
        return str(build.node("MaxPool", [name], kernel_shape=[1] * (rank - 2)))
    return name


@st.composite
def operand(draw: st.DrawFn, build: Build, shape: Shape) -> str:
    """A float tensor, constant or of run time."""
    if draw(st.booleans()):
        return build.constant(build.values(shape))
    return draw(tensor(build, shape))


@st.composite
def broadcastable(draw: st.DrawFn, shape: Shape) -> Shape:
    """A shape that broadcasts to ``shape``."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(size if draw(st.booleans()) else 1 for size in kept)

# SPDX-License-Identifier: BSD-2-Clause
"""Small ONNX models for the compiler's tests, and the comparison of the native engine with ONNX's reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cloister.compile import CompiledModel, compile_onnx
from cloister.ir.reference import Reference
from cloister.native import NativeEngine

Shape = Sequence[int | str | None]


def floats(*shape: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Standard normal values, the same for the same arguments."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray[Any, Any]] | None = None,
    opset: int = 17,
    types: Mapping[str, int] | None = None,
    domains: Sequence[str] = (),
    **options: Any,
) -> onnx.ModelProto:
    """A model of float32 tensors (others by ``types``), output shapes left to inference."""
    kinds = types or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, **options)
    # The checker wants a shape, if only an empty one, in every output's type.
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    del model.graph.output[:]
    model.graph.output.extend(inferred)
    for info in model.graph.output:
        info.type.tensor_type.shape.SetInParent()
    return model


def node(op: str, inputs: str, outputs: str, name: str = "", **attrs: Any) -> onnx.NodeProto:
    """A node; tensor names are separated by blanks, "-" is an absent one."""
    sources, results = ([("" if item == "-" else item) for item in text.split()] for text in (inputs, outputs))
    return helper.make_node(op, sources, results, name=name, **attrs)


@cache
def engine() -> NativeEngine:
    """The native engine, built once."""
    return NativeEngine()


def assert_matches(model: onnx.ModelProto, inputs: Mapping[str, Any], **options: Any) -> CompiledModel:
    """The compiled model computes what ONNX's reference computes; returns it."""
    compiled = compile_onnx(model, **options)
    results = engine().run(compiled, inputs)
    expected = Reference(model).run(inputs)
    assert list(results) == list(expected)
    for name, value in expected.items():
        assert results[name].shape == value.shape, name
        assert results[name].dtype == value.dtype, name
        np.testing.assert_allclose(results[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    return compiled


def kernels(compiled: CompiledModel) -> list[str]:
    """Kernel names in order."""
    return [row.kernel for row in compiled.report.rows]

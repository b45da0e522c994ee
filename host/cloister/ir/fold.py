# SPDX-License-Identifier: BSD-2-Clause
"""Constant folding and shape inference on the ONNX model, with ONNX's own libraries.

The two depend on each other (a Reshape's shape may be computed from constants; Shape of a static shape is a
constant), so they alternate until nothing changes.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from cloister.errors import FormatError
from cloister.ir.graph import Array, Shape
from cloister.ir.load import opset_of
from cloister.ir.quantised import Quantised, carried, from_dequantize
from cloister.ops.base import find

#: Their result differs from call to call.
RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)

#: ONNX infers no shape of theirs; it is that of their first input.
LIKE_INPUT = frozenset({"GroupNormalization"})

Known = dict[str, tuple[Shape | None, int]]


def infer(model: onnx.ModelProto) -> Known:
    """Shape (-1: unknown dimension, None: unknown rank) and ONNX element type of every tensor, as ONNX infers them.

    Raises:
        FormatError: types or shapes contradict each other.
    """
    # ONNX does not know foreign operators' rules, and in strict mode stops at the first; the check names them all.
    strict = all(node.domain in ("", "ai.onnx") for node in model.graph.node)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=strict, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise FormatError(
            f"the model's types or shapes contradict each other: {lines[-1] if lines else error}",
            "check the sizes given with --dim, and the model with onnx.shape_inference",
        ) from error
    known: Known = {}
    graph = inferred.graph
    for info in (*graph.value_info, *graph.input, *graph.output):
        if info.type.HasField("tensor_type"):
            tensor = info.type.tensor_type
            shape = None
            if tensor.HasField("shape"):
                shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
            known[info.name] = (shape, tensor.elem_type)
    for constant in graph.initializer:
        known[constant.name] = (tuple(constant.dims), constant.data_type)
    return known


def fold_constants(model: onnx.ModelProto) -> tuple[dict[str, Array], Known, dict[str, Quantised]]:
    """Computes all nodes that depend on constants only, in place.

    Returns all constants, what is known of tensors, and which constants were integers before.

    Raises:
        FormatError: see :func:`infer`.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    origins: dict[str, Quantised] = {}
    while True:
        known = infer(model)
        remaining = []
        for node in model.graph.node:
            values = _dequantised(node, constants, origins) or _evaluate(node, constants, known, model)
            if values is None:
                remaining.append(node)
                continue
            _carry(node, values, origins)
            for name, value in zip(node.output, values, strict=False):
                if name:
                    constants[name] = value
                    model.graph.initializer.append(numpy_helper.from_array(value, name))
        if len(remaining) == len(model.graph.node):
            if not _add_shapes(model, constants, known):
                return constants, known, origins
            continue
        del model.graph.node[:]
        model.graph.node.extend(remaining)


def _evaluate(
    node: onnx.NodeProto, constants: dict[str, Array], known: Known, model: onnx.ModelProto
) -> list[Array] | None:
    """The node's outputs, or None where they are not constant or ONNX's reference cannot compute them."""
    if node.domain not in ("", "ai.onnx") or node.op_type in RANDOM:
        return None
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return None
    inputs = [str(name) for name in node.input]
    if node.op_type in ("Shape", "Size"):
        shape = known.get(inputs[0], (None, 0))[0]
        if shape is None or any(dim < 0 for dim in shape):
            return None
        if node.op_type == "Size":
            return [np.array(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)]
        attrs = _attributes(node)
        value: Array = np.array(shape, dtype=np.int64)
        return [value[slice(attrs.get("start", 0), attrs.get("end"))]]
    if not all(name in constants for name in inputs if name):
        return None
    return _reference(node, {name: constants[name] for name in inputs if name}, model)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _dequantised(
    node: onnx.NodeProto, constants: dict[str, Array], origins: dict[str, Quantised]
) -> list[Array] | None:
    """The value of a DequantizeLinear of constants, whose integers are kept; None for anything else."""
    names = [str(name) for name in node.input if name]
    if node.domain not in ("", "ai.onnx", "com.microsoft") or node.op_type != "DequantizeLinear":
        return None
    if not all(name in constants for name in names):
        return None
    origin = from_dequantize(_attributes(node), [constants[name] for name in names])
    if origin is None:
        return None
    origins[str(node.output[0])] = origin
    return [origin.dequantised()]


def _carry(node: onnx.NodeProto, values: list[Array], origins: dict[str, Quantised]) -> None:
    origin = origins.get(str(node.input[0])) if node.input else None
    moved = carried(str(node.op_type), _attributes(node), origin, values[0]) if origin is not None else None
    if moved is not None:
        origins[str(node.output[0])] = moved


def _add_shapes(model: onnx.ModelProto, constants: dict[str, Array], known: Known) -> bool:
    """Records the output shapes that ONNX's inference left open (old Slice, Resize with sizes); False: none was found.

    Unless :data:`LIKE_INPUT` tells them, the reference is run on zeros. That is right for supported operators only:
    what their shapes depend on must be constant, which the check after import demands.
    """
    added = False
    for node in model.graph.node:
        names = [str(name) for name in node.output if name]
        if not any(_open(known, name) for name in names) or find(str(node.op_type)) is None:
            continue
        inputs: dict[str, Array] = {}
        for name in node.input:
            shape, element = known.get(str(name), (None, 0))
            if name in constants:
                inputs[str(name)] = constants[str(name)]
            elif name and shape is not None and -1 not in shape and element:
                inputs[str(name)] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(element))
        if len(inputs) != len({str(name) for name in node.input if name}):
            continue
        like_input = [inputs[str(node.input[0])]] if node.op_type in LIKE_INPUT else None
        for name, value in zip(names, like_input or _reference(node, inputs, model) or [], strict=False):
            if _open(known, name):
                # The old Dropout's mask has its input's type, which the reference does not know.
                element = known.get(name, (None, 0))[1] or onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                info = onnx.helper.make_tensor_value_info(name, element, list(value.shape))
                outputs = [output for output in model.graph.output if output.name == name]
                (outputs[0] if outputs else model.graph.value_info.add()).CopyFrom(info)
                added = True
    return added


def _open(known: Known, name: str) -> bool:
    shape = known.get(name, (None, 0))[0]
    return shape is None or -1 in shape


def _reference(node: onnx.NodeProto, inputs: dict[str, Array], model: onnx.ModelProto) -> list[Array] | None:
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape))
        for name, value in inputs.items()
    ]
    outputs = [str(name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "fold", infos, [onnx.ValueInfoProto(name=name) for name in outputs])
    single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset_of(model))])
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results: list[Any] = list(ReferenceEvaluator(single).run(None, inputs))
    except Exception:
        # Whatever the reference cannot do stays in the graph; the check names it if the engine cannot either.
        return None
    if not all(isinstance(result, np.ndarray | np.generic) for result in results):
        return None
    by_name = {name: np.asarray(result) for name, result in zip(outputs, results, strict=True)}
    return [by_name.get(str(name), np.empty(0)) for name in node.output]

# SPDX-License-Identifier: BSD-2-Clause
"""What came from ONNX, in forms that torch can train, export again, and that a lock can be put on.

Converted operators work out at every call from tensors which shape is wanted. torch cannot export that, and a linear
layer on tokens is a product with a constant that cannot be trained. Shapes are those of a model for images of one size,
so they are measured once and written down.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

#: Batches of which shapes are measured: a dimension that differs is the batch's.
_BATCHES = (3, 5)


def rows_of_tokens(model: Any) -> None:
    """Products with constant weights (and what is added) as Gemm, in place; between reshapes, unless of rows.

    Args:
        model: onnx.ModelProto with a free batch dimension.
    """
    import onnx
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*inferred.value_info, *inferred.input)
    }
    outputs = {info.name for info in model.graph.output}
    always = all(entry.version < 11 for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    made: list[Any] = []
    skip: set[str] = set()
    for node in model.graph.node:
        given = shapes.get(node.input[0], []) if node.input else []
        weights = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        known = len(given) == 2 or (len(given) > 2 and all(given[1:]))
        fits = weights is not None and len(weights.dims) == 2 and known
        if node.name + node.output[0] in skip:
            continue
        if not fits or weights is None:
            made.append(node)
            continue
        readers = [other for other in model.graph.node if node.output[0] in other.input]
        adds, result = [], node.output[0]
        if len(readers) == 1 and readers[0].op_type == "Add" and result not in outputs:
            adds = [name for name in readers[0].input if name != result and name in constants
                    and list(constants[name].dims) in ([weights.dims[1]], [1, weights.dims[1]])]  # fmt: skip
        if adds:
            result = readers[0].output[0]
            skip.add(readers[0].name + result)
        bias = []
        if adds or always:  # before opset 11 a Gemm has to have one
            bias = [f"{result}:bias"]
            value = numpy_helper.to_array(constants[adds[0] if adds else node.input[1]])
            value = value.reshape(-1) if adds else 0 * value[0]
            model.graph.initializer.append(numpy_helper.from_array(value, bias[0]))
        make = onnx.helper.make_node
        if len(given) == 2:
            made.append(make("Gemm", [node.input[0], node.input[1], *bias], [result], name=f"{result}_gemm"))
            continue
        there, back = f"{result}:rows", f"{result}:tokens"
        for name, dims in ((there, [-1, given[-1]]), (back, [-1, *given[1:-1], weights.dims[1]])):
            model.graph.initializer.append(numpy_helper.from_array(_int64(dims), name))
        made += [
            make("Reshape", [node.input[0], there], [f"{result}:in"], name=f"{result}_in"),
            make("Gemm", [f"{result}:in", node.input[1], *bias], [f"{result}:out"], name=f"{result}_gemm"),
            make("Reshape", [f"{result}:out", back], [result], name=f"{result}_back"),
        ]
    del model.graph.node[:]
    model.graph.node.extend(made)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)


def _int64(values: list[int]) -> Any:
    import numpy as np

    return np.array(values, np.int64)


class _Shapes(fx.Interpreter):
    """Runs a graph, and keeps the shape of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, list[int]] = {}

    def run_node(self, node: fx.Node) -> Any:
        """As the base class."""
        result = super().run_node(node)
        if isinstance(result, torch.Tensor):
            self.shapes[node.name] = list(result.shape)
        return result


@torch.no_grad()
def settle(module: fx.GraphModule, shape: tuple[int, ...]) -> bool:
    """Reshapes, expansions and cuts to what they are for images of that size, in place.

    Args:
        module: as onnx2torch makes it.
        shape: of an image.

    Returns:
        Whether there were any; where not, the module is as it was.
    """
    found, changed = [], False
    for batch in _BATCHES:
        run = _Shapes(module.eval())
        run.run(torch.zeros((batch, *shape)))
        found.append(run.shapes)
    image = next(node for node in module.graph.nodes if node.op == "placeholder")
    for node in list(module.graph.nodes):
        kind = type(module.get_submodule(str(node.target))).__name__ if node.op == "call_module" else ""
        first, second = (shapes.get(node.name, []) for shapes in found)
        known = first[1:] == second[1:] and first[:1] != second[:1]
        with module.graph.inserting_before(node):
            new = None
            if kind == "OnnxReshape" and known:
                new = module.graph.call_method("reshape", (node.args[0], -1, *first[1:]))
            elif kind == "OnnxExpand" and known and (first[0], second[0]) == _BATCHES:
                batch = module.graph.call_method("size", (image, 0))
                new = module.graph.call_method("expand", (node.args[0], batch, *first[1:]))
            elif kind == "OnnxSlice":
                places = _slices(module, node, len(first))
                if places is not None:
                    new = module.graph.call_function(operator.getitem, (node.args[0], places))
            elif kind == "OnnxSqueezeDynamicAxes":
                axes = _value(module, node.args[1])
                if axes is not None and len(axes) == 1:
                    new = module.graph.call_method("squeeze", (node.args[0], axes[0]))
        if new is not None:
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)
            changed = True
    if not changed:
        return False
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return True


def _value(module: nn.Module, node: Any) -> list[int] | None:
    """A constant's elements; None where it is computed."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return [int(value) for value in found.reshape(-1).tolist()]


def _slices(module: nn.Module, node: fx.Node, rank: int) -> tuple[slice, ...] | None:
    """The places that a Slice with constant arguments cuts out; None where they are not known."""
    values = [_value(module, argument) for argument in node.args[1:]]
    if not rank or len(values) < 2 or any(value is None for value in values):
        return None
    starts, ends = values[0] or [], values[1] or []
    axes = (values[2] if len(values) > 2 else None) or list(range(len(starts)))
    steps = (values[3] if len(values) > 3 else None) or [1] * len(starts)
    if any(step < 1 for step in steps):
        return None
    places = [slice(None)] * rank
    far = 1 << 31
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(start if abs(start) < far else None, end if abs(end) < far else None, step)
    return tuple(places)

# SPDX-License-Identifier: BSD-2-Clause
"""DequantizeLinear, operator, QuantizeLinear become one node on 8-bit integers, where there is a kernel for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cloister.ir.graph import Array, Graph, Node
from cloister.ir.passes.edit import only_reader
from cloister.ir.passes.quant_sign import fresh, table
from cloister.ir.passes.quant_sink import checked, dequantised
from cloister.ir.passes.quant_table import VALUES
from cloister.ir.qdq import QUANTIZE, affine_of
from cloister.ir.quantised import Affine, Finish, Quantised
from cloister.ops.arguments import ints
from cloister.ops.base import find, normalize_axis

#: Cells of a window that the pooling kernel takes (cloister_format.h).
MOST_CELLS = 1 << 23
#: Relative difference up to which a bias has the scale that it should have: it is read as integers.
SAME_SCALE = 1e-5


@dataclass
class Site:
    """A float operator, what its operands dequantise, and the QuantizeLinear (behind Relu or Clip) that ends it."""

    graph: Graph
    node: Node
    sources: dict[str, tuple[str, Affine]]
    chain: list[Node]
    finish: Finish

    def operand(self, position: int) -> tuple[str, Affine] | None:
        """An operand as int8 tensor, also a constant one; None where it is float."""
        name = self.node.input(position)
        if name in self.sources:
            return self.sources[name]
        origin = signed(self.graph.tensors[name].quantised) if name else None
        if origin is None or origin.scale.size != 1 or not 0 < float(origin.scale) < np.inf:
            return None
        affine = Affine(float(origin.scale), int(origin.zero_point))
        return self.graph.add_constant(f"{name}.s8", origin.values), affine


def fuse_operators(graph: Graph) -> None:
    """Replaces every operator that has an 8-bit form and stands between quantised tensors."""
    sources = dequantised(graph)
    for node in list(graph.nodes):
        maker = MAKERS.get(node.op)
        end = _end(graph, node) if maker else None
        if maker is None or end is None or not checked(node, graph):
            continue
        site = Site(graph, node, sources, *end)
        made = maker(site)
        if not made:
            continue
        at = graph.nodes.index(node)
        last = site.chain[-1]
        made[-1].outputs = [last.outputs[0]]
        # The result appears where the operator stood, which is before all that read it.
        gone = {id(member) for member in (node, *site.chain)}
        before = [member for member in graph.nodes[:at] if id(member) not in gone]
        graph.nodes = [*before, *made, *(member for member in graph.nodes[at:] if id(member) not in gone)]


def _end(graph: Graph, node: Node) -> tuple[list[Node], Finish] | None:
    """The nodes behind ``node`` up to a QuantizeLinear of int8, with Relu and Clip as bounds; None: there is none."""
    chain: list[Node] = []
    clips: list[tuple[float, float]] = []
    name = node.outputs[0]
    while (reader := only_reader(graph, name)) is not None and reader.inputs[0] == name:
        chain.append(reader)
        if reader.op == QUANTIZE:
            affine = affine_of(reader, graph)
            if affine is None or graph.dtype(reader.outputs[0]) != np.int8:
                return None
            finish = Finish(affine)
            for low, high in clips:
                finish = finish.clipped(affine.bound(low), affine.bound(high))
            return chain, finish
        operator = find(reader.op)
        function = operator.activation(reader, graph) if operator and reader.op in ("Relu", "Clip") else None
        if function is None:
            return None
        clips.append((0.0, np.inf) if function.function == "RELU" else (function.a, function.b))
        name = reader.outputs[0]
    return None


def signed(origin: Quantised | None) -> Quantised | None:
    """A constant's 8-bit integers shifted to int8; None where it has none."""
    if origin is None or origin.values.dtype.name not in ("int8", "uint8"):
        return None
    if origin.values.dtype == np.int8:
        return origin
    values, zero = ((array.astype(np.int16) - 128).astype(np.int8) for array in (origin.values, origin.zero_point))
    return Quantised(values, origin.scale, zero, origin.axis)


def _weights(site: Site, axis: int) -> tuple[Array, Array] | None:
    """The operator's int8 weights and their scales, one for each index of ``axis``; None where there are none.

    A zero point other than 0 is none that the kernels know: such weights, as fp32 ones, are used in float32.
    """
    tensor = site.graph.tensors[site.node.inputs[1]]
    origin = signed(tensor.quantised)
    if origin is None:
        if tensor.is_constant:
            site.graph.notes.append(f"node {site.node.name!r} runs in float32: its weights are not quantised to 8 bits")
        return None
    if np.any(origin.zero_point):
        site.graph.notes.append(f"node {site.node.name!r} runs in float32: its weights have a zero point other than 0")
        return None
    count = origin.values.shape[axis]
    if origin.scale.size != 1 and origin.axis != axis:
        site.graph.notes.append(
            f"node {site.node.name!r} runs in float32: its weights' scales run along axis {origin.axis}, not {axis}"
        )
        return None
    scales = np.broadcast_to(origin.scale.reshape(-1), (count,)).astype(np.float32)
    if not (np.all(scales > 0) and np.all(np.isfinite(scales))):
        return None
    return origin.values, scales


def _bias(site: Site, position: int, scales: Array, factor: float = 1.0) -> Array | None:
    """The bias times ``factor`` in units of ``scales`` (out_c,), int64; None where it is no constant row."""
    name = site.node.input(position)
    if not name or factor == 0:
        return np.zeros(len(scales), np.int64)
    tensor = site.graph.tensors[name]
    if tensor.data is None or (tensor.data.ndim == 2 and tensor.data.shape[0] != 1) or tensor.data.ndim > 2:
        return None
    origin = tensor.quantised
    if origin is not None and origin.values.dtype == np.int32 and not np.any(origin.zero_point) and factor == 1:
        own = np.broadcast_to(origin.scale.reshape(-1), (len(scales),)).astype(np.float64)
        if np.all(np.abs(own - scales) <= SAME_SCALE * scales):
            return np.broadcast_to(origin.values.reshape(-1), (len(scales),)).astype(np.int64)
    real = np.broadcast_to(tensor.data.reshape(-1), (len(scales),)).astype(np.float64) * factor
    with np.errstate(over="ignore"):
        return np.rint(real / scales).clip(-(2.0**40), 2.0**40).astype(np.int64)


def _product(site: Site, op: str, weights: Array, scales: Array, bias: Array | None, axis: int) -> list[Node]:
    source = site.operand(0)
    if source is None or bias is None:
        return []
    reach = np.abs(weights.astype(np.int64)).sum(axis=tuple(at for at in range(weights.ndim) if at != axis)) * 255
    if np.any(reach + np.abs(bias) >= 1 << 31):
        site.graph.notes.append(f"node {site.node.name!r} runs in float32: its sums could exceed 32 bits")
        return []
    node, graph = site.node, site.graph
    inputs = [
        source[0],
        graph.add_constant(f"{node.name}.weight.s8", weights),
        graph.add_constant(f"{node.name}.bias.s32", bias.astype(np.int32)),
        graph.add_constant(f"{node.name}.weight.scale", scales),
    ]
    attrs = {**node.attrs, "in": source[1], "finish": site.finish}
    return [Node(op, node.name, inputs, [""], attrs, node.index, point=node.outputs[0])]


def _conv(site: Site) -> list[Node]:
    source, weights = site.operand(0), _weights(site, 0)
    if source is None or weights is None:
        return []
    bias = _bias(site, 2, source[1].scale * weights[1].astype(np.float64))
    return _product(site, "int8::Conv", *weights, bias, 0)


def _gemm(site: Site) -> list[Node]:
    """Gemm and MatMul with a constant matrix."""
    attrs = site.node.attrs
    transposed = bool(attrs.get("transB", 0))
    alpha, beta = float(attrs.get("alpha", 1.0)), float(attrs.get("beta", 1.0))
    if site.graph.rank(site.node.inputs[1]) != 2 or attrs.get("transA", 0) or alpha <= 0:
        return []
    source, weights = site.operand(0), _weights(site, 0 if transposed else 1)
    if source is None or weights is None or site.graph.is_constant(site.node.inputs[0]):
        return []
    scales = (weights[1] * np.float32(alpha)).astype(np.float32)
    bias = _bias(site, 2, source[1].scale * scales.astype(np.float64), beta)
    matrix = np.ascontiguousarray(weights[0].T) if transposed else weights[0]
    return _product(site, "int8::Gemm", matrix, scales, bias, 1)


def _binary(site: Site) -> list[Node]:
    node = site.node
    if len(node.inputs) != 2:
        return []
    a, b = site.operand(0), site.operand(1)
    if a is None or b is None:
        return []
    op = "int8::Add" if node.op == "Sum" else f"int8::{node.op}"
    attrs = {"a": a[1], "b": b[1], "finish": site.finish}
    return [Node(op, node.name, [a[0], b[0]], [""], attrs, node.index)]


def _average(site: Site) -> list[Node]:
    node, source = site.node, site.operand(0)
    if source is None or np.prod(node.attrs["kernel_shape"]) > MOST_CELLS:
        return []
    attrs = {**node.attrs, "in": source[1], "finish": site.finish}
    return [Node("int8::AveragePool", node.name, [source[0]], [""], attrs, node.index)]


def _mean(site: Site) -> list[Node]:
    """GlobalAveragePool, and ReduceMean over exactly the spatial axes of (N, C, ...)."""
    node, graph, source = site.node, site.graph, site.operand(0)
    shape = graph.shape(node.inputs[0])
    if source is None or len(shape) < 3 or np.prod(shape[2:]) > MOST_CELLS:
        return []
    if node.op == "ReduceMean":
        axes = {normalize_axis(axis, len(shape)) for axis in ints(node, graph, "axes", 1) or []}
        if axes != set(range(2, len(shape))):
            return []
    attrs = {"in": source[1], "finish": site.finish}
    return [Node("int8::GlobalAveragePool", node.name, [source[0]], [""], attrs, node.index)]


def _concat(site: Site) -> list[Node]:
    """The parts are brought to the result's scale first; a clip behind it is taken into their tables."""
    node, graph, finish = site.node, site.graph, site.finish
    operands = [site.operand(position) for position in range(len(node.inputs))]
    made: list[Node] = []
    names = []
    for operand in operands:
        if operand is None:
            return []
        name, affine = operand
        values = np.clip(finish.affine.quantised(affine.real(VALUES)), finish.low, finish.high).astype(np.int8)
        if np.array_equal(values, VALUES):
            names.append(name)
            continue
        names.append(fresh(graph, f"{name}.scaled", graph.shape(name)))
        made.append(table(node, name, names[-1], values))
    return [*made, Node("Concat", node.name, names, [""], dict(node.attrs), node.index)]


MAKERS: dict[str, Callable[[Site], list[Node]]] = {
    "Add": _binary,
    "AveragePool": _average,
    "Concat": _concat,
    "Conv": _conv,
    "Gemm": _gemm,
    "GlobalAveragePool": _mean,
    "MatMul": _gemm,
    "Mul": _binary,
    "ReduceMean": _mean,
    "Sub": _binary,
    "Sum": _binary,
}


def absorb_clips(graph: Graph) -> None:
    """A table that only clips becomes the bounds of the int8 node before it, whose only reader it is."""
    producers = {name: node for node in graph.nodes for name in node.outputs if name}
    for node in list(graph.nodes):
        before = producers.get(node.inputs[0]) if node.op == "int8::Table" else None
        if before is None or "finish" not in before.attrs or only_reader(graph, node.inputs[0]) is not node:
            continue
        values = node.attrs["table"]
        low, high = int(values.min()), int(values.max())
        if graph.dtype(node.outputs[0]) == np.int8 and np.array_equal(values, np.clip(VALUES, low, high)):
            before.attrs["finish"] = before.attrs["finish"].clipped(low, high)
            before.outputs[0] = node.outputs[0]
            producers[node.outputs[0]] = before
            graph.nodes.remove(node)

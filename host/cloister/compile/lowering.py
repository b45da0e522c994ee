# SPDX-License-Identifier: BSD-2-Clause
"""The lowering context: what an operator's ``lower`` talks to.

Shapes and axes stay ONNX's; a tensor may exist in memory in several layouts (see :mod:`cloister.compile.layout`). An
operator asks for its operands with :meth:`Lowering.get`, declares its results with :meth:`Lowering.new` (or
:meth:`Lowering.alias` where no byte moves) and records kernels with :meth:`Lowering.emit`:

>>> def lower(self, node, ctx):                                     # a unary function, in any layout
...     x = ctx.get(node.inputs[0])
...     y = ctx.new(node.outputs[0], x.layout)
...     function = {"function": C.CL_UNARY_ABS}
...     ctx.emit("UNARY", {"in": x, "out": y, "count": x.count, "function": function}, in_place=("in",))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from cloister.compile.layout import (
    Layout,
    Shape,
    channels_last,
    logical_strides,
    merge_axes,
    physical_shape,
    plain,
    same_order,
)
from cloister.compile.sites import Site, Slice, drop_shared
from cloister.ir.graph import Activation, Array, Graph, Node
from cloister.wire import C, ffi

#: Structure of each kernel's record.
STRUCTS = {
    "CONV2D": "struct cl_conv2d",
    "DEPTHWISE": "struct cl_conv2d",
    "WINOGRAD": "struct cl_conv2d",
    "GEMM": "struct cl_gemm",
    "MATMUL": "struct cl_matmul",
    "UNARY": "struct cl_unary_op",
    "BINARY": "struct cl_binary_op",
    "COPY": "struct cl_copy",
    "FILL": "struct cl_fill",
    "POOL": "struct cl_pool",
    "REDUCE": "struct cl_reduce",
    "SOFTMAX": "struct cl_softmax",
    "LRN": "struct cl_lrn",
    "RESAMPLE": "struct cl_resample",
    "ARGMAX": "struct cl_argmax",
    "CONV2D_S8": "struct cl_conv2d_s8",
    "DEPTHWISE_S8": "struct cl_conv2d_s8",
    "GEMM_S8": "struct cl_gemm_s8",
    "BINARY_S8": "struct cl_binary_s8",
    "POOL_S8": "struct cl_pool_s8",
    "UNARY_S8": "struct cl_unary_s8",
    "QUANTIZE": "struct cl_quantize",
    "DEQUANTIZE": "struct cl_dequantize",
}

#: Constants up to this many bytes are made at once, so that equal ones are found.
EAGER = 1 << 18

#: A view must start at a multiple of this many bytes (struct cl_ref).
REF_ALIGN = 8


@dataclass(eq=False)
class Storage:
    """Bytes in the arena; the planner gives them their place. ``name`` is for the report."""

    size: int
    name: str


@dataclass(eq=False)
class Constant:
    """Bytes in a partition's weights, made when they are written: plans are tried without packing what is large."""

    size: int
    make: Callable[[], bytes] = field(repr=False)

    @property
    def data(self) -> bytes:
        """The bytes, made anew each time."""
        return self.make()


@dataclass(frozen=True, eq=False)
class Buffer:
    """A dense array in the arena or in the weights.

    ``shape`` is the logical one; ``layout`` says in which order its axes lie; ``start`` counts bytes from the
    beginning of the storage (views).
    """

    memory: Storage | Constant
    shape: Shape
    dtype: np.dtype[Any]
    layout: Layout
    start: int = 0

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.dtype.itemsize)

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.count * self.itemsize

    @property
    def is_constant(self) -> bool:
        """Lies in the weights; cannot be written."""
        return isinstance(self.memory, Constant)

    @property
    def dims(self) -> Shape:
        """The shape in the order of memory."""
        return physical_shape(self.shape, self.layout)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride in elements of each logical axis."""
        return logical_strides(self.shape, self.layout)

    def reshaped(self, shape: Shape) -> Buffer:
        """The same bytes as a plain array of another shape; ValueError where this one is not in plain order."""
        if not same_order(self.shape, self.layout, plain(len(self.shape))) or prod(shape) != self.count:
            raise ValueError(f"{self.shape} in layout {self.layout} is not the plain array {shape}")
        return Buffer(self.memory, shape, self.dtype, plain(len(shape)), self.start)


@dataclass(eq=False)
class Op:
    """One recorded kernel. ``fields`` are those of the record's structure; references are still buffers."""

    kernel: str
    node: Node
    fields: dict[str, Any]
    in_place: tuple[str, ...]
    #: Kernels of one striped region (see :mod:`cloister.compile.stripes`) share a number, others have none.
    region: int | None = None
    #: Where a password is folded into its weights.
    site: Site | None = None

    @cached_property
    def refs(self) -> dict[str, Buffer]:
        """The references by field name, absent ones left out; ``fields`` do not change once a kernel is recorded."""
        return {name: value for name, value in self.fields.items() if isinstance(value, Buffer)}

    @property
    def constants(self) -> list[Constant]:
        """The constants that the kernel reads, each once."""
        found = [ref.memory for ref in self.refs.values() if isinstance(ref.memory, Constant)]
        return list(dict.fromkeys(found))

    @property
    def reads(self) -> list[Storage]:
        """Arena storage that the kernel reads."""
        return [
            ref.memory
            for name, ref in self.refs.items()
            if name not in ("out", "scratch") and isinstance(ref.memory, Storage)
        ]

    @property
    def writes(self) -> list[Storage]:
        """Arena storage that the kernel writes, scratch included."""
        return [
            ref.memory
            for name, ref in self.refs.items()
            if name in ("out", "scratch") and isinstance(ref.memory, Storage)
        ]


class Lowering:
    """Collects the kernels of a whole graph, node after node."""

    def __init__(self, graph: Graph, weight_limit: int | None = None) -> None:
        """Places the graph's inputs in the arena, plain but for those that come otherwise (``graph.layouts``).

        ``weight_limit`` is what the weights of one kernel should not exceed, in bytes; operators that can, split.
        """
        self.graph = graph
        self.weight_limit = weight_limit
        self.ops: list[Op] = []
        self._node: Node | None = None
        self._values: dict[str, list[Buffer]] = {}
        self._flat: dict[str, Buffer] = {}
        self._constants: dict[Hashable, Constant] = {}
        #: Tensors of layers without sites although they have constant weights, and why.
        self.shared: dict[str, str] = {}
        self.inputs: dict[str, Buffer] = {}
        for name in graph.inputs:
            self.inputs[name] = self.new(name, graph.layouts.get(name, plain(graph.rank(name))))

    # ---- tensors ----

    def layout(self, name: str) -> Layout:
        """The layout in which ``get(name)`` returns the tensor: the one it was first made in; plain for constants."""
        if name in self._values:
            return self._values[name][0].layout
        return plain(self.graph.rank(name))

    def get(self, name: str, layout: Layout | None = None) -> Buffer:
        """The tensor in ``layout`` (None: as it is, see :meth:`layout`).

        A constant is permuted now; a run-time tensor is converted by a COPY kernel, once for each layout. Layouts that
        differ only in the place of axes of size 1 are the same bytes.
        """
        tensor = self.graph.tensor(name)
        shape = self.graph.shape(name)
        if tensor.data is not None:
            order = plain(len(shape)) if layout is None else layout
            buffer = self.constant(np.transpose(tensor.data, order))
            return Buffer(buffer.memory, shape, buffer.dtype, order)
        if name in self._flat and name not in self._values:
            source = self._flat[name]
            self._values[name] = [self._converted(source, plain(len(source.shape)), name).reshaped(shape)]
        present = self._values[name]
        if layout is None:
            return present[0]
        for buffer in present:
            if buffer.layout == layout:
                return buffer
        for buffer in present:
            if same_order(shape, buffer.layout, layout):
                return Buffer(buffer.memory, shape, buffer.dtype, layout, buffer.start)
        converted = self._converted(present[0], layout, name)
        present.append(converted)
        return converted

    def get_plain(self, name: str) -> Buffer:
        """The tensor in ONNX's order."""
        return self.get(name, plain(self.graph.rank(name)))

    def get_channels_last(self, name: str) -> Buffer:
        """The tensor (N, C, spatial...) as (N, spatial..., C)."""
        return self.get(name, channels_last(self.graph.rank(name)))

    def new(self, name: str, layout: Layout | None = None) -> Buffer:
        """Declares the tensor ``name``, to be written by kernels emitted next, in fresh memory (None: plain)."""
        shape = self.graph.shape(name)
        dtype = self.graph.dtype(name)
        buffer = self._fresh(shape, dtype, plain(len(shape)) if layout is None else layout, name)
        self._define(name, buffer)
        return buffer

    def alias(self, name: str, source: Buffer, layout: Layout | None = None, start: int = 0) -> Buffer:
        """Declares the tensor ``name`` to be bytes of ``source``: a view, no kernel.

        ``start`` counts bytes from the beginning of ``source`` and must be a multiple of 8. The bytes must be the
        tensor's elements in ``layout`` (None: plain).
        """
        shape = self.graph.shape(name)
        order = plain(len(shape)) if layout is None else layout
        buffer = Buffer(source.memory, shape, source.dtype, order, source.start + start)
        if start % REF_ALIGN or start + buffer.size > source.size:
            raise ValueError(f"{name}: {buffer.size} bytes at {start} are no view of {source.size} bytes")
        self._define(name, buffer)
        return buffer

    def flatten(self, name: str, source: str) -> None:
        """Declares ``name`` (Flatten, Reshape) to hold the elements of ``source`` in ONNX's order.

        Nothing moves where the source lies in plain order. Else the copy waits until somebody needs it: Gemm with
        constant weights permutes those instead (:meth:`get_flattened`).
        """
        for buffer in [] if self.graph.is_constant(source) else self._existing(source):
            if same_order(buffer.shape, buffer.layout, plain(len(buffer.shape))):
                self.alias(name, buffer)
                return
        buffer = self.get(source)
        if buffer.is_constant:
            self.alias(name, self.get_plain(source))
        else:
            self._flat[name] = buffer

    def get_flattened(self, name: str) -> tuple[Buffer, Array | None]:
        """A matrix (m, k) and, where its columns lie in another order in memory, that order.

        With ``order`` not None, column j in memory is the logical column ``order[j]``: permute the weights' rows with
        ``weights[order]``.
        """
        source = self._flat.get(name)
        shape = self.graph.shape(name)
        if source is None or name in self._values or len(shape) != 2:
            return self.get_plain(name), None
        rest = source.shape[1:]
        if source.layout[0] != 0 or shape != (source.shape[0], prod(rest)):
            return self.get_plain(name), None
        order = np.transpose(np.arange(prod(rest)).reshape(rest), [axis - 1 for axis in source.layout[1:]]).reshape(-1)
        return Buffer(source.memory, shape, source.dtype, plain(2), source.start), order

    def constant(self, array: Array, owner: Slice | None = None) -> Buffer:
        """The weights' copy of ``array`` in C order, plain layout; equal bytes are stored once in each partition.

        With an ``owner`` they are its own, as a password may change them.
        """
        values = np.asarray(array)
        data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
        digest = hashlib.sha256(data).digest()
        constant = self._constants.setdefault((owner, digest), Constant(len(data), lambda: data))
        return Buffer(constant, tuple(values.shape), values.dtype, plain(values.ndim))

    def packed(
        self,
        shape: Shape,
        make: Callable[[], Array],
        key: Hashable = None,
        dtype: np.dtype[Any] | type[np.generic] = np.float32,
        part: Slice | None = None,
    ) -> Buffer:
        """Weights of ``shape`` that ``make`` gives, later where they are large; equal keys are one constant.

        ``part`` is the layer's slice that they belong to. What is returned may lie in the arena: see :meth:`site`.
        """
        if self.graph.weights == "int8" and np.dtype(dtype) == np.float32:
            from cloister.compile.weights8 import SMALLEST, expanded

            if prod(shape) >= SMALLEST:
                return expanded(self, shape, make, key, part)
        element = np.dtype(dtype).newbyteorder("<")
        size = prod(shape) * element.itemsize
        if size <= EAGER:
            return self.constant(make())
        constant = self._constants.get(key) if key is not None else None
        if constant is None:
            constant = Constant(size, lambda: np.ascontiguousarray(make(), dtype=element).tobytes())
            if key is not None:
                self._constants[key] = constant
        return Buffer(constant, shape, np.dtype(dtype), plain(len(shape)))

    def scratch(self, size: int) -> Buffer:
        """``size`` bytes of arena for one kernel; pass it as ``scratch``."""
        return self._fresh((size,), np.dtype(np.uint8), (0,), "scratch")

    def temporary(self, shape: Shape, dtype: np.dtype[Any] | type = np.float32, layout: Layout | None = None) -> Buffer:
        """An array between the kernels of one node, without a name in the graph (None: plain)."""
        return self._fresh(shape, np.dtype(dtype), plain(len(shape)) if layout is None else layout, "temporary")

    # ---- kernels ----

    def emit(
        self, kernel: str, fields: Mapping[str, Any], in_place: Sequence[str] = (), site: Site | None = None
    ) -> None:
        """Records a kernel of enum cl_kernel (name without prefix).

        ``fields`` are the structure's, without ``op``; a reference is a Buffer or None (absent); ``out`` is written,
        ``scratch`` is scratch, all other buffers are read. Fields not given are zero. ``in_place`` names operands
        whose memory ``out`` may take over exactly if nobody needs them afterwards.
        """
        if self._node is None:
            raise RuntimeError("kernels are emitted while a node is being lowered")
        known = {name for name, _ in ffi.typeof(STRUCTS[kernel]).fields}
        unknown = set(fields) - known
        if unknown:
            raise ValueError(f"{STRUCTS[kernel]} has no field {', '.join(sorted(unknown))}")
        present = {name: value for name, value in fields.items() if value is not None}
        out = present.get("out")
        if not isinstance(out, Buffer) or out.is_constant:
            raise ValueError(f"{kernel}: out must be a buffer of the arena")
        names = tuple(name for name in in_place if name in present)
        self.ops.append(Op(kernel, self._node, present, names, site=site))

    def copy(
        self,
        source: Buffer,
        target: Buffer,
        dims: Sequence[int],
        source_strides: Sequence[int],
        target_strides: Sequence[int],
        source_start: int = 0,
        target_start: int = 0,
    ) -> None:
        """Emits a strided COPY; all counts are in elements, strides may be negative or (source) zero.

        Axes are best given in the target's order of memory; neighbouring ones are merged where the strides allow.
        """
        if source.itemsize != target.itemsize:
            raise ValueError("a copy does not convert elements")
        merged, (from_strides, to_strides) = merge_axes(dims, source_strides, target_strides)
        if len(merged) > C.CL_MAX_RANK:
            raise ValueError(f"a copy over {len(merged)} axes; the engine takes {C.CL_MAX_RANK}")
        self.emit(
            "COPY",
            {
                "in": source,
                "out": target,
                "elem_size": source.itemsize,
                "rank": len(merged),
                "dims": merged,
                "in_strides": from_strides,
                "out_strides": to_strides,
                "in_start": source_start,
                "out_start": target_start,
            },
        )

    def activation(self, node: Node) -> dict[str, Any]:
        """The ``activation`` field of a kernel: what was fused into ``node``, or the identity."""
        return activation_fields(node.activation)

    # ---- passwords ----

    def part(self, node: Node, channels: slice, count: int, depth: int, groups: int = 1) -> Slice:
        """The channels of a layer that one kernel computes, ``count`` from the beginning of ``channels`` on."""
        return Slice(node.point or node.outputs[0], channels.start or 0, count, depth, groups)

    def own_bias(self, part: Slice, bias: Array | None) -> Buffer:
        """The bias of a slice: zeros where it has none, so that a password can give it one."""
        values = np.zeros(part.channels, np.float32) if bias is None else bias.astype(np.float32, copy=False)
        return self.constant(values, part)

    def site(self, part: Slice, packing: int, weights: Buffer, bias: Buffer | None, out_scale: float = 0.0) -> Site:
        """The site of a kernel; weights in the arena have their own (:mod:`cloister.compile.weights8`)."""
        return Site(part, packing, weights if weights.is_constant else None, bias, out_scale)

    # ---- driving ----

    def begin(self, node: Node) -> None:
        """Kernels emitted from now on belong to ``node``."""
        self._node = node

    def end(self) -> None:
        """The node is lowered: outputs that leave as they are made are copied now, where they have to be at all."""
        assert self._node is not None
        if self.graph.outputs_as_made:
            for name in set(self._node.outputs).intersection(self.graph.outputs):
                self.get(name)

    def finish(self) -> dict[str, Buffer]:
        """Puts the graph's outputs into the arena, in plain order unless told otherwise; returns them by name."""
        outputs: dict[str, Buffer] = {}
        for name in self.graph.outputs:
            producer = self.graph.producer(name) or self._node or Node("Identity", "output", [name], [name])
            self.begin(producer)
            buffer = self.get(name) if self.graph.outputs_as_made else self.get_plain(name)
            if buffer.is_constant:
                target = self._fresh(buffer.shape, buffer.dtype, buffer.layout, name)
                self.copy(buffer, target, [buffer.count], [1], [1])
                buffer = target
            outputs[name] = buffer
        self.shared = drop_shared(self.ops)
        return outputs

    # ---- inside ----

    def _existing(self, name: str) -> list[Buffer]:
        if name not in self._values:
            self.get(name)
        return self._values[name]

    def _define(self, name: str, buffer: Buffer) -> None:
        if name in self._values or name in self._flat:
            raise ValueError(f"tensor {name!r} is defined twice")
        self._values[name] = [buffer]

    def _fresh(self, shape: Shape, dtype: np.dtype[Any], layout: Layout, name: str) -> Buffer:
        return Buffer(Storage(prod(shape) * dtype.itemsize, name), shape, dtype, layout)

    def _converted(self, source: Buffer, layout: Layout, name: str) -> Buffer:
        if same_order(source.shape, source.layout, layout):
            return Buffer(source.memory, source.shape, source.dtype, layout, source.start)
        target = self._fresh(source.shape, source.dtype, layout, name)
        self.copy(
            source,
            target,
            target.dims,
            [source.strides[axis] for axis in layout],
            [target.strides[axis] for axis in layout],
        )
        return target


def activation_fields(activation: Activation | None) -> dict[str, Any]:
    """``struct cl_activation`` as a dictionary."""
    chosen = activation or Activation()
    return {"function": getattr(C, f"CL_UNARY_{chosen.function}"), "a": chosen.a, "b": chosen.b}

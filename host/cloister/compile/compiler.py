# SPDX-License-Identifier: BSD-2-Clause
"""The compiler's way through: import, check, passes, lowering, plan, partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cloister.compile.arrange import Arrangement, Progress, arrange, licence_room
from cloister.compile.emit import emit_partition
from cloister.compile.locks import check_lockable, check_visible, shown
from cloister.compile.lowering import Buffer, Storage
from cloister.compile.planner import Plan
from cloister.compile.report import Report, make_report
from cloister.ir.check import check_graph
from cloister.ir.graph import Array, Graph
from cloister.ir.importer import Imported, import_onnx, raise_problems
from cloister.ir.load import ModelSource
from cloister.ir.passes.pipeline import clean, optimise
from cloister.layers import layer_id, layers_of
from cloister.password import Password
from cloister.tensors import DTYPES, TensorInfo

#: How weights of float operators may be stored.
WEIGHTS = ("float32", "int8")


@dataclass(frozen=True)
class CompiledModel:
    """A model as plain partitions, not yet sealed.

    Attributes:
        partitions: plain partitions (struct cl_partition and what follows it) in the order of execution.
        inputs: the model's inputs in ONNX's order, with their place in the arena.
        outputs: its outputs.
        arena_size: bytes of activations and scratch for the whole model.
        report: sizes, costs, and one row for each kernel.
        notes: what was assumed, for the user.
        lockable: channels of each layer that a password may name, by its tensor: of those with sites in the partitions
            all but the ones whose results the normal world would see.
    """

    partitions: list[bytes] = field(repr=False)
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    arena_size: int
    report: Report = field(repr=False)
    notes: list[str] = field(default_factory=list)
    lockable: dict[str, int] = field(default_factory=dict)

    @property
    def layers(self) -> dict[bytes, int]:
        """Channels of each layer that a password may name, by the layer's id."""
        named = {layer_id(tensor) for tensor in self.lockable}
        return {layer: channels for layer, channels in layers_of(self.partitions).items() if layer in named}


def compile_onnx(
    source: ModelSource,
    *,
    dims: Mapping[str, int] | None = None,
    fixed_inputs: Mapping[str, Array] | None = None,
    max_partition: int | None = None,
    partitions: int | None = None,
    secure_memory: int | None = None,
    winograd: bool = True,
    weights: str = "float32",
    password: Password | None = None,
    cipher: str | None = None,
    progress: Progress | None = None,
) -> CompiledModel:
    """Compiles an ONNX model; the same input gives the same bytes.

    Args:
        source: path, serialized bytes, or ModelProto (not changed).
        dims: sizes of free dimensions, by symbolic name or "input:axis"; a free first dimension defaults to 1.
        fixed_inputs: inputs that become constants, by name.
        max_partition: most bytes of a plain partition; larger weights are split by output
            channel, and a kernel that cannot be split that far gets a partition of its own. Default: 1 MiB, or what
            streams the fewest bytes in ``secure_memory``.
        partitions: number of partitions wanted, instead of ``max_partition``.
        secure_memory: the smallest budget, in bytes and all included, in which the model must run: large weights are
            cut, and activations that do not fit are computed in bands (:mod:`cloister.compile.stripes`). Larger
            budgets keep more of the same partitions resident. 0: 4 MiB where that costs little, else 8 MiB or
            whatever is enough.
        winograd: 3x3 convolutions may be computed by Winograd's F(4x4, 3x3) where the compiler expects fewer
            instructions; their results then differ from direct ones by rounding.
        weights: how weights of float operators are stored; "int8": with a scale for each output channel, a quarter of
            the bytes, and expanded before they are used.
        password: what the model is locked with: checked against the model. Nothing that is made depends on it, but that
            ``secure_memory`` holds the licence with it as well.
        cipher: what the model will be sealed with, if that is known: how much is worth while to stream less.
        progress: called with step, done and total.

    Raises:
        FormatError: no valid ONNX model.
        ModelError: ``dims`` or ``fixed_inputs`` name what the model does not have.
        UnsupportedModelError: lists every node, attribute, type and shape that is not supported.
        PartitionError: the model does not split as asked.
        MemoryBudgetError: the model cannot run in ``secure_memory``; names the smallest that it can.
        PasswordError: the password is another lock's or names what cannot be locked, or the normal world would see a
            locked tensor.
    """
    tell = progress or (lambda *_: None)
    tell("import", 0, 1)
    imported = import_onnx(source, dims, fixed_inputs)
    graph = optimised(imported, weights, password)
    arrangement = arrange(
        graph,
        max_partition=max_partition,
        partitions=partitions,
        secure_memory=secure_memory,
        winograd=winograd,
        cipher=cipher,
        held=licence_room(graph, password) if password is not None and secure_memory is not None else 0,
        progress=progress,
    )
    if password is not None:
        check_lockable(password, arrangement, graph, imported.model)
    return emit(graph, arrangement, progress)


def optimised(imported: Imported, weights: str = "float32", password: Password | None = None) -> Graph:
    """The graph of an imported model, checked and optimised; arguments and errors as :func:`compile_onnx`'s."""
    graph = imported.graph
    if weights not in WEIGHTS:
        raise ValueError(f"weights are {' or '.join(WEIGHTS)}, not {weights!r}")
    graph.weights = weights
    clean(graph)
    raise_problems([*imported.problems, *check_graph(graph)])
    if password is not None:
        check_visible(graph, [lock.tensor for lock in password.locks])
    graph.shown = shown(graph)
    optimise(graph)
    return graph


def emit(graph: Graph, arrangement: Arrangement, progress: Progress | None = None) -> CompiledModel:
    """The bytes and the report of an arranged graph."""
    emitted = []
    for done, part in enumerate(arrangement.parts):
        if progress:
            progress("emit", done, len(arrangement.parts))
        emitted.append(emit_partition(part, arrangement.plan))
    if progress:
        progress("emit", len(emitted), len(emitted))
    return CompiledModel(
        emitted,
        describe(arrangement.lowered.inputs, arrangement.plan),
        describe(arrangement.lowered.outputs, arrangement.plan),
        arrangement.plan.size,
        make_report(graph, arrangement.parts, emitted, arrangement.plan),
        list(graph.notes),
        arrangement.layers,
    )


def describe(buffers: Mapping[str, Buffer], plan: Plan) -> list[TensorInfo]:
    """Inputs or outputs with their place in the arena."""
    infos = []
    for name, buffer in buffers.items():
        assert isinstance(buffer.memory, Storage)
        offset = plan.offsets[buffer.memory] + buffer.start
        infos.append(TensorInfo(name, DTYPES[buffer.dtype.name], buffer.shape, offset, buffer.size))
    return infos


def supported_operators() -> Sequence[str]:
    """ONNX names of all supported operators, sorted."""
    from cloister.ops.base import operators

    return list(operators())

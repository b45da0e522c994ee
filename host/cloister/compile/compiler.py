# SPDX-License-Identifier: BSD-2-Clause
"""The compiler's way through: import, check, passes, lowering, plan, partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cloister.compile.emit import emit_partition
from cloister.compile.lowering import Buffer, Lowering, Storage
from cloister.compile.partition import LIMIT, PartitionError, split
from cloister.compile.planner import Plan, plan_arena
from cloister.compile.report import Report, make_report
from cloister.ir.check import check_graph
from cloister.ir.graph import Array, Graph
from cloister.ir.importer import import_onnx, raise_problems
from cloister.ir.load import ModelSource
from cloister.ir.passes.pipeline import clean, optimise
from cloister.ops.base import find
from cloister.tensors import DTYPES, TensorInfo

#: Called as progress(step, done, total) while a long compile runs.
Progress = Callable[[str, int, int], None]

MAX_PARTITION = 1 << 20
#: Header, padding, and the records of a kernel and of a copy behind it.
PARTITION_OVERHEAD = 640


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
    """

    partitions: list[bytes] = field(repr=False)
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    arena_size: int
    report: Report = field(repr=False)
    notes: list[str] = field(default_factory=list)


def compile_onnx(
    source: ModelSource,
    *,
    dims: Mapping[str, int] | None = None,
    fixed_inputs: Mapping[str, Array] | None = None,
    max_partition: int = MAX_PARTITION,
    partitions: int | None = None,
    progress: Progress | None = None,
) -> CompiledModel:
    """Compiles an ONNX model; the same input gives the same bytes.

    Args:
        source: path, serialized bytes, or ModelProto (not changed).
        dims: sizes of free dimensions, by symbolic name or "input:axis"; a free first dimension defaults to 1.
        fixed_inputs: inputs that become constants, by name.
        max_partition: most bytes of a plain partition; larger weights are split by output
            channel, and a kernel that cannot be split that far gets a partition of its own.
        partitions: number of partitions wanted, instead of ``max_partition``.
        progress: called with step, done and total.

    Raises:
        FormatError: no valid ONNX model.
        ModelError: ``dims`` or ``fixed_inputs`` name what the model does not have.
        UnsupportedModelError: lists every node, attribute, type and shape that is not supported.
        PartitionError: the model does not split as asked.
    """
    tell = progress or (lambda *_: None)
    tell("import", 0, 1)
    imported = import_onnx(source, dims, fixed_inputs)
    graph = imported.graph
    clean(graph)
    raise_problems([*imported.problems, *check_graph(graph)])
    return compile_graph(graph, max_partition=max_partition, partitions=partitions, progress=progress)


def compile_graph(
    graph: Graph, *, max_partition: int = MAX_PARTITION, partitions: int | None = None, progress: Progress | None = None
) -> CompiledModel:
    """Compiles a checked graph, which is changed by the passes; arguments and errors as :func:`compile_onnx`."""
    tell = progress or (lambda *_: None)
    optimise(graph)
    limit = max(1, max_partition - PARTITION_OVERHEAD) if partitions is None else None
    ctx = Lowering(graph, limit)
    for done, node in enumerate(graph.nodes):
        tell("lower", done, len(graph.nodes))
        operator = find(node.op)
        assert operator is not None, node.op
        ctx.begin(node)
        operator.lower(node, ctx)
    outputs = ctx.finish()
    tell("plan", 0, 1)
    plan = plan_arena(ctx.ops, list(ctx.inputs.values()), list(outputs.values()))
    # A model that only renames its inputs has no kernel; it still ships as one partition.
    if plan.size >= LIMIT:
        raise PartitionError(
            f"the activations take {plan.size} bytes, the format allows {LIMIT - 1}",
            "compile for a smaller batch or input (--dim)",
        )
    parts = split(ctx.ops, max_partition, partitions) or [[]]
    emitted = []
    for done, part in enumerate(parts):
        tell("emit", done, len(parts))
        emitted.append(emit_partition(part, plan))
    tell("emit", len(parts), len(parts))
    return CompiledModel(
        emitted,
        describe(ctx.inputs, plan),
        describe(outputs, plan),
        plan.size,
        make_report(graph, parts, emitted, plan),
        list(graph.notes),
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

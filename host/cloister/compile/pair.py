# SPDX-License-Identifier: BSD-2-Clause
"""Pairs: a backbone that runs in the normal world, and a CPM that reads taps of it in the trusted application.

Both are compiled together, so that taps cross as they lie: what the backbone makes channels-last, the CPM takes
channels-last. Both are cut where a tap becomes ready, or is needed first, so that the CPM can begin with one while
the backbone computes the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cloister.backbone import Tap, pack_backbone
from cloister.compile.arrange import Arrangement, Progress, arrange, licence_room
from cloister.compile.compiler import CompiledModel, emit, optimised
from cloister.compile.locks import check_lockable
from cloister.compile.lowering import Buffer, Op, Storage
from cloister.compile.memory import PAGE
from cloister.errors import CloisterError
from cloister.ir.graph import Graph, Node
from cloister.ir.importer import Imported, import_onnx
from cloister.ir.load import ModelError, ModelSource, free_dims, load_model
from cloister.ir.passes.dead import remove_dead
from cloister.password import Password
from cloister.wire import C

#: Weights of the normal world are not cut.
_WHOLE = 1 << 31


class PairError(CloisterError):
    """Backbone and CPM do not fit each other."""


@dataclass(frozen=True)
class ArrangedPair:
    """A pair whose memory and partitions are settled.

    Attributes:
        backbone, cpm: the optimised graphs; the CPM's inputs stand in the order in which they become ready.
        backbone_arrangement, cpm_arrangement: their kernels, memory and partitions.
        taps: where each input of the CPM lies in the backbone, and when.
        first_use: for each input of the CPM, the partition before which none reads it or a later input; ascending.
        model: the CPM as ONNX, shapes fixed.
    """

    backbone: Graph
    backbone_arrangement: Arrangement
    cpm: Graph
    cpm_arrangement: Arrangement
    taps: list[Tap]
    first_use: list[int]
    model: Imported = field(repr=False)

    @property
    def tap_bytes(self) -> int:
        """Bytes that cross into the secure world for one inference."""
        return sum(tap.size for tap in self.taps)


@dataclass(frozen=True)
class CompiledPair:
    """A pair as plain partitions, not yet sealed.

    Attributes:
        cpm: for the trusted application; its inputs are the taps, each as the backbone leaves it in memory.
        backbone: for the normal world; its outputs are the taps that it computes.
        taps, first_use: as of :class:`ArrangedPair`.
    """

    cpm: CompiledModel
    backbone: CompiledModel
    taps: list[Tap]
    first_use: list[int]

    @property
    def section(self) -> bytes:
        """The bundle's section for the normal world: ``struct cl_backbone`` and what follows it."""
        return pack_backbone(self.backbone.inputs, self.taps, self.backbone.partitions, self.backbone.arena_size)


def compile_pair(
    cpm: ModelSource,
    backbone: ModelSource,
    *,
    dims: Mapping[str, int] | None = None,
    max_partition: int | None = None,
    secure_memory: int | None = None,
    weights: str = "float32",
    winograd: bool = True,
    password: Password | None = None,
    cipher: str | None = None,
    stages: bool = True,
    progress: Progress | None = None,
) -> CompiledPair:
    """Compiles a CPM and the backbone whose outputs it reads; the same inputs give the same bytes.

    Args:
        cpm: its inputs bear names of outputs (or inputs) of the backbone.
        backbone: outputs that the CPM does not read are left out.
        dims: sizes of free dimensions of either.
        max_partition, secure_memory, weights, password, cipher: of the CPM, as :func:`cloister.compile.compile_onnx`
            describes them.
        winograd: of both.
        stages: cut the CPM where it needs a further tap.
        progress: called with step, done and total.

    Raises:
        PairError: the CPM reads what the backbone does not give, or in another shape or type.
        ModelError: ``dims`` name what neither model has.
        UnsupportedModelError, PartitionError, MemoryBudgetError, PasswordError: as of one model.
    """
    made = arrange_pair(
        cpm,
        backbone,
        dims=dims,
        max_partition=max_partition,
        secure_memory=secure_memory,
        weights=weights,
        winograd=winograd,
        password=password,
        cipher=cipher,
        stages=stages,
        progress=progress,
    )
    return CompiledPair(
        emit(made.cpm, made.cpm_arrangement, progress),
        emit(made.backbone, made.backbone_arrangement, progress),
        made.taps,
        made.first_use,
    )


def arrange_pair(
    cpm: ModelSource,
    backbone: ModelSource,
    *,
    dims: Mapping[str, int] | None = None,
    max_partition: int | None = None,
    secure_memory: int | None = None,
    weights: str = "float32",
    winograd: bool = True,
    password: Password | None = None,
    cipher: str | None = None,
    stages: bool = True,
    progress: Progress | None = None,
) -> ArrangedPair:
    """All of :func:`compile_pair` but the bytes, for estimates; arguments and errors as there."""
    if progress:
        progress("import", 0, 1)
    names = _name(cpm, "the CPM"), _name(backbone, "the backbone")
    inner, outer = _import(cpm, backbone, dims or {})
    _check_fit(inner.graph, outer.graph, names)
    wanted = [name for name in inner.graph.inputs if name not in outer.graph.inputs]
    outer.graph.outputs = wanted
    outer.graph.outputs_as_made = True
    remove_dead(outer.graph)
    normal = optimised(outer)
    _sort(normal, wanted)
    low = arrange(normal, max_partition=_WHOLE, winograd=winograd)

    ready = {name: _written(low, low.lowered.outputs[name]) for name in wanted}
    given = inner.graph.inputs
    inner.graph.inputs = sorted(given, key=lambda name: (ready.get(name, 0), given.index(name)))
    for name in wanted:
        inner.graph.layouts[name] = low.lowered.outputs[name].layout
    secure = optimised(inner, weights, password)
    _sort_secure(secure, ready)
    held = PAGE  # the manifest may need one more for cl_pair
    if password is not None and secure_memory is not None:
        held += licence_room(secure, password)
    high = arrange(
        secure,
        max_partition=max_partition,
        secure_memory=secure_memory,
        winograd=winograd,
        cipher=cipher,
        held=held,
        progress=progress,
    )
    if stages:
        high = _in_stages(high, ready, max(1, secure_memory - held) if secure_memory else None)
        low = _cut(low, ready.values())
    if password is not None:
        check_lockable(password, high, secure, inner.model)
    taps = [_tap(name, low, normal, ready) for name in high.lowered.inputs]
    return ArrangedPair(normal, low, secure, high, taps, _first_uses(high), inner)


def _name(source: ModelSource, otherwise: str) -> str:
    return str(source) if isinstance(source, str | Path) else otherwise


def _import(cpm: ModelSource, backbone: ModelSource, dims: Mapping[str, int]) -> tuple[Imported, Imported]:
    """Both models; each gets the dimensions that it has."""
    loaded = [load_model(source) for source in (cpm, backbone)]
    free = [free_dims(model) for model in loaded]
    for name in dims:
        if not any(name in names for names in free):
            known = ", ".join(sorted(set().union(*free))) or "none: all their shapes are fixed"
            raise ModelError(
                f"neither CPM nor backbone has a free dimension {name!r}", f"their free dimensions are {known}"
            )
    inner, outer = (
        import_onnx(model, {name: size for name, size in dims.items() if name in names})
        for model, names in zip(loaded, free, strict=True)
    )
    return inner, outer


def _check_fit(cpm: Graph, backbone: Graph, names: tuple[str, str]) -> None:
    """Every input of the CPM is an output or an input of the backbone, in the same shape and type."""
    inner, outer = names
    again = "export both files from the same pair, without changing one of them alone"
    if not cpm.inputs or len(cpm.inputs) > C.CL_MAX_IO:
        raise PairError(f"{inner} has {len(cpm.inputs)} inputs, a CPM reads 1 to {C.CL_MAX_IO} taps", again)
    for name in cpm.inputs:
        if name not in backbone.outputs and name not in backbone.inputs:
            offered = ", ".join([*backbone.outputs, *backbone.inputs])
            raise PairError(f"{inner} reads {name!r}, which {outer} does not give (it has {offered})", again)
        wanted, there = cpm.tensor(name), backbone.tensor(name)
        if (wanted.shape, wanted.dtype) != (there.shape, there.dtype):
            raise PairError(
                f"{inner} reads {name!r} as {wanted.dtype} {list(wanted.shape or ())}, "
                f"{outer} gives {there.dtype} {list(there.shape or ())}",
                again,
            )
    if all(name in backbone.inputs for name in cpm.inputs):
        raise PairError(
            f"{inner} reads nothing that {outer} computes: only {', '.join(cpm.inputs)}",
            "compile it without --backbone, or export it with taps as inputs",
        )


def _sort(graph: Graph, taps: Sequence[str]) -> None:
    """Nodes that an early tap needs come first; the order stays else. All nodes serve a tap."""
    made = {name: place for place, node in enumerate(graph.nodes) for name in node.outputs}
    rank = {name: place for place, name in enumerate(sorted(taps, key=lambda name: made.get(name, -1)))}
    needed: dict[str, int] = dict(rank)
    stage: dict[int, int] = {}
    for node in reversed(graph.nodes):
        stage[id(node)] = min(needed.get(name, len(rank)) for name in node.outputs)
        for name in node.inputs:
            needed[name] = min(needed.get(name, len(rank)), stage[id(node)])
    graph.nodes.sort(key=lambda node: stage[id(node)])


def _sort_secure(graph: Graph, ready: Mapping[str, int]) -> None:
    """Nodes that need no late input come first; the order stays else."""
    waits = {name: ready.get(name, 0) for name in graph.inputs}

    def stage(node: Node) -> int:
        latest = max((waits.get(name, 0) for name in node.inputs), default=0)
        waits.update(dict.fromkeys(node.outputs, latest))
        return latest

    stages = {id(node): stage(node) for node in graph.nodes}
    graph.nodes.sort(key=lambda node: stages[id(node)])


def _ops(made: Arrangement) -> list[Op]:
    return [op for part in made.parts for op in part]


def _written(made: Arrangement, buffer: Buffer) -> int:
    """Kernels that have run when a tensor is complete."""
    return max((place + 1 for place, op in enumerate(_ops(made)) if buffer.memory in op.writes), default=0)


def _read(made: Arrangement, buffer: Buffer) -> int:
    """The first kernel that reads a tensor; behind the last one where none does."""
    ops = _ops(made)
    return next((place for place, op in enumerate(ops) if buffer.memory in op.reads), len(ops))


def _cut(made: Arrangement, places: Collection[int]) -> Arrangement:
    """The same kernels, with a new partition before each of some kernels."""
    parts: list[list[Op]] = []
    place = 0
    for part in made.parts:
        parts.append([])
        for op in part:
            if place in places and parts[-1]:
                parts.append([])
            parts[-1].append(op)
            place += 1
    return replace(made, parts=parts)


def _in_stages(made: Arrangement, ready: Mapping[str, int], budget: int | None) -> Arrangement:
    """The CPM cut where it needs a tap that becomes ready later than those before; as it was where memory forbids."""
    earlier, places = 0, set()
    for name, buffer in made.lowered.inputs.items():
        if ready.get(name, 0) > earlier:
            earlier = ready[name]
            places.add(_read(made, buffer))
    cut = _cut(made, places)
    return made if budget and cut.reside(budget) is None else cut


def _first_uses(made: Arrangement) -> list[int]:
    """For each input the first partition that reads it or one behind it."""
    where = [index for index, part in enumerate(made.parts) for _ in part]
    uses = [min(_read(made, buffer), len(where) - 1) for buffer in made.lowered.inputs.values()]
    found = [where[place] if where else 0 for place in uses]
    return [min(found[index:]) for index in range(len(found))]


def _tap(name: str, made: Arrangement, graph: Graph, ready: Mapping[str, int]) -> Tap:
    """Where an input of the CPM is found."""
    if name not in made.lowered.outputs:
        return Tap(graph.inputs.index(name), 0, 0, made.lowered.inputs[name].size)
    buffer = made.lowered.outputs[name]
    assert isinstance(buffer.memory, Storage)
    ends = [sum(map(len, made.parts[: index + 1])) for index in range(len(made.parts))]
    parts = sum(end < ready[name] for end in ends) + 1 if ready[name] else 0
    return Tap(None, parts, made.plan.offsets[buffer.memory] + buffer.start, buffer.size)

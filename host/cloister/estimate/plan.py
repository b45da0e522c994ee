# SPDX-License-Identifier: BSD-2-Clause
"""Whether and how a model fits a budget of secure memory, told before it is compiled or deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cloister.compile.arrange import Arrangement, MemoryBudgetError, Progress, arrange, smallest_budget
from cloister.compile.memory import TA_OWN, Residency
from cloister.compile.pair import arrange_pair
from cloister.compile.planner import align, alive_at
from cloister.compile.report import graph_cost
from cloister.estimate.instructions import WITH_CRYPTO, WITHOUT_CRYPTO, Instructions, Streaming, inference
from cloister.ir.check import check_graph
from cloister.ir.graph import Graph
from cloister.ir.importer import import_onnx, raise_problems
from cloister.ir.load import ModelSource
from cloister.ir.passes.pipeline import clean, optimise
from cloister.ops.base import find

#: Largest payload that the TA maps at once, beside its own memory: OP-TEE maps CFG_PGT_CACHE_ENTRIES (8) times 2 MiB.
#: Of a larger one each partition is an invocation.
MAPPED = 12 << 20


@dataclass(frozen=True)
class Moment:
    """Secure memory while one kernel runs, in bytes; ``node`` is its ONNX node, ``partition`` its partition."""

    node: str
    kernel: str
    partition: int
    alive: int
    streamed: int


@dataclass(frozen=True)
class NormalWorld:
    """The backbone of a pair: what it takes in the normal world, and what crosses; sizes in bytes.

    Attributes:
        taps: bytes of each tap by its name, as they become ready.
        stages: invocations in which they can be handed over, each as soon as it is ready; otherwise one.
        weights, arena: of the backbone.
        macs: multiply-accumulates of it for one inference.
    """

    taps: dict[str, int]
    stages: int
    weights: int
    arena: int
    macs: int


@dataclass(frozen=True)
class MemoryPlan:
    """How a model lies in a budget; all sizes in bytes.

    Attributes:
        budget: secure memory for the whole session.
        fits: the model runs in it.
        smallest: the smallest budget in which it can be made to run; None where it fits and nobody asked.
        partitions, largest: number of partitions, and the largest one's plain size.
        weights: plain bytes of all partitions.
        arena: the planner's peak of activations and scratch.
        bound: most bytes alive at one kernel; no plan is smaller.
        regions: runs of kernels that are computed in bands of rows.
        own, table: the TA's own pages; the manifest's and the slots'.
        used: taken of the budget at most; ``loaded`` is what the TA reports of it as its peak.
        resident, resident_bytes: partitions that stay decrypted.
        streamed: plain bytes decrypted at each inference.
        macs: multiply-accumulates of one inference.
        instructions, instructions_without_crypto: estimates for one inference.
        moments: memory over time.
        backbone: of a pair, the part that needs no secure memory; all else is the CPM's.
    """

    budget: int
    fits: bool
    smallest: int | None
    partitions: int = 0
    largest: int = 0
    weights: int = 0
    arena: int = 0
    bound: int = 0
    regions: int = 0
    own: int = TA_OWN
    table: int = 0
    used: int = 0
    loaded: int = 0
    resident: int = 0
    resident_bytes: int = 0
    streamed: int = 0
    macs: int = 0
    instructions: Instructions | None = None
    instructions_without_crypto: Instructions | None = None
    moments: list[Moment] = field(default_factory=list, repr=False)
    backbone: NormalWorld | None = None

    @property
    def ratio(self) -> float:
        """Peak of the arena over its lower bound."""
        return self.arena / self.bound if self.bound else 1.0

    def as_json(self) -> dict[str, Any]:
        """All but the moments, for other programs."""
        found = {name: value for name, value in vars(self).items() if name != "moments"}
        for name in ("instructions", "instructions_without_crypto"):
            value = found[name]
            if value is not None:
                found[name] = {**asdict(value), "total": value.total, "extrapolated": value.extrapolated}
        if self.backbone is not None:
            found["backbone"] = asdict(self.backbone)
        return {**found, "peak_over_bound": self.ratio}


def plan_model(
    source: ModelSource,
    budget: int,
    *,
    backbone: ModelSource | None = None,
    dims: Mapping[str, int] | None = None,
    max_partition: int | None = None,
    compiled_for: int | None = None,
    smallest: bool = False,
    cipher: str | None = None,
    progress: Progress | None = None,
) -> MemoryPlan:
    """Plans an ONNX model for ``budget`` bytes of secure memory.

    Args:
        source: path, serialized bytes, or ModelProto.
        budget: secure memory of the session, all included.
        backbone: the model is the CPM of a pair, and this the backbone whose taps it reads.
        dims: sizes of free dimensions.
        max_partition: as the compiler's.
        compiled_for: what the bundle is compiled for, where that is not ``budget``.
        smallest: search for the smallest budget as well (always done where the model does not fit).
        cipher: what the bundle is sealed with, if that is known, as the compiler's.
        progress: called with step, done and total.

    Raises:
        FormatError, ModelError, UnsupportedModelError: as :func:`cloister.compile.compile_onnx`.
        PairError: CPM and backbone do not fit each other.
    """
    if backbone is not None:
        return _plan_pair(source, backbone, budget, dims, max_partition, compiled_for, smallest, cipher, progress)
    imported = import_onnx(source, dims)
    graph = imported.graph
    clean(graph)
    raise_problems([*imported.problems, *check_graph(graph)])
    optimise(graph)
    try:
        made = arrange(
            graph,
            max_partition=max_partition,
            secure_memory=compiled_for or budget,
            cipher=cipher,
            progress=progress,
        )
    except MemoryBudgetError as error:
        return MemoryPlan(budget, False, error.smallest)
    least = min(smallest_budget(graph, max_partition), made.least) if smallest else None
    return plan_arrangement(graph, made, budget, least)


def _plan_pair(
    cpm: ModelSource,
    backbone: ModelSource,
    budget: int,
    dims: Mapping[str, int] | None,
    max_partition: int | None,
    compiled_for: int | None,
    smallest: bool,
    cipher: str | None,
    progress: Progress | None,
) -> MemoryPlan:
    try:
        pair = arrange_pair(
            cpm,
            backbone,
            dims=dims,
            max_partition=max_partition,
            secure_memory=compiled_for or budget,
            cipher=cipher,
            progress=progress,
        )
    except MemoryBudgetError as error:
        return MemoryPlan(budget, False, error.smallest)
    made = pair.cpm_arrangement
    least = min(smallest_budget(pair.cpm, max_partition), made.least) if smallest else None
    below = pair.backbone_arrangement
    normal = NormalWorld(
        {name: tap.size for name, tap in zip(made.lowered.inputs, pair.taps, strict=True)},
        len({tap.ready for tap in pair.taps}),
        sum(below.sizes),
        below.plan.size,
        graph_cost(pair.backbone).macs,
    )
    return replace(plan_arrangement(pair.cpm, made, budget, least), backbone=normal)


def plan_arrangement(graph: Graph, made: Arrangement, budget: int, smallest: int | None = None) -> MemoryPlan:
    """How an arranged model lies in a budget."""
    lies = made.reside(budget)
    if lies is None:
        return MemoryPlan(budget, False, smallest or made.least)
    sizes, streaming = made.sizes, streaming_of(made, lies)
    inputs = sum(buffer.size for buffer in made.lowered.inputs.values())
    values = next(iter(made.lowered.outputs.values())).count
    costs = [operator.cost(node, graph).macs for node in graph.nodes if (operator := find(node.op)) is not None]
    return MemoryPlan(
        budget=budget,
        fits=True,
        smallest=smallest,
        partitions=len(sizes),
        largest=max(sizes),
        weights=sum(sizes),
        arena=made.plan.size,
        bound=made.plan.bound,
        regions=made.regions,
        table=made.table,
        used=lies.used,
        loaded=lies.loaded,
        resident=len(lies.resident),
        resident_bytes=lies.resident_bytes,
        streamed=lies.streamed,
        macs=sum(costs),
        instructions=inference(made.parts, streaming, inputs, values, suite=WITH_CRYPTO),
        instructions_without_crypto=inference(made.parts, streaming, inputs, values, suite=WITHOUT_CRYPTO),
        moments=_moments(made, set(lies.resident)),
    )


def streaming_of(made: Arrangement, lies: Residency) -> Streaming:
    """What each inference decrypts of an arranged model that lies so in its budget."""
    streamed = [index for index in range(len(made.sizes)) if index not in set(lies.resident)]
    payload = sum(made.sizes)
    return Streaming(
        [made.sizes[index] for index in streamed],
        sum(len(made.parts[index]) for index in streamed),
        payload,
        payload > MAPPED,
    )


def _moments(made: Arrangement, resident: set[int]) -> list[Moment]:
    alive, _ = alive_at(made.lowered.ops, *made.lowered.ends)
    sizes = made.sizes
    where = [index for index, part in enumerate(made.parts) for _ in part]
    return [
        Moment(op.node.name, op.kernel, part, now, 0 if part in resident else align(sizes[part]))
        for op, part, now in zip(made.lowered.ops, where, alive, strict=True)
    ]

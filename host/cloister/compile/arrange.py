# SPDX-License-Identifier: BSD-2-Clause
"""From a graph to kernels, their memory and their partitions: everything about a compile but its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloister.compile.lowering import Buffer, Lowering, Op
from cloister.compile.memory import PAGE, TA_OWN, Residency, least_memory, manifest_pages, reside
from cloister.compile.partition import LIMIT, PartitionError, partition_size, split
from cloister.compile.planner import Plan, align, plan_arena
from cloister.compile.striping import Striping
from cloister.compile.winograd import BYTE, GROWTH, apply, choose, saved
from cloister.errors import CloisterError
from cloister.ir.graph import Graph
from cloister.ops.base import find

#: Called as progress(step, done, total) while a long compile runs.
Progress = Callable[[str, int, int], None]

#: Default limit of a plain partition where neither it nor a budget of memory is given.
MAX_PARTITION = 1 << 20
#: Limits that are tried for a budget, as divisors of it, and the least.
DIVISORS = (4, 8, 16, 24, 32)
MIN_PARTITION = 1 << 16
#: What starting a streamed partition costs, in bytes decrypted: small partitions are worth it only where they let
#: more stay resident.
PARTITION_COST = 4096
#: Budgets tried where none is asked for, and how much larger a model may become to run in the first as well.
BUDGETS = tuple(1 << power for power in range(22, 33))
GAIN = 1.02
#: Header, padding, and the records of a kernel and of a copy behind it.
PARTITION_OVERHEAD = 640
#: Relative accuracy of the smallest budget that an error names.
ACCURACY = 0.01


class MemoryBudgetError(CloisterError):
    """The model cannot run in the budget.

    Attributes:
        smallest: bytes of the smallest budget in which it can.
    """

    def __init__(self, message: str, remedy: str, smallest: int) -> None:
        super().__init__(message, remedy)
        self.smallest = smallest


@dataclass(frozen=True)
class Lowered:
    """Kernels in order, with the buffers of the model's inputs and outputs by name."""

    ops: list[Op]
    inputs: dict[str, Buffer]
    outputs: dict[str, Buffer]

    @property
    def ends(self) -> tuple[list[Buffer], list[Buffer]]:
        """Inputs and outputs as the planner takes them."""
        return list(self.inputs.values()), list(self.outputs.values())


@dataclass(frozen=True)
class Arrangement:
    """A model whose memory and partitions are settled.

    Attributes:
        lowered: kernels as they run; those of striped regions are there once for each band.
        plan: of the arena.
        parts: the kernels of each partition.
        regions: runs of kernels that are computed in bands.
    """

    lowered: Lowered
    plan: Plan
    parts: list[list[Op]]
    regions: int = 0

    def __post_init__(self) -> None:
        if self.plan.size >= LIMIT:
            raise PartitionError(
                f"the activations take {self.plan.size} bytes, the format allows {LIMIT - 1}",
                "compile for a smaller batch or input (--dim), or for a budget (--secure-memory)",
            )

    @property
    def sizes(self) -> list[int]:
        """Bytes of each plain partition."""
        return [partition_size(part) for part in self.parts]

    @property
    def ios(self) -> int:
        """Number of inputs and outputs."""
        return len(self.lowered.inputs) + len(self.lowered.outputs)

    @property
    def least(self) -> int:
        """The smallest budget in which the model runs as it is arranged."""
        return least_memory(self.plan.size, self.sizes, self.ios)

    def reside(self, budget: int) -> Residency | None:
        """How the model lies in a budget; None where it does not fit."""
        return reside(self.plan.size, self.sizes, self.ios, budget)


def lower(graph: Graph, limit: int | None, progress: Progress | None = None) -> Lowered:
    """The kernels of an optimised graph; ``limit`` is what the weights of one kernel should not exceed, in bytes."""
    ctx = Lowering(graph, limit)
    for done, node in enumerate(graph.nodes):
        if progress:
            progress("lower", done, len(graph.nodes))
        operator = find(node.op)
        assert operator is not None, node.op
        ctx.begin(node)
        operator.lower(node, ctx)
    return Lowered(ctx.ops, ctx.inputs, ctx.finish())


def arrange(
    graph: Graph,
    *,
    max_partition: int | None = None,
    partitions: int | None = None,
    secure_memory: int | None = None,
    winograd: bool = True,
    progress: Progress | None = None,
) -> Arrangement:
    """Arranges an optimised graph; arguments and errors as :func:`cloister.compile.compile_onnx` describes them."""
    if secure_memory is not None:
        if secure_memory:
            budget, fitted = secure_memory, _for_budget(graph, secure_memory, max_partition, progress)
        else:
            budget, fitted = _for_any_budget(graph, max_partition, progress)
        if fitted is None:
            raise _too_small(graph, secure_memory, max_partition)
        return _with_winograd(fitted, budget) if winograd else fitted
    limit = MAX_PARTITION if max_partition is None else max_partition
    lowered = lower(graph, max(1, limit - PARTITION_OVERHEAD) if partitions is None else None, progress)
    if progress:
        progress("plan", 0, 1)
    # A model that only renames its inputs has no kernel; it still ships as one partition.
    made = Arrangement(lowered, plan_arena(lowered.ops, *lowered.ends), split(lowered.ops, limit, partitions) or [[]])
    return _with_winograd(made, None) if winograd else made


def _with_winograd(made: Arrangement, budget: int | None) -> Arrangement:
    """The arrangement with those convolutions as WINOGRAD that are worth their scratch."""
    before = made.reside(budget) if budget is not None else None
    size = made.plan.size
    if budget is None or before is None:
        limits = [size + (size + sum(made.sizes)) // GROWTH]
    else:
        limits = [size + budget - before.used, *(size + (1 << power) for power in range(16, 24))]
    best, most = made, 0.0
    for limit in limits:
        for aim in (limit, limit - limit // 10):
            chosen = choose(made.lowered.ops, *made.lowered.ends, aim)
            ops = apply(made.lowered.ops, chosen)
            plan = plan_arena(ops, *made.lowered.ends) if chosen else made.plan
            if plan.size <= limit:
                break
        else:
            continue
        gain = sum(saved(made.lowered.ops[index], tiles) for index, tiles in chosen.items())
        if budget is not None and before is not None:
            lies = reside(plan.size, made.sizes, made.ios, budget)
            if lies is None:
                continue
            gain -= BYTE * (lies.streamed - before.streamed)
        if gain > most:
            following = iter(ops)
            parts = [[next(following) for _ in part] for part in made.parts]
            lowered = Lowered(ops, made.lowered.inputs, made.lowered.outputs)
            best, most = Arrangement(lowered, plan, parts, made.regions), gain
    return best


def smallest_budget(graph: Graph, max_partition: int | None = None) -> int:
    """The smallest budget in which an optimised graph can be made to run, to about :data:`ACCURACY`."""
    found = []
    known: Known = {}
    for partition in [max_partition] if max_partition else [1 << 17, 1 << 18, 1 << 19]:
        tries = _Tries(graph, partition, known)
        high = tries.whole.plan.size
        found.append(tries.whole.least)
        low = 0
        while high - low > ACCURACY * high:
            middle = (low + high) // 2
            made = tries.fit(middle)
            if made is None:
                low = middle
            else:
                high = min(middle, made.plan.size)
                found.append(made.least)
    return min(found)


#: Lowered models by what tells them apart, see _Tries.
Known = dict[tuple[object, ...], tuple[Lowered, Striping]]


class _Tries:
    """One limit of partitions, tried with several sizes of the arena.

    ``known`` are the kernels that other limits gave: where the limit cuts no kernel, they are the same, and what was
    found out about them need not be found again.
    """

    def __init__(self, graph: Graph, partition: int, known: Known, progress: Progress | None = None) -> None:
        self.partition = partition
        lowered = lower(graph, max(1, partition - PARTITION_OVERHEAD), progress)
        cuts = tuple((op.kernel, *(ref.shape for ref in op.refs.values())) for op in lowered.ops)
        self.lowered, self.striping = known.setdefault(cuts, (lowered, Striping(lowered.ops, *lowered.ends)))
        self.whole = self._arrangement(self.lowered.ops, self.striping.whole, 0)

    def fit(self, arena: int) -> Arrangement | None:
        """An arrangement with an arena of at most so many bytes."""
        if self.whole.plan.size <= arena:
            return self.whole
        fitted = self.striping.fit(arena, self.partition)
        return None if fitted is None else self._arrangement(fitted.ops, fitted.plan, fitted.regions)

    def _arrangement(self, ops: list[Op], plan: Plan, regions: int) -> Arrangement:
        parts = split(ops, self.partition, None) or [[]]
        return Arrangement(Lowered(ops, self.lowered.inputs, self.lowered.outputs), plan, parts, regions)


def _for_any_budget(
    graph: Graph, max_partition: int | None, progress: Progress | None
) -> tuple[int, Arrangement | None]:
    """The smallest of :data:`BUDGETS` that costs little against the next, else the smallest that is enough at all."""
    small, large = BUDGETS[:2]
    first = _for_budget(graph, small, max_partition, progress)
    if first is not None and not first.regions:
        return small, first
    second = _for_budget(graph, large, max_partition, progress)
    if first is not None and second is not None and sum(first.sizes) <= GAIN * sum(second.sizes):
        return small, first
    if second is not None:
        return large, second
    for budget in BUDGETS[2:]:
        found = _for_budget(graph, budget, max_partition, progress)
        if found is not None:
            return budget, found
    return 0, None


def _too_small(graph: Graph, budget: int, max_partition: int | None) -> MemoryBudgetError:
    smallest = smallest_budget(graph, max_partition)
    mib = -(-smallest * 100 // (1 << 20)) / 100
    return MemoryBudgetError(
        f"the model does not fit into {budget} bytes of secure memory, however it is cut; "
        f"the smallest that it can run in is {smallest} bytes",
        f"give at least --secure-memory {mib:.2f}MiB, or a smaller input",
        smallest,
    )


def _for_budget(
    graph: Graph, budget: int, max_partition: int | None, progress: Progress | None = None
) -> Arrangement | None:
    """The arrangement that streams the fewest bytes in ``budget``; None where there is none."""
    limits = {max(MIN_PARTITION, budget // divisor // PAGE * PAGE) for divisor in DIVISORS}
    candidates = sorted(limits, reverse=True) if max_partition is None else [max_partition]
    best: Arrangement | None = None
    least = -1
    known: Known = {}
    for done, partition in enumerate(candidates):
        if progress:
            progress("plan", done, len(candidates))
        made = _with_partition(graph, budget, partition, known)
        lies = made.reside(budget) if made else None
        if made is None or lies is None:
            continue
        cost = lies.streamed + PARTITION_COST * (len(made.parts) - len(lies.resident))
        if best is None or cost < least:
            best, least = made, cost
        if least == 0:
            break
    return best


def _with_partition(graph: Graph, budget: int, partition: int, known: Known) -> Arrangement | None:
    try:
        tries = _Tries(graph, partition, known)
    except PartitionError:
        return None
    made = tries.whole
    for _ in range(4):
        # The table grows with the number of partitions, which grows with the bands.
        largest = align(max(partition, *made.sizes))
        arena = budget - TA_OWN - manifest_pages(len(made.parts), made.ios) - largest
        if made.reside(budget) is not None and made is not tries.whole:
            return made
        fitted = tries.fit(min(arena, made.plan.size)) if arena > 0 else None
        if fitted is None:
            return None
        made = fitted
        if made.reside(budget) is not None:
            return made
    return None

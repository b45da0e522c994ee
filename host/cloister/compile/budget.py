# SPDX-License-Identifier: BSD-2-Clause
"""The search for partitions, bands and scratch with which a model costs least in a budget of secure memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

from cloister.compile.arrangement import Arrangement, Lowered, Progress, lower
from cloister.compile.lowering import Op
from cloister.compile.memory import PAGE, TA_OWN
from cloister.compile.partition import PartitionError, split
from cloister.compile.planner import Plan, align, alive_at, plan_arena
from cloister.compile.striping import Striping
from cloister.compile.winograd import BYTE, GROWTH, apply, choose, gained, reserve, saved
from cloister.errors import CloisterError
from cloister.ir.graph import Graph

#: Limits of a partition that are tried for a budget, as divisors of it, and the least.
DIVISORS = (4, 8, 16, 24, 32)
MIN_PARTITION = 1 << 14
#: Limits tried where the smallest budget is looked for; the small ones for models of at most FEW of the least.
LARGE_PARTITIONS = (1 << 17, 1 << 18, 1 << 19)
SMALL_PARTITIONS = (MIN_PARTITION, 2 * MIN_PARTITION, 4 * MIN_PARTITION)
FEW = 64
#: Limits tried besides, just above the weights of a layer, so that it stays in one piece.
LAYERS = 3
#: Instructions: for a streamed partition, for a kernel, and for an element that a copy moves.
PARTITION, KERNEL, ELEMENT = 4000.0, 400.0, 0.4
#: Budgets tried where none is asked for, and how much larger a model may become to run in the first as well.
BUDGETS = tuple(1 << power for power in range(22, 33))
GAIN = 1.02
#: Header, padding, and the records of a kernel and of a copy behind it.
PARTITION_OVERHEAD = 640
#: Shares of the arena's room that are tried for bands: what is left helps scratch to find its place.
SHARES = (0.97, 0.94, 0.9, 0.85)
#: Kernels up to which those are tried, and plans of the arena that are tried for WINOGRAD's scratch.
SMALL, PLANS = 200, 8
#: Arrangements that are finished, of those that were found.
FINISHED = 3
#: What takes memory beside a model, if anything does.
LOADED = "a page of a pair's manifest, the licence with its password"
#: Relative accuracy of the smallest budget that an error names.
ACCURACY = 0.01


class MemoryBudgetError(CloisterError):
    """The model cannot run in the budget.

    Attributes:
        smallest: bytes of the smallest budget in which it can.
        held: bytes of it that what is loaded with the model takes.
    """

    def __init__(self, message: str, remedy: str, smallest: int, held: int = 0) -> None:
        super().__init__(message, remedy)
        self.smallest, self.held = smallest, held


def smallest(graph: Graph, max_partition: int | None = None) -> Arrangement:
    """An optimised graph arranged for the smallest budget in which it can be made to run, to about :data:`ACCURACY`."""
    known: Known = {}
    found: list[Arrangement] = []
    for partition in [max_partition] if max_partition else LARGE_PARTITIONS:
        found += _ever_smaller(_Tries(graph, partition, known))
    if not max_partition and sum(found[0].sizes) <= FEW * MIN_PARTITION:
        for partition in SMALL_PARTITIONS:
            with suppress(PartitionError):
                found += _ever_smaller(_Tries(graph, partition, known))
    return min(found, key=lambda made: made.least)


def _ever_smaller(tries: _Tries) -> list[Arrangement]:
    """Arrangements with one limit of partitions, down to about the smallest arena that they can have."""
    found = [tries.whole]
    low, high = 0, tries.whole.plan.size
    while high - low > ACCURACY * high:
        middle = (low + high) // 2
        made = tries.fit(middle)
        if made is None:
            low = middle
        else:
            high = min(middle, made.plan.size)
            found.append(made)
    return found


def smallest_budget(graph: Graph, max_partition: int | None = None) -> int:
    """The smallest budget in which an optimised graph can be made to run, to about :data:`ACCURACY`."""
    return smallest(graph, max_partition).least


@dataclass(frozen=True)
class _Known:
    """Kernels, the search for their bands, and the same with room reserved for WINOGRAD."""

    lowered: Lowered
    striping: Striping
    reserved: Striping
    #: The kernel for each that has reserved scratch, by identity.
    originals: dict[int, Op]


#: Lowered models by what tells them apart, see _Tries.
Known = dict[tuple[object, ...], _Known]


class _Tries:
    """One limit of partitions, tried with several sizes of the arena.

    ``known`` are the kernels that other limits gave: where the limit cuts no kernel, they are the same, and what was
    found out about them need not be found again.
    """

    def __init__(self, graph: Graph, partition: int, known: Known, progress: Progress | None = None) -> None:
        self.partition = partition
        lowered = lower(graph, max(1, partition - PARTITION_OVERHEAD), progress)
        cuts = tuple((op.kernel, *(ref.shape for ref in op.refs.values())) for op in lowered.ops)
        if cuts not in known:
            ops = reserve(lowered.ops)
            originals = {id(new): old for new, old in zip(ops, lowered.ops, strict=True) if new is not old}
            striping = Striping(lowered.ops, *lowered.ends)
            known[cuts] = _Known(lowered, striping, Striping(ops, *lowered.ends), originals)
        self.known = known[cuts]
        self.whole = self._arrangement(self.known.lowered.ops, self.known.striping.whole, 0)

    @property
    def can_reserve(self) -> bool:
        """WINOGRAD can be worth while."""
        return bool(self.known.originals)

    def fit(self, arena: int, reserved: bool = False) -> Arrangement | None:
        """An arrangement with an arena of at most so many bytes; ``reserved``: with room for WINOGRAD's scratch."""
        if self.whole.plan.size <= arena and not reserved:
            return self.whole
        striping = self.known.reserved if reserved else self.known.striping
        fitted = striping.fit(arena, self.partition)
        if fitted is None:
            return None
        if not reserved:
            return self._arrangement(fitted.ops, fitted.plan, fitted.regions)
        ops = [self.known.originals.get(id(op), op) for op in fitted.ops]
        plan = plan_arena(ops, *self.known.lowered.ends)
        return self._arrangement(ops, plan, fitted.regions) if plan.size <= arena else None

    def _arrangement(self, ops: list[Op], plan: Plan, regions: int) -> Arrangement:
        parts = split(ops, self.partition, None) or [[]]
        return Arrangement(replace(self.known.lowered, ops=ops), plan, parts, regions)


def for_any_budget(
    graph: Graph, max_partition: int | None, winograd: bool, progress: Progress | None = None, byte: float = BYTE,
    held: int = 0,
) -> tuple[int, Arrangement | None]:  # fmt: skip
    """The smallest of :data:`BUDGETS` that costs little against the next, else the smallest that is enough at all.

    ``held``: bytes of them that something else takes.
    """

    def within(budget: int) -> Arrangement | None:
        return for_budget(graph, budget - held, max_partition, winograd, progress, byte)

    small, large = BUDGETS[:2]
    first = within(small)
    if first is not None and not first.regions:
        return small, first
    second = within(large)
    if first is not None and second is not None and sum(first.sizes) <= GAIN * sum(second.sizes):
        return small, first
    if second is not None:
        return large, second
    for budget in BUDGETS[2:]:
        found = within(budget)
        if found is not None:
            return budget, found
    return 0, None


def too_small(made: Arrangement, budget: int, held: int = 0) -> MemoryBudgetError:
    """The error that a model does not fit: ``made`` for the smallest budget, and what takes it; ``held`` by others."""
    alive, _ = alive_at(made.lowered.ops, *made.lowered.ends)
    fullest = made.lowered.ops[max(range(len(alive)), key=alive.__getitem__)].node
    where = f"{fullest.op} {fullest.name or fullest.outputs[0]!r}"
    parts = [
        f"{made.plan.size} bytes for activations and scratch (most at {where})",
        f"{max(made.sizes)} for the largest partition",
        f"{made.table} for the manifest",
        f"{TA_OWN} for the TA itself",
        *([f"{held} for what is loaded with it ({LOADED})"] if held else []),
    ]
    least = made.least + held
    mib = -(-least * 100 // (1 << 20)) / 100
    return MemoryBudgetError(
        f"the model does not fit into {budget} bytes of secure memory, however it is cut; "
        f"the smallest that it can run in is {least} bytes: {', '.join(parts)}",
        f"give at least --secure-memory {mib:.2f}MiB, or a smaller input",
        least,
        held,
    )


def for_budget(
    graph: Graph,
    budget: int,
    max_partition: int | None,
    winograd: bool,
    progress: Progress | None = None,
    byte: float = BYTE,
) -> Arrangement | None:
    """The arrangement that costs least in ``budget``; None where there is none. A streamed byte costs ``byte``."""
    limits = _limits(graph, budget) if max_partition is None else [max_partition]
    found: list[_Found] = []
    known: Known = {}
    for done, partition in enumerate(limits):
        if progress:
            progress("plan", done, len(limits))
        try:
            tries = _Tries(graph, partition, known)
        except PartitionError:
            continue
        for reserved in (False, True) if winograd and tries.can_reserve else (False,):
            found += _with_partition(tries, budget, reserved, 1.0, winograd, byte)
        if found and not found[-1].made.regions and _lies(found[-1].made, budget)[1] == 0:
            break
    found.sort(key=lambda each: each.expected)
    refined: dict[int, _Tries] = {}
    for each in found:
        if winograd and each.made.regions and len(refined) < FINISHED and len(each.made.lowered.ops) <= SMALL:
            refined.setdefault(id(each.tries.known), each.tries)
    for tries in refined.values():
        for share in SHARES if tries.can_reserve else ():
            found += _with_partition(tries, budget, True, share, winograd, byte)
    found.sort(key=lambda each: each.expected)
    best: Arrangement | None = None
    least = 0.0
    # The first are finished; what they then cost is not far from what was expected.
    for each in found[:FINISHED]:
        finished = with_winograd(each.made, budget, byte) if winograd else each.made
        cost = _cost(finished, budget, byte)
        if best is None or cost < least:
            best, least = finished, cost
    return best


def _limits(graph: Graph, budget: int) -> list[int]:
    """Limits of a partition that are tried, largest first."""
    room = budget - TA_OWN - PAGE
    limits = {max(MIN_PARTITION, room // divisor // PAGE * PAGE) for divisor in DIVISORS}
    layers = {sum(align(constant.size) for constant in op.constants) for op in lower(graph, None).ops}
    taken: list[int] = []
    for size in sorted(layers, reverse=True):
        if MIN_PARTITION <= size <= room // 2 and len(taken) < LAYERS and (not taken or size < 0.9 * taken[-1]):
            taken.append(size)
    return sorted(limits | {size + 4 * PARTITION_OVERHEAD for size in taken}, reverse=True)


def _with_partition(
    tries: _Tries, budget: int, reserved: bool, share: float, winograd: bool, byte: float
) -> list[_Found]:
    """The arrangement with an arena of at most ``share`` of the room; an empty list where there is none."""
    made = tries.whole
    for _ in range(4):
        # The table grows with the number of partitions, which grows with the bands.
        room = budget - TA_OWN - made.table - align(max(made.sizes))
        arena = int(room * share)
        fitted = tries.fit(min(arena, made.plan.size), reserved) if arena > 0 else None
        if fitted is None:
            return []
        made = fitted
        if made.reside(budget) is not None:
            return [_Found(tries, made, _expected(made, budget, winograd, byte))]
    return []


def _lies(made: Arrangement, budget: int) -> tuple[int, int]:
    """Partitions and bytes that are streamed."""
    lies = made.reside(budget)
    assert lies is not None
    return len(made.parts) - len(lies.resident), lies.streamed


def _cost(made: Arrangement, budget: int, byte: float) -> float:
    """Instructions of an inference, but for those that all arrangements of a model have in common."""
    partitions, streamed = _lies(made, budget)
    copied = sum(prod(op.fields["dims"]) for op in made.lowered.ops if op.kernel == "COPY")
    fixed = PARTITION * partitions + KERNEL * len(made.lowered.ops) + ELEMENT * copied
    return float(byte * streamed + fixed - gained(made.lowered.ops))


def _expected(made: Arrangement, budget: int, winograd: bool, byte: float) -> float:
    """The cost with WINOGRAD, before that is settled."""
    prospects = _prospects(made, budget, byte) if winograd else []
    return _cost(made, budget, byte) - (prospects[0].gain if prospects else 0.0)


@dataclass(frozen=True)
class _Found:
    """An arrangement and what it is expected to cost."""

    tries: _Tries
    made: Arrangement
    expected: float


@dataclass(frozen=True)
class _Prospect:
    """Kernels that could be WINOGRAD with an arena of ``limit`` bytes, and the instructions that this gains."""

    gain: float
    limit: int
    chosen: dict[int, int]


def _prospects(made: Arrangement, budget: int | None, byte: float) -> list[_Prospect]:
    """Choices of WINOGRAD that gain something, the best first; bytes that are streamed for them are charged."""
    size = made.plan.size
    before = made.reside(budget) if budget is not None else None
    if budget is None or before is None:
        limits = [size + (size + sum(made.sizes)) // GROWTH]
    else:
        # All that is left, and all that would be left without resident partitions.
        most = (budget - TA_OWN - made.table) // PAGE * PAGE - align(max(made.sizes))
        kept = sum(align(made.sizes[index]) for index in before.resident)
        limits = [most, most - kept, size + budget - before.used, *(size + (1 << power) for power in range(12, 24))]
    found = []
    for limit in limits:
        lies = made.reside(budget, limit) if budget is not None else None
        if budget is not None and lies is None:
            continue
        streamed = lies.streamed - before.streamed if lies and before else 0
        for aim in (limit, limit - limit // 20, limit - limit // 10):
            chosen = choose(made.lowered.ops, *made.lowered.ends, aim)
            gain = sum(saved(made.lowered.ops[index], tiles) for index, tiles in chosen.items()) - byte * streamed
            if gain > 0:
                found.append(_Prospect(gain, limit, chosen))
    return sorted(found, key=lambda prospect: -prospect.gain)


def with_winograd(made: Arrangement, budget: int | None, byte: float = BYTE) -> Arrangement:
    """The arrangement with those convolutions as WINOGRAD that are worth their scratch."""
    for prospect in _prospects(made, budget, byte)[:PLANS]:
        ops = apply(made.lowered.ops, prospect.chosen)
        plan = plan_arena(ops, *made.lowered.ends)
        if plan.size <= prospect.limit:
            following = iter(ops)
            parts = [[next(following) for _ in part] for part in made.parts]
            return Arrangement(replace(made.lowered, ops=ops), plan, parts, made.regions)
    return made

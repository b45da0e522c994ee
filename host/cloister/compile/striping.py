# SPDX-License-Identifier: BSD-2-Clause
"""Which runs of kernels are computed in bands, and how high the bands are, for a given size of the arena.

Every kernel at which more than the limit is alive must lie in a region (:mod:`cloister.compile.stripes`). The choice
is a shortest path over the list of kernels: a kernel that fits costs nothing, a region costs the bytes that the model
grows by, which are streamed and decrypted at every inference. Those are the records of the bands, and, where the
weights of a region exceed a partition, the weights once more for each band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.compile.lowering import STRUCTS, Buffer, Constant, Op, Storage
from cloister.compile.planner import Plan, align, alive_at, plan_arena, storages
from cloister.compile.rows import Cut, cut
from cloister.compile.stripes import Region, Use, find_region, most_alive, rehearse, stripe, uses_of
from cloister.wire import ffi

#: Kernels that a region may hold, and regions tried from each beginning.
LONGEST = 64
TRIED = 6
#: Bands after which the memory of a region repeats.
SAMPLE = 10
#: Plans tried with a lower limit where the arena has gaps.
RETRIES = 5
#: A carried byte is read and written again, which costs about this part of decrypting one.
CARRY = 0.1


@dataclass(frozen=True)
class Choice:
    """Kernels ``region.start`` to ``region.stop`` in bands of ``rows`` rows; ``cost`` in bytes."""

    region: Region
    rows: int
    cost: float


@dataclass(frozen=True)
class Fitted:
    """Kernels and their plan; ``regions`` is the number of striped regions, 0 where nothing had to be."""

    ops: list[Op]
    plan: Plan
    regions: int


def fit(
    ops: Sequence[Op], inputs: Sequence[Buffer], outputs: Sequence[Buffer], limit: int, partition: int
) -> Fitted | None:
    """The kernels, striped where needed, so that the arena takes at most ``limit`` bytes; None where that fails.

    ``partition`` is the most bytes of a partition.
    """
    plan = plan_arena(ops, inputs, outputs)
    if plan.size <= limit:
        return Fitted(list(ops), plan, 0)
    search = _Search(ops, inputs, outputs, partition)
    aim = limit
    for _ in range(RETRIES):
        choices = search.choose(aim)
        if choices is None:
            return None
        striped = _apply(ops, choices)
        plan = plan_arena(striped, inputs, outputs)
        if plan.size <= limit:
            return Fitted(striped, plan, len(choices))
        aim -= max(plan.size - limit, limit // 100)
    return None


def _apply(ops: Sequence[Op], choices: Sequence[Choice]) -> list[Op]:
    result: list[Op] = []
    at = 0
    for number, choice in enumerate(choices):
        result += ops[at : choice.region.start]
        result += stripe(choice.region, choice.rows, number)
        at = choice.region.stop
    return result + list(ops[at:])


class _Search:
    def __init__(self, ops: Sequence[Op], inputs: Sequence[Buffer], outputs: Sequence[Buffer], partition: int) -> None:
        self.ops = ops
        self.partition = partition
        self.uses = uses_of(ops)
        self.cuts: list[Cut | None] = [cut(op) for op in ops]
        self.inputs = set(storages(inputs))
        self.outputs = set(storages(outputs))
        self.fixed = self.inputs | self.outputs
        self.alive, self.groups = alive_at(ops, inputs, outputs)
        self.roots = self.groups.roots
        # Bytes that lie between one kernel and the next: they stay whole if a region begins or ends there.
        self.between = [0] * (len(ops) + 1)
        for root in self.roots:
            for place in range(max(0, self.groups.first[root] + 1), min(self.groups.last[root], len(ops)) + 1):
                self.between[place] += align(self.groups.size[root])

    def choose(self, limit: int) -> list[Choice] | None:
        """The cheapest regions that leave no kernel with more than ``limit`` bytes alive."""
        count = len(self.ops)
        over = [bytes_ > limit for bytes_ in self.alive]
        cost = [0.0] + [float("inf")] * count
        step: list[Choice | None] = [None] * (count + 1)
        for start in range(count):
            if cost[start] == float("inf"):
                continue
            if not over[start] and cost[start] < cost[start + 1]:
                cost[start + 1], step[start + 1] = cost[start], None
            for choice in self._regions(start, over, limit):
                stop = choice.region.stop
                if cost[start] + choice.cost < cost[stop]:
                    cost[stop], step[stop] = cost[start] + choice.cost, choice
        if cost[count] == float("inf"):
            return None
        chosen: list[Choice] = []
        at = count
        while at:
            taken = step[at]
            if taken is None:
                at -= 1
            else:
                chosen.append(taken)
                at = taken.region.start
        return chosen[::-1]

    def _regions(self, start: int, over: Sequence[bool], limit: int) -> list[Choice]:
        found: list[Choice] = []
        if self.between[start] > limit:
            return found
        for stop in range(start + 1, min(start + LONGEST, len(self.ops)) + 1):
            if self.cuts[stop - 1] is None or len(found) == TRIED:
                break
            if self.between[stop] > limit or not any(over[start:stop]):
                continue
            choice = self._region(start, stop, limit)
            if choice is not None:
                found.append(choice)
        return found

    def _region(self, start: int, stop: int, limit: int) -> Choice | None:
        region = find_region(start, self.cuts[start:stop], self.uses, self.fixed)
        if region is None:
            return None
        before, after, across = self._around(region)
        whole = sum(align(storage.size) for storage in {*before, *after})
        if across + whole > limit or region.height < 2:
            return None

        def fits(rows: int) -> bool:
            return across + most_alive(rehearse(region, rows, SAMPLE).touched, before, after) <= limit

        if not fits(1):
            return None
        low, high = 1, region.height - 1
        while low < high:
            middle = (low + high + 1) // 2
            if fits(middle):
                low = middle
            else:
                high = middle - 1
        # The same number of bands, as even as can be.
        bands = -(-region.height // low)
        rows = -(-region.height // bands)
        return Choice(region, rows, self._cost(region, rows))

    def _around(self, region: Region) -> tuple[set[Storage], set[Storage], int]:
        """Storages alive before and after a region that it touches, and bytes alive across it that it does not."""
        before: set[Storage] = set()
        after: set[Storage] = set()
        touched: set[Storage] = set()
        for item in region.cuts:
            for ref in item.op.refs.values():
                if isinstance(ref.memory, Storage):
                    touched.add(ref.memory)
        for storage in touched - region.banded:
            uses: Sequence[Use] = self.uses[storage]
            if storage in self.inputs or uses[0].index < region.start:
                before.add(storage)
            if storage in self.outputs or uses[-1].index >= region.stop:
                after.add(storage)
        groups = {self.groups.find(storage) for storage in touched - region.banded}
        across = sum(
            align(self.groups.size[root])
            for root in self.roots
            if root not in groups and self.groups.first[root] < region.start and self.groups.last[root] >= region.stop
        )
        return before, after, across

    def _cost(self, region: Region, rows: int) -> float:
        bands = -(-region.height // rows)
        sample = min(bands, SAMPLE)
        trial = rehearse(region, rows, sample)
        each = [ffi.sizeof(STRUCTS[item.op.kernel]) for item in region.cuts]
        records = sum(size * runs for size, runs in zip(each, trial.runs, strict=True))
        records += trial.copies * ffi.sizeof(STRUCTS["COPY"])
        constants: dict[Constant, None] = {}
        for item in region.cuts:
            constants.update(dict.fromkeys(item.op.constants))
        records, carried = records * bands // sample, trial.carried * bands // sample
        weights = sum(align(constant.size) for constant in constants)
        room = self.partition - weights
        copies = max(1, -(-records // room)) if room > records // max(1, bands) else bands
        return float((min(copies, bands) - 1) * weights + records - sum(each) + CARRY * carried)

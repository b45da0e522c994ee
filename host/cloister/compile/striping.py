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
from functools import cached_property
from itertools import accumulate
from math import gcd

import numpy as np

from cloister.compile.lowering import STRUCTS, Buffer, Op
from cloister.compile.planner import Plan, plan_arena
from cloister.compile.prospects import LONGEST, Prospect, Prospects
from cloister.compile.stripes import Region, stripe
from cloister.compile.winograd import TILE, is_reserved
from cloister.wire import ffi

#: Plans tried with a lower limit where the arena has gaps.
RETRIES = 8
#: A carried byte is read and written again, which costs about this part of decrypting one.
CARRY = 0.1


@dataclass(frozen=True)
class Choice:
    """A region in bands of ``rows`` rows."""

    region: Region
    rows: int


@dataclass(frozen=True)
class Fitted:
    """Kernels and their plan; ``regions`` is the number of striped regions, 0 where nothing had to be."""

    ops: list[Op]
    plan: Plan
    regions: int


class Striping:
    """A list of kernels that is to fit into arenas of several sizes: what is learned for one serves the next.

    ``regions`` of the kernels are striped already, and numbered from 0 on.
    """

    def __init__(
        self, ops: Sequence[Op], inputs: Sequence[Buffer], outputs: Sequence[Buffer], regions: int = 0
    ) -> None:
        self.ops = ops
        self.inputs = inputs
        self.outputs = outputs
        self.regions = regions

    @cached_property
    def whole(self) -> Plan:
        """The plan without bands."""
        return plan_arena(self.ops, self.inputs, self.outputs)

    @cached_property
    def prospects(self) -> Prospects:
        """All regions."""
        return Prospects(self.ops, self.inputs, self.outputs)

    def fit(self, limit: int, partition: int) -> Fitted | None:
        """The kernels, striped where needed, so that the arena takes at most ``limit`` bytes; None where that fails.

        ``partition`` is the most bytes of a partition.
        """
        if self.whole.size <= limit:
            return Fitted(list(self.ops), self.whole, self.regions)
        aim = limit
        for _ in range(RETRIES):
            choices = self.choose(aim, partition)
            if choices is None:
                break
            striped = self._apply(choices)
            plan = plan_arena(striped, self.inputs, self.outputs)
            if plan.size <= limit:
                return Fitted(striped, plan, self.regions + len(choices))
            aim -= max(plan.size - limit, limit // 50)
        return self.apart.fit(limit, partition) if self.apart else None

    @cached_property
    def apart(self) -> Striping | None:
        """A batch with its samples far apart, so that each can be cut by its own rows; None without one."""
        if self.regions or not any(op.refs["out"].dims[0] > 1 and len(op.refs["out"].dims) > 2 for op in self.ops):
            return None
        low, high = 0, max(self.prospects.alive)
        best: list[Choice] | None = None
        while high - low > high // 50:
            middle = (low + high) // 2
            choices = self.choose(middle, middle)
            if choices is None:
                low = middle
            else:
                best, high = choices, middle
        if best is None:
            return None
        return Striping(self._apply(best), self.inputs, self.outputs, len(best))

    def _apply(self, choices: Sequence[Choice]) -> list[Op]:
        result: list[Op] = []
        at = 0
        for number, choice in enumerate(choices):
            result += self.ops[at : choice.region.start]
            result += stripe(choice.region, choice.rows, self.regions + number)
            at = choice.region.stop
        return result + list(self.ops[at:])

    def choose(self, limit: int, partition: int) -> list[Choice] | None:
        """The cheapest regions that leave no kernel with more than ``limit`` bytes alive."""
        count = len(self.ops)
        known = self.prospects
        over = [bytes_ > limit for bytes_ in known.alive]
        # Kernels over the limit before each.
        before = [0, *accumulate(over)]
        never = float("inf")
        cost = [0.0] + [never] * count
        step: list[tuple[Prospect, int] | None] = [None] * (count + 1)
        for stop in range(1, count + 1):
            if not over[stop - 1]:
                cost[stop] = cost[stop - 1]
            if known.between[stop] > limit or not before[stop] - before[max(0, stop - LONGEST)]:
                continue
            for prospect in known.ending(stop):
                start = prospect.start
                if cost[start] >= cost[stop] or before[stop] == before[start]:
                    continue
                fitting = prospect.need <= limit
                place = int(np.argmax(fitting))
                if not fitting[place]:
                    continue
                total = cost[start] + _cost(prospect, place, partition)
                if total < cost[stop]:
                    cost[stop], step[stop] = total, (prospect, place)
        if cost[count] == never:
            return None
        chosen: list[Choice] = []
        at = count
        while at:
            taken = step[at]
            if taken is None:
                at -= 1
            else:
                region = known.region(taken[0])
                chosen.append(Choice(region, _whole_tiles(region, int(taken[0].rows[taken[1]]))))
                at = taken[0].start
        return chosen[::-1]


def _whole_tiles(region: Region, rows: int) -> int:
    """At most ``rows``, so that kernels with room for WINOGRAD compute whole tiles."""
    step = 1
    for item in region.cuts:
        if is_reserved(item.op):
            step = max(step, TILE // gcd(TILE, max(1, item.height // region.height)))
    return rows // step * step or rows


def _cost(prospect: Prospect, place: int, partition: int) -> float:
    """Bytes by which a model grows with a region in the ``place``-th number of bands."""
    bands = int(prospect.bands[place])
    records = bands * (prospect.records + int(prospect.copies[place]) * ffi.sizeof(STRUCTS["COPY"]))
    room = partition - prospect.weights
    copies = max(1, -(-records // room)) if room > records // bands else bands
    carried = bands * int(prospect.carried[place])
    return float((min(copies, bands) - 1) * prospect.weights + records - prospect.records + CARRY * carried)

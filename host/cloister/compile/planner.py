# SPDX-License-Identifier: BSD-2-Clause
"""The arena's plan: which storage lies where, so that what is alive at once never overlaps.

Storage that an operator may take over from an operand is merged first (in place). The rest is the offline dynamic
storage allocation problem (NP-hard; Garey and Johnson 1979, SR2): several greedy orders with best fit are tried, then
a seeded local search over the order if they miss the lower bound.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from cloister.compile.lowering import Buffer, Op, Storage
from cloister.wire import C

SEARCH_STEPS = 300
SEARCH_LIMIT = 200


@dataclass(frozen=True)
class Item:
    """``size`` bytes needed from operator ``first`` to operator ``last``, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Offset of every storage; ``bound`` is the largest sum of sizes alive at one operator: no plan is smaller."""

    offsets: dict[Storage, int]
    size: int
    bound: int
    in_place: int


def align(value: int, to: int = C.CL_ALIGN) -> int:
    """``value`` rounded up to a multiple of ``to``."""
    return -(-value // to) * to


class Groups:
    """Storage merged by in-place operators: union-find with sizes and lifetimes."""

    def __init__(self, ops: Sequence[Op], inputs: Sequence[Storage], outputs: Sequence[Storage]) -> None:
        self.first: dict[Storage, int] = dict.fromkeys(inputs, -1)
        self.last: dict[Storage, int] = dict.fromkeys(inputs, -1)
        self.parent: dict[Storage, Storage] = {}
        self.size: dict[Storage, int] = {}
        for index, op in enumerate(ops):
            for storage in (*op.reads, *op.writes):
                self.first.setdefault(storage, index)
                self.last[storage] = index
        for storage in outputs:
            self.first.setdefault(storage, len(ops))
            self.last[storage] = len(ops)
        for storage in self.first:
            self.parent[storage] = storage
            self.size[storage] = storage.size

    @property
    def roots(self) -> list[Storage]:
        """One storage for each group; ``size``, ``first`` and ``last`` hold the group's."""
        return [storage for storage in self.first if self.find(storage) is storage]

    def find(self, storage: Storage) -> Storage:
        """The root of a storage's group."""
        while self.parent[storage] is not storage:
            storage = self.parent[storage]
        return storage

    def merge(self, op: Op, index: int) -> bool:
        """Lets ``out`` take over an operand whose last reader this is; returns whether it does."""
        out = op.refs["out"]
        assert isinstance(out.memory, Storage)
        target = self.find(out.memory)
        if self.first[target] != index or out.start or out.size != out.memory.size:
            return False
        for name in op.in_place:
            operand = op.refs[name]
            if not isinstance(operand.memory, Storage) or operand.start or operand.size != out.size:
                continue
            source = self.find(operand.memory)
            if source is target or self.last[source] != index or not self._alone(op, name, source):
                continue
            self.parent[target] = source
            self.size[source] = max(self.size[source], self.size[target])
            self.last[source] = max(self.last[source], self.last[target])
            return True
        return False

    def _alone(self, op: Op, name: str, source: Storage) -> bool:
        """No other operand reads other bytes of the same memory, which ``out`` would overwrite too early."""
        operand = op.refs[name]
        for other, ref in op.refs.items():
            if other in (name, "out") or not isinstance(ref.memory, Storage) or self.find(ref.memory) is not source:
                continue
            if other not in op.in_place or ref.start != operand.start or ref.size != operand.size:
                return False
        return True


def plan_arena(ops: Sequence[Op], inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> Plan:
    """Places all storage that ``ops``, inputs and outputs use.

    Inputs are alive together from before the first operator, outputs together until after the last.
    """
    groups = Groups(ops, storages(inputs), storages(outputs))
    merged = sum(groups.merge(op, index) for index, op in enumerate(ops))
    roots = groups.roots
    items = [Item(align(groups.size[root]), groups.first[root], groups.last[root]) for root in roots]
    offsets, size = place_items(items)
    by_root = dict(zip(roots, offsets, strict=True))
    placed = {storage: by_root[groups.find(storage)] for storage in groups.first}
    return Plan(placed, size, lower_bound(items), merged)


def alive_at(ops: Sequence[Op], inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> tuple[list[int], Groups]:
    """Bytes alive at each operator, and the groups of storage behind them."""
    groups = Groups(ops, storages(inputs), storages(outputs))
    for index, op in enumerate(ops):
        groups.merge(op, index)
    changes = [0] * (len(ops) + 2)
    for root in groups.roots:
        size = align(groups.size[root])
        changes[max(0, groups.first[root])] += size
        changes[min(max(0, groups.last[root]), len(ops)) + 1] -= size
    return list(accumulate(changes))[: len(ops)], groups


def storages(buffers: Sequence[Buffer]) -> list[Storage]:
    """The storages of some buffers, each once."""
    return list(dict.fromkeys(buffer.memory for buffer in buffers if isinstance(buffer.memory, Storage)))


def lower_bound(items: Sequence[Item]) -> int:
    """Most bytes alive at one time."""
    changes: dict[int, int] = {}
    for item in items:
        changes[item.first] = changes.get(item.first, 0) + item.size
        changes[item.last + 1] = changes.get(item.last + 1, 0) - item.size
    now = most = 0
    for time in sorted(changes):
        now += changes[time]
        most = max(most, now)
    return most


def place_items(items: Sequence[Item]) -> tuple[list[int], int]:
    """Offsets of all items and the size of the arena; the same for the same items."""
    keys: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-items[i].size, items[i].first, i),
        lambda i: (-items[i].size * (items[i].last - items[i].first + 1), i),
        lambda i: (items[i].first, -items[i].size, i),
        lambda i: (items[i].first - items[i].last, -items[i].size, i),
    ]
    bound = lower_bound(items)
    neighbours = _neighbours(items)
    best_order: list[int] = []
    best: list[int] = []
    best_size = -1
    for key in keys:
        order = sorted(range(len(items)), key=key)
        offsets, size = _place(items, neighbours, order)
        if best_size < 0 or size < best_size:
            best_order, best, best_size = order, offsets, size
    if best_size > bound and len(items) <= SEARCH_LIMIT:
        chance = random.Random(0)  # noqa: S311 - a search, not a secret
        for _ in range(SEARCH_STEPS):
            order = list(best_order)
            moved = order.pop(chance.randrange(len(order)))
            order.insert(chance.randrange(len(order) + 1), moved)
            offsets, size = _place(items, neighbours, order)
            if size <= best_size:
                best_order, best, best_size = order, offsets, size
            if best_size == bound:
                break
    return best, max(best_size, 0)


def _neighbours(items: Sequence[Item]) -> list[list[int]]:
    """For each item, the others that live at some time when it does."""
    first, last = (np.array([getattr(item, name) for item in items]) for name in ("first", "last"))
    found = []
    for index, item in enumerate(items):
        together = np.flatnonzero((first <= item.last) & (last >= item.first)).tolist()
        together.remove(index)
        found.append(together)
    return found


def _place(items: Sequence[Item], neighbours: Sequence[Sequence[int]], order: Sequence[int]) -> tuple[list[int], int]:
    """Each item in turn goes into the smallest gap that holds it among those placed that live at the same time."""
    offsets = [-1] * len(items)
    total = 0
    for index in order:
        size = items[index].size
        taken = sorted((offsets[other], items[other].size) for other in neighbours[index] if offsets[other] >= 0)
        end = at = 0
        smallest = -1
        for start, length in taken:
            gap = start - end
            if gap >= size and (smallest < 0 or gap < smallest):
                smallest, at = gap, end
            end = max(end, start + length)
        if smallest < 0:
            at = end
        offsets[index] = at
        total = max(total, at + size)
    return offsets, total

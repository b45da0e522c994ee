# SPDX-License-Identifier: BSD-2-Clause
"""What every possible region would take: bytes of memory, records and copies, for several heights of its bands.

Regions that end at the same kernel have the same bands, wherever they begin: the rows that a kernel computes follow
from what is read behind it. So all regions with one end are walked at once, from the end backwards; each kernel that
joins adds to the memory of the kernels behind it what changes with it. Bands repeat after the first few, so that only
some of them are looked at, for all heights together (numpy's axes: band, height).

The figures are close to what :func:`cloister.compile.stripes.stripe` makes, not exact; plans are made from its
kernels, and the search is repeated where they come out larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloister.compile.lowering import STRUCTS, Buffer, Constant, Op, Storage
from cloister.compile.planner import align, alive_at, storages
from cloister.compile.rows import Cut, cut, rows_of
from cloister.compile.stripes import Region, Use, find_region, uses_of
from cloister.wire import ffi

Ints = npt.NDArray[np.int64]

#: Kernels that a region may hold.
LONGEST = 64
#: Heights of bands that are tried for each region, at most.
HEIGHTS = 24
#: Boundaries between bands, from which the bands looked at are made: each from two before its end to its end.
BOUNDARIES = 7
BEFORE, BEGIN, END = (np.array(places) for places in ((0, 0, 3, 4), (0, 1, 4, 5), (1, 2, 5, 6)))
BANDS = len(END)


@dataclass(frozen=True)
class Prospect:
    """The region of kernels ``start`` to ``stop``.

    Attributes:
        bands: number of bands, ascending; the other arrays are as long.
        rows: height of a band.
        need: most bytes alive at one kernel, those outside of the region included.
        copies: copies for a band.
        carried: bytes that those move.
        records: bytes of one record of each kernel.
        weights: bytes of the constants.
    """

    start: int
    stop: int
    bands: Ints
    rows: Ints
    need: Ints
    copies: Ints
    carried: Ints
    records: int
    weights: int


class Prospects:
    """All regions of a list of kernels; what was found is kept."""

    def __init__(self, ops: Sequence[Op], inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
        self.ops = ops
        self.uses = uses_of(ops)
        self.cuts: list[Cut | None] = [cut(op) for op in ops]
        self.fixed = {*storages(inputs), *storages(outputs)}
        self.inputs = set(storages(inputs))
        self.alive, self.groups = alive_at(ops, inputs, outputs)
        roots = self.groups.roots
        self.sizes = np.array([align(self.groups.size[root]) for root in roots], np.int64)
        self.first = np.array([self.groups.first[root] for root in roots], np.int64)
        self.last = np.array([self.groups.last[root] for root in roots], np.int64)
        # Bytes that lie between one kernel and the next: they stay whole if a region begins or ends there.
        self.between = [self._across(place, place) for place in range(len(ops) + 1)]
        self._found: dict[int, list[Prospect]] = {}

    def _across(self, start: int, stop: int) -> int:
        return int(self.sizes[(self.first < start) & (self.last >= stop)].sum())

    def ending(self, stop: int) -> list[Prospect]:
        """The regions that end before kernel ``stop``, the shortest first."""
        if stop not in self._found:
            self._found[stop] = _Walk(self, stop).found
        return self._found[stop]

    def region(self, prospect: Prospect) -> Region:
        """The region itself."""
        start, stop = prospect.start, prospect.stop
        found = find_region(start, self.cuts[start:stop], self.uses, self.fixed)
        assert found is not None
        return found


def heights(height: int) -> tuple[Ints, Ints]:
    """Numbers of bands that are tried for so many rows, ascending, and the rows of each."""
    counts = np.unique(np.geomspace(2, height, 2 * HEIGHTS).astype(np.int64))
    if len(counts) > HEIGHTS:
        counts = np.unique(np.concatenate((counts[:8], np.geomspace(counts[8], height, HEIGHTS - 8).astype(np.int64))))
    rows = np.unique(-(-height // counts))[::-1]
    return -(-height // rows), rows


@dataclass
class _Rows:
    """A tensor in bands, in rows: where each band ends, and from where on rows are needed again behind it."""

    height: int
    row: int
    high: Ints
    low: Ints


@dataclass
class _Banded:
    """Bytes of a tensor that never exists whole; arrays are of bands and heights."""

    buffer: Ints
    carried_in: Ints
    carried_out: Ints


class _Walk:
    """From one end backwards, as far as kernels can be cut."""

    def __init__(self, all_: Prospects, stop: int) -> None:
        self.all = all_
        self.stop = stop
        self.found: list[Prospect] = []
        last = all_.cuts[stop - 1]
        if last is None or last.height < 2:
            return
        out = last.op.refs["out"].memory
        assert isinstance(out, Storage)
        self.target = out
        self.bands, self.rows = heights(last.height)
        shape = (BANDS, len(self.rows))
        self.rows_of: dict[Storage, _Rows] = {out: _Rows(last.height, last.row, self._ends(last.height), self._none())}
        self.rows_of[out].low[:] = last.height
        self.made: dict[Storage, tuple[int, int]] = {}
        self.banded: dict[Storage, _Banded] = {}
        # Of each kernel, the last of the region first: what lies in bands there, and what copies and scratch add.
        self.alive = np.zeros((LONGEST, *shape), np.int64)
        self.extra = np.zeros((LONGEST, *shape), np.int64)
        self.early = np.zeros(shape, np.int64)
        self.whole: dict[Storage, int] = {}
        self.copies = np.zeros(len(self.rows), np.int64)
        self.carried = np.zeros(len(self.rows), np.int64)
        self.constants: dict[Constant, None] = {}
        self.records = self.weights = 0
        later = all_.last >= stop
        self.later = np.concatenate(([0], np.cumsum(np.bincount(
            np.maximum(all_.first[later], -1) + 1, all_.sizes[later], len(all_.ops) + 2))))  # fmt: skip
        for start in range(stop - 1, max(-1, stop - 1 - LONGEST), -1):
            if not self._join(start):
                break

    def _none(self) -> Ints:
        return np.zeros((BOUNDARIES, len(self.rows)), np.int64)

    def _ends(self, height: int) -> Ints:
        """Rows of the last result that are done at each boundary: none, two bands, and four bands in the middle."""
        middle = np.clip(self.bands // 2, 1, None)
        ends = [0 * self.rows, self.rows, 2 * self.rows]
        ends += [np.maximum(0, middle + shift) * self.rows for shift in (-1, 0, 1, 2)]
        return np.minimum(np.stack(ends), height)

    def _join(self, index: int) -> bool:
        """Adds a kernel in front; False where no region begins here or before."""
        item = self.all.cuts[index]
        if item is None:
            return False
        out = item.op.refs["out"]
        assert isinstance(out.memory, Storage)
        if out.start or out.size != out.memory.size:
            return False
        if out.memory not in self.rows_of:
            # Nobody in the region reads it: it would be computed with the last band, and all that it reads be kept.
            return False
        if self.made.setdefault(out.memory, (item.height, item.row)) != (item.height, item.row):
            return False
        touched = [ref.memory for name, ref in item.op.refs.items() if name != "scratch"]
        memories = dict.fromkeys(memory for memory in touched if isinstance(memory, Storage))
        if not all(self._by_rows(memory, index) for memory in memories if memory in self.made):
            return False
        place = self.stop - 1 - index
        self.alive[place] += self.early
        scratch = item.op.refs.get("scratch")
        if scratch is not None:
            self.extra[place] = align(scratch.size)
        self._read(item)
        for memory in memories:
            self._touch(memory, index)
        self.records += ffi.sizeof(STRUCTS[item.op.kernel])
        for constant in item.op.constants:
            if constant not in self.constants:
                self.constants[constant] = None
                self.weights += align(constant.size)
        self._keep(index)
        return True

    def _by_rows(self, memory: Storage, start: int) -> bool:
        """All reads of a tensor written in the region are by its rows, and come after it is complete (find_region)."""
        uses = self.all.uses[memory]
        last_write = max(use.index for use in uses if use.writes and use.index < self.stop)
        for use in uses:
            if use.writes or not start <= use.index < self.stop:
                continue
            own = self.all.cuts[use.index]
            assert own is not None
            if use.name not in own.windows or use.buffer.start or rows_of(use.buffer) != self.made[memory]:
                return False
            if use.index <= last_write and own.op.refs["out"].memory is not memory:
                return False
        return True

    def _read(self, item: Cut) -> None:
        """The rows of its operands that a kernel needs for the rows of its result."""
        out = item.op.refs["out"].memory
        assert isinstance(out, Storage)
        done = self.rows_of[out]
        for name, window in item.windows.items():
            source = item.op.refs[name].memory
            if not isinstance(source, Storage) or source is out:
                continue
            geometry = rows_of(item.op.refs[name])
            assert geometry is not None
            if source not in self.rows_of:
                self.rows_of[source] = _Rows(*geometry, self._none(), self._none() + geometry[0])
            read = self.rows_of[source]
            read.high = np.maximum(read.high, window.ends(done.high))
            unfinished = np.where(done.high < done.height, window.begins(done.high), read.height)
            read.low = np.minimum(read.low, unfinished)

    def _touch(self, memory: Storage, index: int) -> None:
        uses: Sequence[Use] = self.all.uses[memory]
        inside = uses[0].index == index and uses[-1].index < self.stop
        if inside and memory in self.made and memory is not self.target and memory not in self.all.fixed:
            self.whole.pop(memory, None)
            self._band(memory, index, uses[-1].index)
            return
        size = align(memory.size)
        self.whole[memory] = size
        if uses[0].index == index and memory not in self.all.inputs:
            # In the first band it is not there before it is written.
            self.early[0] -= size

    def _band(self, memory: Storage, first: int, last: int) -> None:
        """A tensor lives inside of the region from now on."""
        rows = self.rows_of[memory]
        high, low = rows.high, np.minimum(rows.low, rows.high)
        buffer = _bytes(high[END] - low[BEGIN], rows.row)
        before = high[BEGIN] - low[BEFORE]
        into, _ = _carried(high[BEGIN] - low[BEGIN], before)
        after, moved_out = _carried(high[END] - low[END], high[END] - low[BEGIN])
        fresh = high[END] > high[BEGIN]
        begin, end = self.stop - 1 - first, self.stop - 1 - last
        kept, left = _bytes(into, rows.row), _bytes(after, rows.row)
        self.alive[end : begin + 1] += np.where(fresh, buffer, kept)
        self.alive[:end] += left
        self.early += kept
        np.maximum(self.extra[begin], np.where(fresh, kept, 0), out=self.extra[begin])
        np.maximum(self.extra[end], np.where(moved_out, left, 0), out=self.extra[end])
        self.banded[memory] = _Banded(buffer, into, after)
        # Of the last band looked at, one in the middle: it stands for all.
        self.copies += (into[-1] > 0).astype(np.int64) + moved_out[-1]
        self.carried += (into[-1] + np.where(moved_out[-1], after[-1], 0)) * rows.row
        self._in_place(memory, last)

    def _in_place(self, memory: Storage, last: int) -> None:
        """Where its last reader may take a tensor over, the two need memory once."""
        reader = self.all.ops[last]
        result = reader.refs["out"].memory
        names = [name for name in reader.in_place if reader.refs[name].memory is memory]
        if not names or not isinstance(result, Storage) or result not in self.banded or result is memory:
            return
        one, other = self.banded[memory], self.banded[result]
        if self.all.uses[result][0].index == last:
            shared = (one.buffer == other.buffer) & (one.carried_out == 0) & (other.carried_in == 0)
            self.alive[self.stop - 1 - last] -= np.where(shared, one.buffer, 0)

    def _keep(self, start: int) -> None:
        """Records what the region from ``start`` on takes."""
        count = self.stop - start
        groups = {self.all.groups.find(memory) for memory in self.whole}
        across = int(self.later[start + 1])
        for root in groups:
            if self.all.groups.first[root] < start and self.all.groups.last[root] >= self.stop:
                across -= align(self.all.groups.size[root])
        whole = sum(self.whole.values())
        need = (self.alive[:count] + self.extra[:count]).max(axis=(0, 1)) + (across + whole)
        self.found.append(
            Prospect(
                start, self.stop, self.bands, self.rows, need, self.copies.copy(), self.carried.copy(),
                self.records, self.weights,
            )
        )  # fmt: skip


def _bytes(rows: Ints, row: int) -> Ints:
    return -(-(rows * row) // 64) * 64


def _carried(again: Ints, buffer: Ints) -> tuple[Ints, Any]:
    """Rows that lie there between two bands, and whether they were copied: see _set_aside in stripes.py."""
    moved = (again > 0) & (again * 4 <= buffer * 3)
    return np.where(again <= 0, 0, np.where(moved, again, buffer)), moved

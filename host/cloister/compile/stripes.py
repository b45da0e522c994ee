# SPDX-License-Identifier: BSD-2-Clause
"""Runs of kernels computed band by band, so that tensors between them never exist whole.

A region is a run of neighbouring kernels, all of which can be cut by rows (:mod:`cloister.compile.rows`). Its last
result is computed a band of rows at a time; walking back from it gives the rows that every other kernel must have
computed by then. A tensor that lives inside the region alone gets memory for the rows of the band; rows that the next
band needs again (the halo of a 3x3 convolution) are carried over by a copy and not computed twice. Tensors that come
from outside, or are needed after the region, stay whole, and bands read and write their rows in place.

The idea of fused bands is that of Alwani et al., "Fused-layer CNN accelerators" (MICRO 2016), their "reuse" form.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cloister.compile.lowering import Buffer, Op, Storage
from cloister.compile.rows import Cut, rows_of, take_rows

Range = tuple[int, int]


@dataclass(frozen=True)
class Use:
    """One kernel's access to a storage; ``writes`` tells results and scratch from operands."""

    index: int
    name: str
    buffer: Buffer
    writes: bool


def uses_of(ops: Sequence[Op]) -> dict[Storage, list[Use]]:
    """All accesses by storage, in order."""
    uses: dict[Storage, list[Use]] = {}
    for index, op in enumerate(ops):
        for name, ref in op.refs.items():
            if isinstance(ref.memory, Storage):
                uses.setdefault(ref.memory, []).append(Use(index, name, ref, name in ("out", "scratch")))
    return uses


@dataclass
class Region:
    """Kernels ``start`` to ``stop`` of a list.

    Attributes:
        cuts: how each is cut.
        made: height and row size of each storage written here.
        banded: those of them that never exist whole.
    """

    start: int
    stop: int
    cuts: Sequence[Cut]
    made: dict[Storage, Range]
    banded: set[Storage]

    @property
    def height(self) -> int:
        """Rows of the last result."""
        return self.cuts[-1].height


def find_region(
    start: int, cuts: Sequence[Cut | None], uses: Mapping[Storage, Sequence[Use]], fixed: Collection[Storage]
) -> Region | None:
    """The region of these neighbouring kernels, the first of which is number ``start``; None where there is none.

    ``uses`` are those of the whole list; ``fixed`` storages (inputs and outputs of the model) stay whole.
    """
    stop = start + len(cuts)
    whole: list[Cut] = []
    made: dict[Storage, Range] = {}
    for item in cuts:
        if item is None:
            return None
        out = item.op.refs["out"]
        assert isinstance(out.memory, Storage)
        if out.start or out.size != out.memory.size:
            return None
        if made.setdefault(out.memory, (item.height, item.row)) != (item.height, item.row):
            return None
        whole.append(item)
    banded = set()
    for storage in made:
        inside = True
        last_write = max(use.index for use in uses[storage] if use.writes and use.index < stop)
        for use in uses[storage]:
            if not start <= use.index < stop:
                inside = False
            elif not use.writes:
                own = whole[use.index - start]
                itself = own.op.refs["out"].memory is storage
                by_rows = use.name in own.windows and rows_of(use.buffer) == made[storage] and not use.buffer.start
                if not by_rows or (use.index <= last_write and not itself):
                    return None
        if inside and storage not in fixed and storage is not whole[-1].op.refs["out"].memory:
            banded.add(storage)
    return Region(start, stop, whole, made, banded)


@dataclass
class _Band:
    """Rows of one band: what each kernel computes, and for each storage the first row that is still needed."""

    new: list[Range | None]
    keep: dict[Storage, int]
    after: dict[Storage, int]


def schedule(region: Region, rows: int) -> list[_Band]:
    """The bands of ``rows`` rows of the last result."""
    done = dict.fromkeys(region.made, 0)
    target = region.cuts[-1].op.refs["out"].memory
    assert isinstance(target, Storage)
    bands: list[tuple[list[Range | None], dict[Storage, int], dict[Storage, int]]] = []
    for begin in range(0, region.height, rows):
        end = min(begin + rows, region.height)
        high = dict(done)
        high[target] = end
        if end == region.height:
            for storage, (height, _) in region.made.items():
                if storage not in region.banded:
                    high[storage] = height
        low: dict[Storage, int] = {}
        new: list[Range | None] = [None] * len(region.cuts)
        for place in reversed(range(len(region.cuts))):
            item = region.cuts[place]
            out = item.op.refs["out"].memory
            assert isinstance(out, Storage)
            if high[out] <= done[out]:
                continue
            new[place] = (done[out], high[out])
            for name, window in item.windows.items():
                source = item.op.refs[name].memory
                if isinstance(source, Storage) and source in region.made and source is not out:
                    first, last = window.rows(done[out], high[out])
                    low[source] = min(low.get(source, first), first)
                    high[source] = max(high[source], last)
        bands.append((new, low, high))
        done = high
    result: list[_Band] = []
    keep = {storage: height for storage, (height, _) in region.made.items()}
    for new, low, high in reversed(bands):
        after = dict(keep)
        for storage, first in low.items():
            keep[storage] = min(keep[storage], first)
        result.append(_Band(new, dict(keep), {s: min(after[s], high[s]) for s in after}))
    result.reverse()
    return result


@dataclass
class _Rows:
    """Rows ``low`` to ``high`` of a tensor, in memory of their own."""

    memory: Storage
    low: int
    high: int


def stripe(region: Region, rows: int, number: int) -> list[Op]:
    """The kernels of a region, band by band of ``rows`` rows of its last result, marked as region ``number``."""
    emitter = _Emitter(region, number)
    for band in schedule(region, rows):
        emitter.emit(band)
    return emitter.ops


class _Emitter:
    def __init__(self, region: Region, number: int) -> None:
        self.region = region
        self.number = number
        self.ops: list[Op] = []
        self.now: dict[Storage, _Rows] = {}
        # Last kernel of a band that touches each banded tensor: behind it, what the next band needs is set aside.
        self.touches: list[list[Storage]] = []
        for item in region.cuts:
            memories = dict.fromkeys(ref.memory for ref in item.op.refs.values())
            self.touches.append([m for m in memories if isinstance(m, Storage) and m in region.banded])

    def emit(self, band: _Band) -> None:
        last: dict[Storage, int] = {}
        for place, new in enumerate(band.new):
            if new is not None:
                last.update(dict.fromkeys(self.touches[place], place))
        for place, new in enumerate(band.new):
            if new is None:
                continue
            item = self.region.cuts[place]
            self._prepare(item, new, band)
            self._kernel(place, new)
            for storage in self.touches[place]:
                if last[storage] == place:
                    self._set_aside(storage, band.after[storage], item)

    def _kernel(self, place: int, new: Range) -> None:
        item = self.region.cuts[place]
        begin, end = new
        fields = {**item.op.fields, **item.fields(begin, end)}
        for name, window in item.windows.items():
            fields[name] = self._bind(item.op.refs[name], *window.rows(begin, end))
        fields["out"] = self._bind(item.op.refs["out"], begin, end)
        fields["scratch"] = item.scratch(fields)
        present = {name: value for name, value in fields.items() if value is not None}
        self.ops.append(replace(item.op, fields=present, region=self.number))

    def _bind(self, buffer: Buffer, low: int, high: int) -> Buffer:
        memory = buffer.memory
        geometry = rows_of(buffer)
        assert geometry is not None
        row = geometry[1]
        if isinstance(memory, Storage) and memory in self.region.banded:
            rows = self.now[memory]
            assert rows.low <= low and high <= rows.high
            return take_rows(buffer, rows.memory, (low - rows.low) * row, high - low)
        return take_rows(buffer, memory, buffer.start + low * row, high - low)

    def _prepare(self, item: Cut, new: Range, band: _Band) -> None:
        """Memory for the rows that this band computes, behind those carried over."""
        storage = item.op.refs["out"].memory
        assert isinstance(storage, Storage)
        before = self.now.get(storage)
        if storage not in self.region.banded or (before is not None and before.high == new[1]):
            return
        row = self.region.made[storage][1]
        low = min(band.keep[storage], new[0])
        fresh = _Rows(Storage((new[1] - low) * row, storage.name), low, new[1])
        if low < new[0]:
            assert before is not None
            self._move(before, fresh, low, new[0], row, item)
        self.now[storage] = fresh

    def _set_aside(self, storage: Storage, low: int, item: Cut) -> None:
        rows = self.now[storage]
        # A carried copy frees the band's memory; where nearly all of it is needed again, it stays as it is.
        if low >= rows.high or (rows.high - low) * 4 > (rows.high - rows.low) * 3:
            return
        row = self.region.made[storage][1]
        carried = _Rows(Storage((rows.high - low) * row, f"{storage.name} carried"), low, rows.high)
        self._move(rows, carried, low, rows.high, row, item)
        self.now[storage] = carried

    def _move(self, source: _Rows, target: _Rows, low: int, high: int, row: int, item: Cut) -> None:
        def words(rows: _Rows) -> Buffer:
            return Buffer(rows.memory, ((high - low) * row // 8,), np.dtype(np.int64), (0,), (low - rows.low) * row)

        fields = {
            "in": words(source),
            "out": words(target),
            "elem_size": 8,
            "rank": 1,
            "dims": [(high - low) * row // 8],
            "in_strides": [1],
            "out_strides": [1],
            "in_start": 0,
            "out_start": 0,
        }
        self.ops.append(Op("COPY", item.op.node, fields, (), self.number))

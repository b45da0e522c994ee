# SPDX-License-Identifier: BSD-2-Clause
"""How one kernel computes some rows of its result: which rows of its operands it reads, and its record for them.

A row is a step of the second axis in memory: an image (1, H, W, C) has H rows of W * C elements, a signal (1, L, C)
L rows of C. Where the first axis is larger than one, its steps are the rows: the samples of a batch, or the rows of a
matrix. A kernel that is given only the rows that some rows of its result depend on, with pads at the image's own
edges alone, does the same arithmetic in the same order, so the results are equal bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cloister.compile.layout import Shape
from cloister.compile.lowering import REF_ALIGN, Buffer, Constant, Op, Storage

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """What a result's row reads of an operand of ``height`` rows: ``reach`` rows from ``row * stride - pad`` on."""

    height: int
    stride: int = 1
    pad: int = 0
    reach: int = 1

    def first(self, row: int) -> int:
        """Where the window of a result's row begins; negative inside the pad."""
        return row * self.stride - self.pad

    def rows(self, begin: int, end: int) -> tuple[int, int]:
        """The rows inside the operand, at least one, that the result's rows ``begin`` to ``end`` read."""
        low = min(max(self.first(begin), 0), self.height - 1)
        return low, max(low + 1, min(self.first(end - 1) + self.reach, self.height))

    def begins(self, rows: Ints) -> Ints:
        """First row inside the operand that each of the result's rows reads."""
        return np.clip(rows * self.stride - self.pad, 0, self.height - 1)

    def ends(self, rows: Ints) -> Ints:
        """How many rows of the operand must be there for so many of the result."""
        return np.where(rows > 0, np.clip((rows - 1) * self.stride - self.pad + self.reach, 1, self.height), 0)


class Table(Window):
    """Rows of an operand that are read by a table, in any order."""

    def __init__(self, height: int, index: Ints) -> None:
        """``index`` is (rows of the result, taps): rows of the operand, or -1 for none."""
        super().__init__(height)
        none = index < 0
        low = np.where(none, height, index).min(axis=1)
        high = np.where(none, 0, index + 1).max(axis=1)
        # What every later row of the result needs, and what every earlier one does.
        later = np.minimum.accumulate(low[::-1])[::-1]
        object.__setattr__(self, "_low", np.append(np.minimum(later, height - 1), height - 1))
        object.__setattr__(self, "_high", np.concatenate(([0], np.maximum(np.maximum.accumulate(high), 1))))

    _low: Ints
    _high: Ints

    def rows(self, begin: int, end: int) -> tuple[int, int]:
        """The rows that the result's rows ``begin`` to ``end`` lie between, and perhaps more."""
        low = int(self._low[begin])
        return low, max(low + 1, int(self._high[end]))

    def begins(self, rows: Ints) -> Ints:
        """First row that is still needed when so many of the result are done."""
        return self._low[rows]

    def ends(self, rows: Ints) -> Ints:
        """How many rows of the operand must be there for so many of the result."""
        return self._high[rows]


@dataclass(frozen=True)
class Cut:
    """A kernel that can be cut by rows.

    Attributes:
        op: the whole kernel.
        height: rows of its result.
        row: bytes of one.
        windows: the operands that are read by rows; others are read whole.
        fields: what the record says for rows ``begin`` to ``end``, references to those operands aside.
    """

    op: Op
    height: int
    row: int
    windows: dict[str, Window]
    fields: Callable[[int, int], dict[str, Any]]

    def scratch(self, fields: dict[str, Any]) -> Buffer | None:
        """Fresh scratch for a record; None where it needs none."""
        old = self.op.refs.get("scratch")
        size = 0 if old is None else old.size
        if self.op.kernel == "CONV2D":
            from cloister.ops.conv import conv2d_scratch

            size = min(size, conv2d_scratch(fields))
        return replace(old, memory=Storage(size, "scratch"), shape=(size,)) if old is not None and size else None


def rows_of(buffer: Buffer) -> tuple[int, int] | None:
    """Rows of a buffer and bytes of one; None where it has no rows that could be told apart."""
    dims = buffer.dims
    axis = _row_axis(dims)
    if len(dims) < 2 + axis or dims[axis] < 2:
        return None
    row = prod(dims[axis + 1 :]) * buffer.itemsize
    return None if row % REF_ALIGN or buffer.start % REF_ALIGN else (dims[axis], row)


def _row_axis(dims: Shape) -> int:
    """The axis in memory whose steps are rows."""
    return 0 if len(dims) < 2 or dims[0] > 1 else 1


def take_rows(buffer: Buffer, memory: Storage | Constant, start: int, rows: int) -> Buffer:
    """``rows`` rows of what ``buffer`` describes, which lie at ``start`` of ``memory``."""
    axis = buffer.layout[_row_axis(buffer.dims)]
    shape = tuple(rows if place == axis else size for place, size in enumerate(buffer.shape))
    return replace(buffer, memory=memory, shape=shape, start=start)


def cut(op: Op) -> Cut | None:
    """How a kernel is cut by rows; None where it is not."""
    rule = RULES.get(op.kernel)
    geometry = rows_of(op.refs["out"])
    if rule is None or geometry is None:
        return None
    made = rule(op, geometry[0], geometry[1] // op.refs["out"].itemsize)
    if made is None:
        return None
    windows, fields = made
    for name, window in windows.items():
        operand = rows_of(op.refs[name])
        if operand is None or operand[0] != window.height:
            return None
    return Cut(op, *geometry, windows, fields)


Windows = dict[str, Window]
Fields = Callable[[int, int], dict[str, Any]]
#: Takes the kernel, the rows of its result and the elements of one.
Rule = Callable[[Op, int, int], tuple[Windows, Fields] | None]


def _conv(op: Op, height: int, _each: int) -> tuple[Windows, Fields] | None:
    f = op.fields
    dims = op.refs["out"].dims
    if dims[0] > 1:
        return _samples(f["batch"], height)
    # A signal (1, L, C) is an image of height 1: its rows are columns.
    long, top = ("w", "pad_left") if len(dims) == 3 else ("h", "pad_top")
    reach = (f[f"kernel_{long}"] - 1) * f[f"dilation_{long}"] + 1
    window = Window(f[f"in_{long}"], f[f"stride_{long}"], f[top], reach)
    if f["batch"] != 1 or f[f"out_{long}"] != height or window.first(height - 1) >= window.height:
        return None

    def fields(begin: int, end: int) -> dict[str, Any]:
        low, high = window.rows(begin, end)
        return {f"in_{long}": high - low, f"out_{long}": end - begin, top: max(0, -window.first(begin))}

    return {"in": window}, fields


def _samples(batch: int, height: int) -> tuple[Windows, Fields] | None:
    if batch != height:
        return None
    return {"in": Window(height)}, lambda begin, end: {"batch": end - begin}


def _gemm(op: Op, height: int, _each: int) -> tuple[Windows, Fields] | None:
    if op.fields["m"] != height:
        return None
    return {"in": Window(height)}, lambda begin, end: {"m": end - begin}


def _reduce(op: Op, height: int, each: int) -> tuple[Windows, Fields] | None:
    f = op.fields
    outer = f["dims"][0]
    kept = prod(size for axis, size in enumerate(f["dims"]) if not f["axes"] >> axis & 1)
    if f["axes"] & 1 or outer % height or kept != height * each:
        return None
    unit = outer // height
    return {"in": Window(height)}, lambda begin, end: {"dims": [(end - begin) * unit, *f["dims"][1:]]}


def _pool(op: Op, height: int, _each: int) -> tuple[Windows, Fields] | None:
    f = op.fields
    if op.refs["out"].dims[0] > 1:
        return _samples(f["batch"], height)
    axis = 3 - (len(op.refs["out"].dims) - 2)
    if f["batch"] != 1 or f["out_dims"][axis] != height:
        return None
    reach = (f["kernel"][axis] - 1) * f["dilation"][axis] + 1
    window = Window(f["in_dims"][axis], f["stride"][axis], f["pad_begin"][axis], reach)
    if window.first(height - 1) >= window.height:
        return None

    def changed(name: str, value: int) -> list[int]:
        return [value if place == axis else old for place, old in enumerate(f[name])]

    def fields(begin: int, end: int) -> dict[str, Any]:
        low, high = window.rows(begin, end)
        return {
            "in_dims": changed("in_dims", high - low),
            "out_dims": changed("out_dims", end - begin),
            "pad_begin": changed("pad_begin", max(0, -window.first(begin))),
            "pad_end": changed("pad_end", f["pad_end"][axis] if high == window.height else 0),
        }

    return {"in": window}, fields


def _unary(_op: Op, height: int, each: int) -> tuple[Windows, Fields] | None:
    return {"in": Window(height)}, lambda begin, end: {"count": (end - begin) * each}


def _fill(_op: Op, _height: int, _each: int) -> tuple[Windows, Fields] | None:
    return {}, lambda _begin, _end: {}


def _binary(op: Op, height: int, each: int) -> tuple[Windows, Fields] | None:
    f = op.fields
    inner = prod(f["dims"][1:])
    if each % inner or f["dims"][0] * inner != height * each:
        return None
    unit = each // inner
    windows = {}
    shifted: dict[str, tuple[Buffer, int]] = {}
    for name in ("a", "b"):
        operand, step = op.refs[name], f[f"{name}_strides"][0] * unit
        if step == 0:
            continue
        if operand.is_constant and operand.count == height * step and step * operand.itemsize % REF_ALIGN == 0:
            shifted[name] = (operand, step)
        elif not operand.is_constant and rows_of(operand) == (height, step * operand.itemsize):
            windows[name] = Window(height)
        else:
            return None

    def fields(begin: int, end: int) -> dict[str, Any]:
        made: dict[str, Any] = {"dims": [(end - begin) * unit, *f["dims"][1:]]}
        for name, (operand, step) in shifted.items():
            start = operand.start + begin * step * operand.itemsize
            made[name] = Buffer(operand.memory, ((end - begin) * step,), operand.dtype, (0,), start)
        return made

    return windows, fields


def _copy(op: Op, height: int, each: int) -> tuple[Windows, Fields] | None:
    f = op.fields
    size = f["elem_size"]
    step = f["out_strides"][0]
    if step <= 0 or each % step or f["dims"][0] * step != height * each:
        return None
    unit = each // step
    inner = list(zip(f["dims"][1:], f["out_strides"][1:], f["in_strides"][1:], strict=True))
    if any(out < 0 for _, out, _ in inner):
        return None
    # One step of the outermost axis stays inside its row, wherever in the row it begins.
    last = (unit - 1) * step + sum((count - 1) * out for count, out, _ in inner)
    if f["out_start"] + last >= each:
        return None
    source = op.refs["in"]
    geometry = rows_of(source)
    from_step = f["in_strides"][0]
    span = (unit - 1) * from_step + sum((count - 1) * into for count, _, into in inner)
    by_rows = (
        geometry is not None
        and geometry[0] == height
        and from_step * unit * size == geometry[1]
        and all(into >= 0 for _, _, into in inner)
        and f["in_start"] + span < geometry[1] // size
    )

    def fields(begin: int, end: int) -> dict[str, Any]:
        made: dict[str, Any] = {"dims": [(end - begin) * unit, *f["dims"][1:]]}
        if not by_rows:
            made["in_start"] = f["in_start"] + begin * unit * from_step
        return made

    return ({"in": Window(height)} if by_rows else {}), fields


def _outer(op: Op, height: int, each: int, inner: int) -> tuple[Windows, Fields] | None:
    if each % inner or op.fields["outer"] * inner != height * each:
        return None
    return {"in": Window(height)}, lambda begin, end: {"outer": (end - begin) * each // inner}


def _softmax(op: Op, height: int, each: int) -> tuple[Windows, Fields] | None:
    return _outer(op, height, each, op.fields["n"] * op.fields["inner"])


def _lrn(op: Op, height: int, each: int) -> tuple[Windows, Fields] | None:
    return _outer(op, height, each, op.fields["channels"] * op.fields["inner"])


def _resample(op: Op, height: int, each: int) -> tuple[Windows, Fields] | None:
    f = op.fields
    out = f["out_n"] * f["inner"]
    if f["outer"] == 1 and (f["out_n"], f["inner"]) == (height, each):
        return _resample_rows(op)
    # Along an axis inside the rows. Elements are words of four bytes.
    if each % out or f["outer"] * out != height * each:
        return None
    return {"in": Window(height)}, lambda begin, end: {"outer": (end - begin) * each // out}


def _resample_rows(op: Op) -> tuple[Windows, Fields]:
    f = op.fields
    index = _table(op.refs["index"], np.dtype("<i4"))
    factor = _table(op.refs["factor"], np.dtype("<f4")) if "factor" in op.refs else None
    window = Table(f["in_n"], index.astype(np.int64))
    made: dict[bytes, Constant] = {}

    def constant(values: npt.NDArray[Any]) -> Buffer:
        data = values.tobytes()
        # Bands of one height mostly read the same rows of their own: their tables are one.
        memory = made.setdefault(data, Constant(len(data), lambda: data))
        return Buffer(memory, values.shape, values.dtype, (0, 1))

    def fields(begin: int, end: int) -> dict[str, Any]:
        low, high = window.rows(begin, end)
        part = index[begin:end]
        shifted = {"in_n": high - low, "out_n": end - begin, "index": constant(np.where(part < 0, part, part - low))}
        return shifted if factor is None else {**shifted, "factor": constant(factor[begin:end])}

    return {"in": window}, fields


def _table(buffer: Buffer, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    assert isinstance(buffer.memory, Constant)
    return np.frombuffer(buffer.memory.data, dtype).reshape(buffer.shape)


RULES: dict[str, Rule] = {
    "CONV2D": _conv,
    "DEPTHWISE": _conv,
    "POOL": _pool,
    "UNARY": _unary,
    "FILL": _fill,
    "BINARY": _binary,
    "COPY": _copy,
    "SOFTMAX": _softmax,
    "LRN": _lrn,
    "RESAMPLE": _resample,
    "GEMM": _gemm,
    "REDUCE": _reduce,
    "CONV2D_S8": _conv,
    "DEPTHWISE_S8": _conv,
    "POOL_S8": _pool,
    "GEMM_S8": _gemm,
    "BINARY_S8": _binary,
    "UNARY_S8": _unary,
    "QUANTIZE": _unary,
    "DEQUANTIZE": _unary,
}

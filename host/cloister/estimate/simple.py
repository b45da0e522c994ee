# SPDX-License-Identifier: BSD-2-Clause
"""What matrix products, pools, elementwise functions, copies and reductions do, counted."""

from __future__ import annotations

from math import prod

from cloister.compile.lowering import Op
from cloister.estimate.counting import (
    FUSED,
    PANEL,
    ROWS,
    Term,
    activation,
    function_of,
    fused,
    inside,
    later,
    merged,
    tile_counts,
    up,
)
from cloister.wire import C

#: What places the windows of a pool along one axis.
_WINDOWS = ("out_dims", "kernel", "stride", "dilation", "pad_begin", "in_dims")

#: How windows of few channels are read that cannot be read as whole vectors: by name the least and the next number.
_FEW = (("few", 8, 16), ("fewer", 4, 8), ("fewest", 1, 4))


def _matrix(op: Op) -> list[Term]:
    f = op.fields
    function = function_of(f)
    counts = {"call": 1.0, **tile_counts(up(f["m"], ROWS), f["m"], f["n"], 1, f["k"], function)}
    shape = {"rows": f["m"], "columns": f["n"], "depth": f["k"]}
    return [Term("GEMM", counts, shape), *later(function, f["m"] * f["n"], f["m"])]


def _matmul(op: Op) -> list[Term]:
    f = op.fields
    times = prod(f["batch_dims"][: f["batch_rank"]])
    counts = tile_counts(up(f["m"], ROWS), f["m"], f["n"], 1, f["k"], "CL_UNARY_IDENTITY", times)
    panels = times * up(f["n"], PANEL)
    partial = times * (f["n"] % PANEL > 0)
    counts |= {"call": 1, "batch": times, "packed": panels * f["k"], "packed partial": partial * f["k"]}
    return [Term("MATMUL", counts, {"rows": f["m"], "columns": f["n"], "depth": f["k"]})]


def _unary(op: Op) -> list[Term]:
    return activation(function_of(op.fields, "function"), op.fields["count"]) or [Term("UNARY identity", {"call": 1})]


def _binary(op: Op) -> list[Term]:
    f = op.fields
    function = function_of(f)
    walk = merged(f["dims"][: f["rank"]], f["a_strides"], f["b_strides"])
    count, (a, b) = walk[-1] if walk else (1, (1, 1))
    rows = prod(size for size, _ in walk[:-1])
    total = rows * count
    if f["function"] == C.CL_BINARY_ADD and (a, b) == (1, 1) and function in FUSED:
        # Sums of residual connections, four vectors at a time, activated on their way.
        fours, rest = count // 16, up(count % 16, 4)
        counts = {"call": 1, "row": rows, "fours": rows * fours, "rest": rows * rest, **fused(function, rows * fours)}
        return [Term("BINARY sum", counts, {"row": count, "rows": rows})]
    whole = (a, b) in ((1, 1), (1, 0), (0, 1))
    name = {getattr(C, f"CL_BINARY_{name}"): name.lower() for name in ("DIV", "PRELU", "POW")}
    kind = f"BINARY {name.get(f['function'], 'simple')}"
    counts = {
        "call": 1,
        "row": rows,
        "vector": rows * (count // 4) if whole else 0,
        "rest": rows * (up(count % 4, 4) if whole else up(count, 4)),
    }
    return [Term(kind, counts, {"row": count, "rows": rows}), *activation(function, total, up(total, 2048))]


def _pool(op: Op) -> list[Term]:
    f = op.fields
    channels, average, eight = f["channels"], f["kind"] != C.CL_POOL_MAX, op.kernel == "POOL_S8"
    places = [
        inside(*(f[name][axis] if name in f else 0 for name in _WINDOWS))
        for axis in range(3)
    ]  # fmt: skip
    windows, outer = f["batch"] * prod(f["out_dims"]), f["batch"] * sum(places[0])
    whole = sum(count == f["kernel"][2] for count in places[2])
    # Windows side by side that have all columns inside are one run.
    runs = f["batch"] * f["out_dims"][0] * f["out_dims"][1] * (len(places[2]) - whole + (whole > 0))
    small = not average and list(f["kernel"]) == [1, 2, 2]
    kind = f"POOL {'average' if average else 'max 2x2' if small else 'max'}{'_S8' if eight else ''}"
    counts: dict[str, float] = {"call": 1, "run": runs, "window": windows}
    counts["line"] = f["batch"] * f["out_dims"][0] * f["out_dims"][1]
    if eight:
        # Few channels are whole vectors as well, but for the last windows of all.
        last = _last_windows(windows, len(places[2]), channels)
        share = last / windows
        parts = {"wide": up(channels, 16) * (1 - share)}
        parts |= {name: share * (low <= channels < high) for name, low, high in _FEW}
        counts["part"] = runs * up(channels, 16)
    else:
        narrow = channels % 16 // 4 + (channels % 4 > 0 and channels >= 4)
        parts = {"wide": channels // 16, "narrow": narrow, "single": channels if channels < 4 else 0}
    lines, cells = outer * sum(places[1]) * f["out_dims"][2], outer * sum(places[1]) * sum(places[2])
    for name, vectors in parts.items():
        counts |= {name: windows * vectors, f"{name} line": lines * vectors, f"{name} cell": cells * vectors}
    if eight:
        return [Term(kind, counts, {"channels": channels, "cells": prod(f["kernel"])})]
    function, results = function_of(f), windows * channels
    shape = {"channels": channels, "cells": prod(f["kernel"])}
    return [Term(kind, counts, shape), *activation(function, results, runs)]


def _last_windows(windows: int, row: int, channels: int) -> int:
    """Windows of less than 16 channels behind which lie less than 16 results (count_whole in pool_s8.c)."""
    if channels >= 16:
        return 0
    few, lines, found = 15 // channels, windows // row, 0
    for after in range(lines):
        if (after * row + 1) * channels >= 16:
            break
        found += min(row, few)
    return found


def _copy(op: Op) -> list[Term]:
    f = op.fields
    size, rank = f["elem_size"], f["rank"]
    axes = [
        (count, abs(to), step if to > 0 else -step)
        for count, step, to in zip(f["dims"][:rank], f["in_strides"], f["out_strides"], strict=False)
        if count != 1
    ]
    axes.sort(key=lambda axis: -axis[1])
    walk = merged([axis[0] for axis in axes], [axis[2] for axis in axes], [axis[1] for axis in axes])
    if not walk:
        return [Term("COPY run", {"call": 1})]
    count, (step, to) = walk[-1]
    outer = prod(size for size, _ in walk[:-1])
    if step == to == 1:
        length = count * size
        long = length >= 32
        counts = {"call": 1, "long run": outer * long, "run": outer * (not long)}
        counts |= {"long byte": outer * length * long, "byte": outer * length * (not long)}
        return [Term("COPY run", counts, {"run": length})]
    column = next((size for size, (other, _) in walk[:-1] if other == 1), 0) if to == 1 else 0
    total = outer * count
    if not column:
        return [Term("COPY strided", {"call": 1, "run": outer, "element": total}, {"run": count})]
    times = outer // column
    if count in (3, 4) and size in (1, 4) and next(out for many, (other, out) in walk[:-1] if other == 1) == count:
        vectors = column * size // 16
        counts = {"call": 1, "block": times, "vector": times * vectors, "rest": times * (column - vectors * 16 // size)}
        return [Term("COPY interleave", counts, {"columns": column})]
    squares = (count // 4) * (column // 4) if size == 4 else 0
    # Rows that are left beside the squares are moved along the columns where they are few, else column by column.
    left = count % 4 if size == 4 else count
    strips = up(column, 16)
    counts = {
        "call": 1,
        "block": times,
        "strip": times * strips,
        "strip line": times * strips * (count // 4 if squares else 0),
        "square": times * squares,
        "rest": times * (count * column - 16 * squares),
        "rest line": times * (strips * left + column % 4 if left < 4 else column),
    }
    return [Term(f"COPY transpose {size}", counts, {"rows": count, "columns": column})]


def _reduce(op: Op) -> list[Term]:
    f = op.fields
    dims, axes = f["dims"][: f["rank"]], f["axes"]
    kept = [(size, axis) for axis, size in enumerate(dims) if not axes >> axis & 1]
    total, results = prod(dims), prod(size for size, _ in kept)
    last = f["rank"] - 1
    while last > 0 and dims[last] == 1:
        last -= 1
    sums = f["kind"] in (C.CL_REDUCE_MEAN, C.CL_REDUCE_SUM)
    kind = f"REDUCE {'sum' if sums else 'extreme'}"
    if axes >> last & 1:
        row = dims[last]
        rows = total // row
        counts = {"call": 1, "result": results, "row": rows, "quad": rows * up(row, 4)}
        return [Term(f"{kind} along rows", counts, {"row": row})]
    columns = dims[last]
    runs = results // columns
    each = total // results if results else 1
    pairs, rest = columns // 8, up(columns % 8, 4)
    counts = {
        "call": 1,
        "pair": runs * pairs,
        "pair value": runs * pairs * each,
        "rest": runs * rest,
        "rest value": runs * rest * each,
    }
    return [Term(f"{kind} along columns", counts, {"columns": columns, "values": each})]


def _softmax(op: Op) -> list[Term]:
    f = op.fields
    log = " log" if f["log"] else ""
    if f["inner"] == 1:
        counts = {"call": 1, "row": f["outer"], "quad": f["outer"] * up(f["n"], 4)}
        return [Term(f"SOFTMAX{log} along rows", counts, {"row": f["n"]})]
    columns = f["outer"] * up(f["inner"], 4)
    counts = {"call": 1, "row": columns, "quad": columns * f["n"]}
    return [Term(f"SOFTMAX{log} along columns", counts, {"row": f["n"]})]


def _lrn(op: Op) -> list[Term]:
    f = op.fields
    power = "three quarters" if abs(float(f["beta"]) - 0.75) < 1e-6 else "any"
    quads = f["outer"] * (up(f["channels"], 4) if f["inner"] == 1 else f["channels"] * up(f["inner"], 4))
    counts = {"call": 1, "row": f["outer"], "quad": quads, "square": quads * f["window"]}
    where = "channels last" if f["inner"] == 1 else "planes"
    return [Term(f"LRN {where}, power {power}", counts, {"channels": f["channels"], "window": f["window"]})]


def _resample(op: Op) -> list[Term]:
    f = op.fields
    rows, inner = f["outer"] * f["out_n"], f["inner"]
    if "factor" not in op.refs:
        if inner == 1:
            return [Term("RESAMPLE gather elements", {"call": 1, "outer": f["outer"], "element": rows})]
        counts = {"call": 1, "row": rows, "element": rows * inner}
        return [Term("RESAMPLE gather rows", counts, {"inner": inner})]
    if inner == 1:
        return [Term("RESAMPLE elements", {"call": 1, "row": rows, "tap": rows * f["taps"]}, {"taps": f["taps"]})]
    wide, narrow = inner // 16, up(inner % 16, 4)
    counts = {"call": 1, "row": rows}
    for name, blocks in (("wide", wide), ("narrow", narrow)):
        counts |= {name: rows * blocks, f"{name} tap": rows * blocks * f["taps"]}
    return [Term("RESAMPLE rows", counts, {"inner": inner, "taps": f["taps"]})]


def _argmax(op: Op) -> list[Term]:
    f = op.fields
    where = "rows" if f["inner"] == 1 else "columns"
    counts = {"call": 1, "result": f["outer"] * f["inner"], "element": f["outer"] * f["n"] * f["inner"]}
    return [Term(f"ARGMAX along {where}", counts, {"row": f["n"]})]


def _fill(op: Op) -> list[Term]:
    return [Term("FILL", {"call": 1, "byte": op.refs["out"].size})]


def _each(op: Op) -> list[Term]:
    """Kernels over ``count`` elements in vectors of 16."""
    count = op.fields["count"]
    return [Term(op.kernel, {"call": 1, "vector": count // 16, "rest": count % 16})]


#: By the kernel's name.
DESCRIBED = {
    "GEMM": _matrix,
    "MATMUL": _matmul,
    "UNARY": _unary,
    "BINARY": _binary,
    "POOL": _pool,
    "POOL_S8": _pool,
    "COPY": _copy,
    "REDUCE": _reduce,
    "SOFTMAX": _softmax,
    "LRN": _lrn,
    "RESAMPLE": _resample,
    "ARGMAX": _argmax,
    "FILL": _fill,
    "UNARY_S8": _each,
    "QUANTIZE": _each,
    "DEQUANTIZE": _each,
}

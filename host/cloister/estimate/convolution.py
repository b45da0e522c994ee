# SPDX-License-Identifier: BSD-2-Clause
"""What convolutions and the other 8-bit products do, counted (see :mod:`cloister.estimate.features`)."""

from __future__ import annotations

from typing import Any

from cloister.compile.lowering import Buffer, Constant, Op
from cloister.compile.winograd import winograd_scratch
from cloister.estimate.counting import PANEL, ROWS, Term, function_of, fused, inside, later, merged, tile_counts, up
from cloister.ops.quant_product import fields_by_rows, pixels_at_once
from cloister.wire import C

_PANEL_S8, _STEP_S8, _FOUR = 4, 16, 4
#: Up to this many channels rows of the input are copied with their border (conv2d.c).
_ROW_CHANNELS = 16
#: Tiles of one product of WINOGRAD, results of a tile along each axis.
_BLOCK, _TILE = 8, 4


def is_direct(f: dict[str, Any]) -> bool:
    """A 1x1 convolution whose rows are the input's pixels as they lie."""
    ones = [f[name] for name in ("kernel_h", "kernel_w", "stride_h", "stride_w")]
    return ones == [1] * 4 and not f["pad_top"] and not f["pad_left"] and same_size(f)


def same_size(f: dict[str, Any]) -> bool:
    """The output has the input's height and width."""
    return bool(f["out_h"] == f["in_h"] and f["out_w"] == f["in_w"])


def conv_shape(f: dict[str, Any]) -> dict[str, float]:
    """Sizes on which the constants of a convolution may depend."""
    return {
        "input channels": f["in_c"] // f["group"],
        "output channels": f["out_c"] // f["group"],
        "width": f["out_w"],
        "kernel": f["kernel_h"] * f["kernel_w"],
    }


def conv2d(op: Op) -> list[Term]:
    """CONV2D: directly over pixels, over rows copied with their border, or through a table of pixels."""
    f = op.fields
    group, function = f["group"], function_of(op.fields)
    depth, columns = f["in_c"] // group, f["out_c"] // group
    lines = f["batch"] * f["out_h"]
    pixels = lines * f["out_w"]
    taps = f["kernel_h"] * f["kernel_w"]
    dense = f["dilation_h"] == f["dilation_w"] == 1 and group == 1
    if is_direct(f):
        counts = tile_counts(up(pixels, ROWS), pixels, columns, 1, depth, function, group)
        kind, calls = "CONV2D 1x1", up(pixels, ROWS)
    elif dense and f["in_c"] <= _ROW_CHANNELS and f["stride_w"] <= f["kernel_w"]:
        kind, calls = "CONV2D rows", lines * up(f["out_w"], ROWS)
        counts = tile_counts(calls, pixels, columns, f["kernel_h"], f["kernel_w"] * depth, function)
        row = ((f["out_w"] - 1) * f["stride_w"] + f["kernel_w"]) * f["in_c"]
        copied = f["batch"] * ((f["out_h"] - 1) * min(f["stride_h"], f["kernel_h"]) + f["kernel_h"])
        counts |= {"line": lines, "block row": calls * f["kernel_h"], "copied row": copied, "copied": copied * row / 4}
    else:
        kind, calls = "CONV2D pixels", up(pixels, ROWS)
        counts = tile_counts(calls, pixels, columns, taps, depth, function, group)
        strips = calls + lines if f["out_w"] % ROWS else calls
        counts |= {"strip": strips, "strip tap": strips * taps, "pixel": pixels * taps}
    counts["call"] = 1
    # Pixels of a direct one lie in one row.
    shape = {name: size for name, size in conv_shape(f).items() if name != "width" or kind != "CONV2D 1x1"}
    return [Term(kind, counts, shape), *later(function, pixels * f["out_c"], calls)]


def winograd(op: Op) -> list[Term]:
    """WINOGRAD: transformations of input, weights and results, and 36 products for each pair of channels and tile."""
    f = op.fields
    function = function_of(f)
    depth, panels, quads = up(f["in_c"], 4) * 4, up(f["out_c"], PANEL), up(f["out_c"], 4)
    high, wide = up(f["out_h"], _TILE), up(f["out_w"], _TILE)
    tiles = f["batch"] * high * wide
    scratch = op.refs["scratch"]
    assert isinstance(scratch, Buffer)
    room = 1 + max(0, scratch.size - winograd_scratch(f, 1)) // (48 * depth)
    room = room if room <= _BLOCK else room // _BLOCK * _BLOCK
    groups = up(tiles, room)
    each = up(tiles, groups)
    blocks = groups * up(each, _BLOCK)
    edges = f["batch"] * (high * wide - (f["out_h"] // _TILE) * (f["out_w"] // _TILE))
    strips = blocks + (f["batch"] * high if wide % _BLOCK else 0)
    counts = {
        "call": 1,
        "strip": strips * up(depth, 16),
        "column": (4 * tiles + 2 * strips) * depth / 4,
        "tile": tiles * depth / 4,
        "weight": groups * panels * depth * 2,
        "panel": groups * panels,
        "block": blocks * panels * 36,
        "four steps": blocks * panels * 36 * (depth // 4),
        "mac": tiles * panels * PANEL * 36 * depth,
        "tile result": tiles * panels,
        "result": tiles * quads,
        "edge": edges * quads,
        "narrow": tiles * (f["out_c"] % 4 > 0),
        **fused(function, tiles * quads),
    }
    pixels = f["batch"] * f["out_h"] * f["out_w"]
    return [Term("WINOGRAD", counts, conv_shape(f)), *later(function, pixels * f["out_c"], 1)]


def depthwise(op: Op) -> list[Term]:
    """DEPTHWISE: by kernel and stride where the engine has code of its own, else any."""
    f = op.fields
    function = function_of(f)
    lines, width, channels = f["batch"] * f["out_h"], f["out_w"], f["in_c"]
    vectors = channels // 4
    square, stride = f["kernel_w"] == f["kernel_h"] and f["kernel_w"] in (3, 5), f["stride_w"]
    shared = square and stride <= 2 and f["dilation_w"] == 1 and channels % 4 == 0 and width >= 4
    rows = inside(f["out_h"], f["kernel_h"], f["stride_h"], f["dilation_h"], f["pad_top"], f["in_h"])
    columns = inside(width, f["kernel_w"], stride, f["dilation_w"], f["pad_left"], f["in_w"])
    if shared:
        # What blocks with all columns inside do in whole rows, and the others by each row of the kernel.
        whole = sum(count == f["kernel_w"] for count in columns) // 4
        blocks = up(width, 4)
        edges = (columns[0] < f["kernel_w"]) + (columns[-1] < f["kernel_w"])
        full = f["batch"] * sum(count == f["kernel_h"] for count in rows)
        own = f["kernel_w"] == 3
        plain = full * whole if own else 0
        other = f["batch"] * sum(rows) * blocks - (plain * f["kernel_h"])
        counts = {
            "call": 1,
            "line": lines,
            "run": full * vectors if own else 0,
            "whole": plain * vectors,
            "block": (lines * blocks - plain) * vectors,
            "block start": lines * blocks - plain,
            "block row": other * vectors,
            "edge row": f["batch"] * sum(rows) * edges * vectors,
            **fused(function, lines * blocks * vectors),
        }
        kind = f"DEPTHWISE {f['kernel_w']}x{f['kernel_w']} stride {stride}"
    else:
        apart = sum(count < f["kernel_w"] for count in columns)
        blocks = up(max(0, width - apart), 4)
        cells = f["batch"] * sum(rows)
        counts = {
            "call": 1,
            "line": lines,
            "block": lines * blocks * vectors,
            "block row": cells * blocks * vectors,
            "block cell": cells * blocks * f["kernel_w"] * vectors,
            "pixel": lines * apart * vectors,
            "pixel cell": cells * sum(count for count in columns if count < f["kernel_w"]) * vectors,
            "start": lines * (blocks + apart),
            "single": lines * width * (channels % 4),
            "single cell": cells * sum(columns) * (channels % 4),
        }
        kind = "DEPTHWISE any"
    shape = {"channels": channels, "width": width, "kernel": f["kernel_h"] * f["kernel_w"]}
    return [Term(kind, counts, shape), *later(function, lines * width * channels, lines)]


def _kinds(op: Op, panels: int) -> dict[int, float]:
    """Share of the panels for each kind of weights."""
    kind = op.fields["weights_kind"]
    if kind != C.CL_WEIGHTS_S8_PANELS:
        return {kind: 1.0}
    channels = op.refs["channels"].memory
    assert isinstance(channels, Constant)
    kinds = channels.data[-panels:] if panels else b""
    return {kind: kinds.count(kind) / panels for kind in set(kinds)}


_KIND_NAMES = {
    C.CL_WEIGHTS_S8_SYMMETRIC: "symmetric",
    C.CL_WEIGHTS_S8_ANY: "any",
    C.CL_WEIGHTS_S8_FOURS: "fours",
}


def _tiles_s8(op: Op, rows: int, columns: int, depth: int, at_once: int, group: int = 1) -> dict[str, float]:
    """What 8-bit tiles of `at_once` rows do (tile_s8.c): rows by fours, panels of 4 columns, 16 products a step."""
    tiles, rest = up(rows, at_once), rows % _FOUR
    fours, panels, steps = rows // _FOUR, up(columns, _PANEL_S8), up(depth, _STEP_S8)
    partial = columns % _PANEL_S8 > 0
    counts: dict[str, float] = {
        "tile": tiles * group,
        "panel": tiles * panels * group,
        "four": fours * panels * group,
        "rest": (rest > 0) * panels * group,
        "partial row": (fours * _FOUR + rest) * partial * group,
    }
    for kind, share in _kinds(op, panels * group).items():
        name = _KIND_NAMES[kind]
        counts[f"{name} step"] = fours * panels * steps * share * group
        counts[f"{name} rest step"] = rest * panels * steps * share * group
        if steps % 2:
            counts[f"{name} odd"] = fours * panels * share * group
    return counts


def conv2d_s8(op: Op) -> list[Term]:
    """CONV2D_S8: on the input as it lies, by rows of the kernel, or on patches copied row by row or tap by tap."""
    f = op.fields
    group = f["group"]
    lines = f["batch"] * f["out_h"]
    pixels = lines * f["out_w"]
    taps, channels = f["kernel_h"] * f["kernel_w"], f["in_c"] // group
    at_once = pixels_at_once(taps * channels)
    counts = {"call": 1.0, **_tiles_s8(op, pixels, f["out_c"] // group, taps * channels, at_once, group)}
    strips = max(lines, up(pixels, at_once))
    if f["out_w"] % at_once and at_once % f["out_w"]:
        strips = up(pixels, at_once) + lines
    if "scratch" not in op.refs:
        kind = "CONV2D_S8 direct"
    elif group == 1 and f["dilation_h"] == f["dilation_w"] == 1:
        by_rows = fields_by_rows(f)
        kind = "CONV2D_S8 rows" if by_rows else "CONV2D_S8 patches"
        copied = f["batch"] * ((f["out_h"] - 1) * min(f["stride_h"], f["kernel_h"]) + f["kernel_h"])
        ring_row = ((f["out_w"] - 1) * f["stride_w"] + f["kernel_w"]) * f["in_c"]
        row = f["kernel_w"] * f["in_c"]
        # A loop of its own has each number of vectors, for kernels of three rows.
        loops = f["kernel_h"] != 3 or row > 48
        counts |= {"strip": strips, "copied row": copied, "copied": copied * up(ring_row, 64)}
        if by_rows:
            counts |= {"strip row": strips * f["kernel_h"], "row": pixels * f["kernel_h"]}
        else:
            counts |= {
                "pixel": pixels,
                "vector": pixels * f["kernel_h"] * up(row, 16),
                "loop row": pixels * f["kernel_h"] * loops,
                "loop vector": pixels * f["kernel_h"] * up(row, 16) * loops,
            }
    else:
        kind = "CONV2D_S8 taps"
        counts |= {
            "strip": strips * group,
            "pixel": pixels * group,
            "tap": pixels * taps * group,
            "copied": pixels * taps * group * up(channels, 16),
        }
    return [Term(kind, counts, conv_shape(f))]


def gemm_s8(op: Op) -> list[Term]:
    """GEMM_S8."""
    f = op.fields
    whole = f["k"] % _STEP_S8 == 0
    counts = {"call": 1.0, **_tiles_s8(op, f["m"], f["n"], f["k"], ROWS)}
    counts["copied"] = 0 if whole else f["m"] * up(f["k"], 16)
    return [Term("GEMM_S8", counts, {"rows": f["m"], "columns": f["n"], "depth": f["k"]})]


def depthwise_s8(op: Op) -> list[Term]:
    """DEPTHWISE_S8: 3x3 in pairs of pixels, the others through a table of taps."""
    f = op.fields
    lines, channels, stride = f["batch"] * f["out_h"], f["in_c"], f["stride_w"]
    taps = f["kernel_h"] * f["kernel_w"]
    vectors = up(channels, 16)
    any_weights = " any" if f["weights_kind"] == C.CL_WEIGHTS_S8_ANY else ""
    pairs = 0
    if taps == 9 and f["kernel_h"] == 3 and f["dilation_h"] == f["dilation_w"] == 1 and stride <= 2 and channels >= 16:
        rows = inside(f["out_h"], 3, f["stride_h"], 1, f["pad_top"], f["in_h"])
        columns = inside(f["out_w"], 3, stride, 1, f["pad_left"], f["in_w"])
        pairs = f["batch"] * sum(count == 3 for count in rows) * (sum(count == 3 for count in columns) // 2)
    single = lines * f["out_w"] - 2 * pairs
    counts = {
        "call": 1,
        "line": lines,
        "outside": vectors,
        "pair": pairs,
        f"pair vector{any_weights}": pairs * vectors,
        "pixel": single,
        "pixel tap": single * taps,
        "vector": single * vectors if channels >= 16 else 0,
        f"vector tap{any_weights}": single * vectors * taps if channels >= 16 else 0,
        "single": single * channels if channels < 16 else 0,
        "single tap": single * channels * taps if channels < 16 else 0,
    }
    kind = "DEPTHWISE_S8" + (f" stride {stride}" if pairs else " any")
    return [Term(kind, counts, {"channels": channels, "width": f["out_w"], "kernel": taps})]


def binary_s8(op: Op) -> list[Term]:
    """BINARY_S8."""
    f = op.fields
    walk = merged(f["dims"][: f["rank"]], f["a_strides"], f["b_strides"])
    count, steps = walk[-1] if walk else (1, (1, 1))
    rows = 1
    for size, _ in walk[:-1]:
        rows *= size
    dense = steps == (1, 1)
    rest = up(count % 16, 16) if dense else up(count, 16)
    lanes = count % 16 if dense else count
    name = "mul" if f["function"] == C.CL_BINARY_MUL else "add"
    counts = {
        "call": 1,
        "row": rows,
        "vector": rows * (count // 16) if dense else 0,
        "rest": rows * rest,
        "rest lane": rows * lanes,
    }
    return [Term(f"BINARY_S8 {name}", counts, {"row": count})]


DESCRIBED = {
    "CONV2D": conv2d,
    "WINOGRAD": winograd,
    "DEPTHWISE": depthwise,
    "CONV2D_S8": conv2d_s8,
    "GEMM_S8": gemm_s8,
    "DEPTHWISE_S8": depthwise_s8,
    "BINARY_S8": binary_s8,
}

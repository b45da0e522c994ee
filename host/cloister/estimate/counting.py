# SPDX-License-Identifier: BSD-2-Clause
"""Terms of the estimate, and how what kernels share is counted (see :mod:`cloister.estimate.features`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloister.wire import C


@dataclass(frozen=True)
class Term:
    """One way through the engine's code.

    Attributes:
        kind: its name in the table of constants.
        counts: how often each thing is done.
        shape: sizes that say for which kernels the constants were found; outside of them the estimate extrapolates.
    """

    kind: str
    counts: Mapping[str, float]
    shape: Mapping[str, float] = field(default_factory=dict)


Fields = dict[str, Any]
#: Activations that the tiles of a convolution or matrix product apply while they store.
FUSED = {"CL_UNARY_IDENTITY": "", "CL_UNARY_RELU": "relu", "CL_UNARY_CLIP": "clip"}
#: Name of each function of UNARY by its number.
FUNCTIONS: dict[int, str] = {
    getattr(C, name): name
    for name in (
        "CL_UNARY_IDENTITY", "CL_UNARY_RELU", "CL_UNARY_CLIP", "CL_UNARY_LEAKY_RELU", "CL_UNARY_SIGMOID",
        "CL_UNARY_TANH", "CL_UNARY_HARD_SIGMOID", "CL_UNARY_HARD_SWISH", "CL_UNARY_ELU", "CL_UNARY_EXP",
        "CL_UNARY_LOG", "CL_UNARY_SQRT", "CL_UNARY_ABS", "CL_UNARY_NEG", "CL_UNARY_RECIPROCAL", "CL_UNARY_ERF",
        "CL_UNARY_SOFTPLUS",
    )
}  # fmt: skip
#: Rows of a tile, and columns of a panel (tile.h).
ROWS, PANEL = 8, 8


def up(value: int, to: int) -> int:
    """``value`` divided by ``to``, rounded up."""
    return -(-value // to)


def function_of(fields: Fields, name: str = "activation") -> str:
    """Name of the function that a record applies."""
    given = fields.get(name) or {}
    return FUNCTIONS[int(given.get("function", C.CL_UNARY_IDENTITY))]


def activation(function: str, count: int, calls: float = 1) -> list[Term]:
    """A function over ``count`` floats, in ``calls`` calls."""
    if function == "CL_UNARY_IDENTITY":
        return []
    short = function.removeprefix("CL_UNARY_").lower()
    return [Term(f"UNARY {short}", {"call": calls, "element": count})]


def fused(function: str, stores: float) -> dict[str, float]:
    """What a fused activation adds to ``stores`` groups of results."""
    name = FUSED.get(function, "")
    return {name: stores} if name else {}


def later(function: str, count: int, calls: float) -> list[Term]:
    """The term of an activation that is not fused."""
    return [] if function in FUSED else activation(function, count, calls)


def tile_counts(
    tiles: float, rows: float, columns: int, taps: int, depth: int, function: str, times: float = 1
) -> dict[str, float]:
    """What tiles of up to 8 rows do (tile.c): ``rows`` rows in all, ``times`` over.

    Per panel of 8 columns and per tap, rows are multiplied four products at a time; ``tail`` stands for a depth that is
    no multiple of four.
    """
    panels, partial = up(columns, PANEL), columns % PANEL > 0
    tail = depth % 4 > 0
    tiles, rows = tiles * times, rows * times
    return {
        "tile": tiles,
        "panel": tiles * panels,
        "tap": tiles * panels * taps,
        "four steps": tiles * panels * taps * (depth // 4),
        "row": rows * panels,
        "row tap": rows * panels * taps,
        "mac": rows * panels * PANEL * taps * depth,
        "tail": tiles * panels * taps * tail,
        "row tail": rows * panels * taps * tail,
        "partial panel": tiles * partial,
        "partial row": rows * partial,
        **fused(function, rows * panels),
    }


def merged(dims: Sequence[int], *strides: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Dimensions joined where all strides allow it, as cl_walk_append does: (count, strides), the innermost last."""
    found: list[tuple[int, tuple[int, ...]]] = []
    for count, *steps in zip(dims, *strides, strict=False):
        if count == 1:
            continue
        if found and all(before == step * count for before, step in zip(found[-1][1], steps, strict=True)):
            found[-1] = (found[-1][0] * count, tuple(steps))
        else:
            found.append((count, tuple(steps)))
    return found


def inside(count: int, kernel: int, stride: int, dilation: int, pad: int, extent: int) -> list[int]:
    """Taps inside of the input for each of ``count`` windows along one axis (window.h)."""
    return [sum(0 <= index * stride - pad + tap * dilation < extent for tap in range(kernel)) for index in range(count)]

# SPDX-License-Identifier: BSD-2-Clause
"""Instructions of one inference, estimated from the kernels' records and a table of measured constants.

The estimate of a kernel is ``mac * MACs + tap * taps + element * results + call``: multiply-accumulates with channels
rounded up to whole panels, windows laid out (one for each result pixel and cell of the filter), results written, and
what a kernel costs however small it is. ``constants.json`` holds the factors; ``build/bench`` measures them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from cloister.compile.lowering import Buffer, Op
from cloister.compile.pack import PANEL
from cloister.compile.winograd import DIRECT, saved, winograd_scratch

CONSTANTS = Path(__file__).with_name("constants.json")


@dataclass(frozen=True)
class Work:
    """What a kernel does: the class of its constants, multiply-accumulates or cells, taps, results."""

    kind: str
    macs: int
    taps: int
    elements: int


@dataclass(frozen=True)
class Instructions:
    """Estimated instructions of one inference, by what they are spent on."""

    compute: float
    decrypt: float
    boundary: float

    @property
    def total(self) -> float:
        """The sum."""
        return self.compute + self.decrypt + self.boundary


@cache
def constants(path: Path = CONSTANTS) -> dict[str, Any]:
    """The table of a file."""
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def work_of(op: Op) -> Work:
    """What a kernel does."""
    f, out = op.fields, op.refs["out"]
    kind, macs, taps = op.kernel, 0, 0
    if kind in ("CONV2D", "WINOGRAD", "CONV2D_S8"):
        columns = -(-f["out_c"] // f["group"] // PANEL) * PANEL * f["group"]
        cells, pixels = f["kernel_h"] * f["kernel_w"], f["batch"] * f["out_h"] * f["out_w"]
        macs = pixels * columns * cells * f["in_c"] // f["group"]
        taps = pixels * cells * f["group"]
        if kind == "CONV2D" and cells == 1 and (f["stride_h"], f["stride_w"]) == (1, 1):
            kind = "CONV2D 1x1"
    elif kind in ("DEPTHWISE", "DEPTHWISE_S8"):
        macs = out.count * f["kernel_h"] * f["kernel_w"]
    elif kind in ("GEMM", "GEMM_S8"):
        macs = f["m"] * f["k"] * -(-f["n"] // PANEL) * PANEL
        kind = "GEMM row" if kind == "GEMM" and f["m"] == 1 else kind
    elif kind == "MATMUL":
        macs = out.count * f["k"]
    elif kind in ("POOL", "POOL_S8"):
        macs = out.count * prod(f["kernel"])
    elif kind in ("REDUCE", "ARGMAX"):
        macs = op.refs["in"].count
    elif kind == "RESAMPLE":
        macs = out.count * f["taps"]
    elif kind == "COPY" and f["in_strides"][-1] == f["out_strides"][-1] == 1 and f["dims"][-1] >= PANEL:
        kind = "COPY run"
    return Work(kind, macs, taps, _written(op))


def _written(op: Op) -> int:
    """Results that a kernel writes; a copy may write a part of its target only."""
    return prod(op.fields["dims"]) if op.kernel == "COPY" else op.refs["out"].count


def kernel_instructions(op: Op, table: Mapping[str, Any] | None = None) -> float:
    """Estimated instructions of one kernel."""
    if op.kernel == "WINOGRAD":
        f = op.fields
        columns = -(-f["out_c"] // PANEL) * PANEL
        each = winograd_scratch(f, 1)
        scratch = op.refs["scratch"]
        assert isinstance(scratch, Buffer)
        tiles = 1 + max(0, scratch.size - each) // max(1, 144 * (-(-f["in_c"] // 4) * 4))
        direct = DIRECT * f["batch"] * f["out_h"] * f["out_w"] * 9 * f["in_c"] * columns
        return float(direct - saved(op, tiles))
    work = work_of(op)
    found: dict[str, float] = (table or constants())["kernels"][work.kind]
    total = found["mac"] * work.macs + found["tap"] * work.taps + found["element"] * work.elements + found["call"]
    return float(total)


def inference(
    parts: Sequence[Sequence[Op]],
    streamed: Sequence[int],
    input_bytes: int,
    *,
    crypto: bool = True,
    table: Mapping[str, Any] | None = None,
) -> Instructions:
    """Estimated instructions of one inference in the TA that answers with a label.

    Args:
        parts: kernels of each partition.
        streamed: plain bytes of each partition that is decrypted.
        input_bytes: of all inputs.
        crypto: the processor has instructions for AES and GHASH.
        table: the constants, where not those of the package.
    """
    chosen = table or constants()
    tee = chosen["tee"]
    compute = sum(kernel_instructions(op, chosen) for part in parts for op in part)
    byte = tee["streamed_byte" if crypto else "streamed_byte_without_crypto"]
    decrypt = byte * sum(streamed) + tee["streamed_partition"] * len(streamed)
    return Instructions(compute, decrypt, tee["invocation"] + tee["input_byte"] * input_bytes)

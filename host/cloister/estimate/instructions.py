# SPDX-License-Identifier: BSD-2-Clause
"""Cost of one inference, estimated from the kernels' records and constants that a calibration found.

``constants.json`` is written by ``cloister calibrate``: for each kind of term (:mod:`cloister.estimate.features`) what
its counts cost on the target, instructions on the emulator or nanoseconds on a board, with the error of that and the
sizes for which it was found.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any

from cloister.compile.lowering import Op
from cloister.errors import FormatError
from cloister.estimate.counting import Term
from cloister.estimate.features import terms_of
from cloister.estimate.fit import cost_of

CONSTANTS = Path(__file__).with_name("constants.json")
#: The layout of the table.
VERSION = 2
#: How partitions are opened with and without the processor's AES instructions.
WITH_CRYPTO, WITHOUT_CRYPTO = "aegis-128l", "chacha20-poly1305"
#: What a kind without constants costs, for each call and result.
_UNKNOWN_CALL, _UNKNOWN_ELEMENT = 1500.0, 4.0


@dataclass(frozen=True)
class Extrapolation:
    """A part of the estimate that rests on no measurement.

    Attributes:
        kind: of the term.
        size: what lies outside of the range; empty where nothing of the kind was measured.
        value: its value that lies farthest outside.
        low, high: the range.
        cost: estimated cost of the terms concerned.
    """

    kind: str
    size: str
    value: float
    low: float
    high: float
    cost: float


@dataclass(frozen=True)
class Instructions:
    """Estimated cost of one inference, by what it is spent on, in the unit of the table.

    Attributes:
        compute, decrypt, boundary: the parts.
        error: what the calibration says of the whole, relative: about two in three estimates are as near.
        extrapolations: parts for which it cannot say it.
    """

    compute: float
    decrypt: float
    boundary: float
    error: float = 0.0
    extrapolations: tuple[Extrapolation, ...] = ()

    @property
    def total(self) -> float:
        """The sum."""
        return self.compute + self.decrypt + self.boundary

    @property
    def extrapolated(self) -> float:
        """Share of the total that rests on no measurement; a kernel outside in several ways counts once for each."""
        return min(1.0, sum(part.cost for part in self.extrapolations) / self.total) if self.total else 0.0


def table_path() -> Path:
    """The file of the table that is used: the one that CLOISTER_CONSTANTS names, or else the package's."""
    return Path(os.environ.get("CLOISTER_CONSTANTS") or CONSTANTS)


def constants(path: Path | None = None) -> dict[str, Any]:
    """The table of a file; by default the one that CLOISTER_CONSTANTS names, or else the package's.

    Raises:
        FormatError: it is no table of constants, or of another version.
    """
    chosen = path or table_path()
    try:
        return _read(chosen, chosen.stat().st_mtime_ns)
    except OSError as error:
        raise FormatError(f"{chosen}: {error.strerror}", "make the table: cloister calibrate") from error


@cache
def _read(path: Path, _changed: int) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: {error}", "make the table again: cloister calibrate") from error
    if not isinstance(table, dict) or table.get("version") != VERSION:
        raise FormatError(f"{path} is no table of version {VERSION}", "make it again: cloister calibrate")
    return table


def kernel_instructions(op: Op, table: Mapping[str, Any] | None = None) -> float:
    """Estimated cost of one kernel."""
    return sum(_cost(term, (table or constants())["kernels"]) for term in terms_of(op))


def _cost(term: Term, kinds: Mapping[str, Any]) -> float:
    found = kinds.get(term.kind)
    if found is not None:
        return cost_of(term, found)
    return _UNKNOWN_CALL * term.counts.get("call", 1) + _UNKNOWN_ELEMENT * term.counts.get("element", 0)


@dataclass(frozen=True)
class Streaming:
    """What is decrypted at each inference.

    Attributes:
        sizes: plain bytes of each partition.
        operators: kernels in them.
        payload: bytes of the sealed payload that the TA maps.
        steps: it is too large to be mapped at once, and each partition is an invocation.
    """

    sizes: Sequence[int] = ()
    operators: int = 0
    payload: int = 0
    steps: bool = False


def run_terms(parts: int, operators: int, compute: float, input_bytes: int, answer_values: int) -> list[Term]:
    """What the TA does around the kernels when all partitions are resident.

    Args:
        parts: partitions.
        operators: kernels.
        compute: their cost.
        input_bytes: of all inputs.
        answer_values: elements of the output among which the label is sought.
    """
    counts = {
        "call": 1,
        "partition": parts,
        "operator": operators,
        "input byte": input_bytes,
        "answer value": answer_values,
        "interrupts": compute,
    }
    return [Term("RUN", counts)]


def fed_terms(input_bytes: int, parts: int, operators: int) -> list[Term]:
    """An invocation that takes in some of the inputs, and runs what needs no other (FEED)."""
    counts = {"call": 1, "input byte": input_bytes, "partition": parts, "operator": operators}
    return [Term("FEED", counts)]


def handing_terms(input_bytes: int, taps: Sequence[int]) -> list[Term]:
    """What the normal world copies for a pair: its inputs to where the backbone reads them, taps to shared memory.

    Args:
        input_bytes: of the backbone.
        taps: bytes of each tap.
    """
    return [Term("HAND OVER", {"call": 1, "tap": len(taps), "byte": input_bytes + sum(taps)})]


def open_terms(streaming: Streaming, suite: str) -> list[Term]:
    """What opening the streamed partitions adds."""
    if not streaming.sizes:
        return []
    counts = {
        "partition": len(streaming.sizes),
        "byte": sum(streaming.sizes),
        "operator": streaming.operators,
        "payload byte": streaming.payload,
    }
    if streaming.steps:
        step = {"call": len(streaming.sizes), "byte": sum(streaming.sizes)}
        return [Term(f"OPEN {suite}", {**counts, "payload byte": 0}), Term("STEP", step)]
    return [Term(f"OPEN {suite}", counts)]


def inference(
    parts: Sequence[Sequence[Op]],
    streaming: Streaming,
    input_bytes: int,
    answer_values: int,
    *,
    suite: str = WITH_CRYPTO,
    table: Mapping[str, Any] | None = None,
) -> Instructions:
    """Estimated cost of one inference in the TA that answers with a label.

    Args:
        parts: kernels of each partition.
        streaming: what is decrypted.
        input_bytes: of all inputs.
        answer_values: elements of the first output.
        suite: cipher that the partitions are sealed with.
        table: the constants, where not those of the package.
    """
    around = run_terms(
        len(parts), sum(map(len, parts)), sum(kernel_instructions(op, table) for part in parts for op in part),
        input_bytes, answer_values,
    )  # fmt: skip
    return summed([op for part in parts for op in part], open_terms(streaming, suite), around, table)


def summed(
    kernels: Iterable[Op], opened: Sequence[Term], around: Sequence[Term], table: Mapping[str, Any] | None = None
) -> Instructions:
    """The estimate of kernels and of what comes with them, with the error of all of it together.

    Args:
        kernels: in either world.
        opened: what decrypts.
        around: what enters the TA and leaves it.
        table: the constants, where not those of the package.
    """
    kinds = (table or constants())["kernels"]
    terms = [term for op in kernels for term in terms_of(op)]
    compute, decrypt, boundary = ([(term, _cost(term, kinds)) for term in part] for part in (terms, opened, around))
    costs = [*compute, *decrypt, *boundary]
    total = sum(cost for _, cost in costs)
    return Instructions(
        sum(cost for _, cost in compute), sum(cost for _, cost in decrypt), sum(cost for _, cost in boundary),
        _error(costs, kinds) / total if total else 0.0, tuple(_extrapolations(costs, kinds)),
    )  # fmt: skip


def _told(kinds: Mapping[str, Any], kind: str, name: str) -> float:
    """An error of a kind; where nothing of it was measured, all of it may be wrong."""
    return float(kinds[kind][name]) if kind in kinds else 1.0


def _error(costs: Iterable[tuple[Term, float]], kinds: Mapping[str, Any]) -> float:
    """Standard error of a sum of terms: all of a kind share its bias, those alike in all counts share their error."""
    sums: dict[str, float] = defaultdict(float)
    alike: dict[tuple[str, tuple[tuple[str, float], ...]], float] = defaultdict(float)
    for term, cost in costs:
        sums[term.kind] += cost
        alike[term.kind, tuple(term.counts.items())] += cost
    shared = sum((cost * _told(kinds, kind, "bias")) ** 2 for kind, cost in sums.items())
    own = sum((cost * _told(kinds, kind, "error")) ** 2 for (kind, _), cost in alike.items())
    return sqrt(shared + own)


def _extrapolations(costs: Iterable[tuple[Term, float]], kinds: Mapping[str, Any]) -> list[Extrapolation]:
    found: dict[tuple[str, str], Extrapolation] = {}
    for term, cost in costs:
        if term.kind not in kinds:
            before = found.get((term.kind, ""))
            found[term.kind, ""] = Extrapolation(term.kind, "", 0, 0, 0, cost + (before.cost if before else 0))
            continue
        for size, value in term.shape.items():
            low, high = kinds[term.kind]["shape"].get(size, (value, value))
            if low <= value <= high:
                continue
            before = found.get((term.kind, size))
            worst = (
                value if before is None else max(value, before.value, key=lambda it: max(it / high, low / (it or 1)))
            )
            found[term.kind, size] = Extrapolation(
                term.kind, size, worst, low, high, cost + (before.cost if before else 0)
            )
    return list(found.values())

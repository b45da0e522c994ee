# SPDX-License-Identifier: BSD-2-Clause
"""What a pair of backbone and Companion Partial Monitor (CPM) will take, told before it is built or even trained.

Costs depend on shapes, not on weights, so an untrained pair of the right shapes is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cloister.compile.arrange import Arrangement, MemoryBudgetError, arrange
from cloister.compile.lowering import Op
from cloister.compile.pair import ArrangedPair, arrange_pair
from cloister.estimate.instructions import (
    WITH_CRYPTO,
    Extrapolation,
    constants,
    fed_terms,
    handing_terms,
    open_terms,
    run_terms,
    summed,
)
from cloister.estimate.plan import streaming_of
from cloister.ir.check import check_graph
from cloister.ir.importer import import_onnx, raise_problems
from cloister.ir.load import ModelSource
from cloister.ir.passes.pipeline import clean, optimise

#: A budget in which everything stays resident.
UNLIMITED = 1 << 40


@dataclass(frozen=True)
class Prediction:
    """What one inference of a strategy takes. Costs are in the unit of the calibration: instructions on the emulator.

    Attributes:
        unprotected: the victim in the normal world, by the same engine.
        normal_world: kernels of the backbone, and the copies of what crosses.
        secure_world: kernels in the TA, and decryption where partitions are streamed.
        boundary: entering the TA and leaving it, taking in what crosses: what a model without kernels would take.
        secure_memory: bytes that the session takes at most, all included.
        loaded: bytes of those that USAGE shows as its peak: without the TA's own code, data and stack.
        crossings: invocations of the TA.
        bytes_in: bytes that enter the TA.
        error: of the total, relative, as the calibration tells: about two in three estimates are as near.
        extrapolations: parts that rest on no measurement.
        evaluation: how far predictions were off of strategies that were measured whole and are no part of the
            calibration: by what is predicted (``total``, ``secure world``, ...) ``median``, ``worst`` and ``mean``, as
            the table keeps them; None where its constants were not held against any.
        unit: of the costs.
    """

    unprotected: float
    normal_world: float
    secure_world: float
    boundary: float
    secure_memory: int
    loaded: int
    crossings: int
    bytes_in: int
    error: float
    extrapolations: tuple[Extrapolation, ...]
    evaluation: Mapping[str, Any] | None = None
    unit: str = "instructions"

    @property
    def total(self) -> float:
        """Both worlds and the boundary."""
        return self.normal_world + self.secure_world + self.boundary

    @property
    def overhead(self) -> float:
        """What is added to the unprotected model, as a share of it; below 0 where it is less."""
        return self.total / self.unprotected - 1

    @property
    def extrapolated(self) -> float:
        """Share of the total that rests on no measurement."""
        return min(1.0, sum(part.cost for part in self.extrapolations) / self.total) if self.total else 0.0

    def as_json(self) -> dict[str, Any]:
        """All figures, for other programs."""
        found = asdict(self)
        return {**found, "total": self.total, "overhead": self.overhead, "extrapolated": self.extrapolated}


def predict(
    victim: ModelSource,
    protected: ModelSource,
    backbone: ModelSource | None = None,
    *,
    budget: int | None = None,
    staged: bool = False,
    cipher: str = WITH_CRYPTO,
    table: Mapping[str, Any] | None = None,
) -> Prediction:
    """Predict what an inference takes.

    Args:
        victim: the unprotected model: path, serialized bytes, or ModelProto.
        protected: what runs in the TA: the CPM, or a whole model.
        backbone: what runs in the normal world before it; None: nothing.
        budget: secure memory of the session in bytes; None: as much as it takes.
        staged: taps enter the TA as soon as they are ready, in an invocation each (those that become ready together in
            one); else all in one.
        cipher: what partitions are sealed with.
        table: the constants, where not those of the package.

    Raises:
        MemoryBudgetError: what runs in the TA does not fit into the budget.
        FormatError, ModelError, UnsupportedModelError: as :func:`cloister.compile.compile_onnx`.
        PairError: CPM and backbone do not fit each other.
    """
    pair: ArrangedPair | None = None
    if backbone is None:
        made = _arranged(protected, budget or 0, cipher)
    else:
        pair = arrange_pair(protected, backbone, secure_memory=budget or 0, cipher=cipher)
        made = pair.cpm_arrangement
    lies = made.reside(budget or UNLIMITED)
    if lies is None:
        raise MemoryBudgetError(
            f"what runs in the TA does not fit into {budget} bytes", f"allow at least {made.least} bytes", made.least
        )
    inside = _kernels(made)
    outside = [] if pair is None else _kernels(pair.backbone_arrangement)
    stages = _stages(pair) if pair is not None and staged else []
    streaming = streaming_of(made, lies)
    opened = open_terms(streaming, cipher)
    taps = [buffer.size for buffer in made.lowered.inputs.values()]
    values = next(iter(made.lowered.outputs.values())).count
    early = [sum(counts) for counts in zip((0, 0, 0), *stages, strict=True)]
    computed = summed(inside, (), (), table).total
    # what kernels and their number add to entering belongs to them
    entering = [*(fed_terms(size, 0, 0)[0] for size, _, _ in stages), *run_terms(1, 0, 0, sum(taps) - early[0], values)]
    fed = [fed_terms(*counts)[0] for counts in stages]
    run = run_terms(len(made.parts) - early[1], len(inside) - early[2], computed, sum(taps) - early[0], values)
    handed = handing_terms(_input_bytes(pair), taps) if pair is not None else []
    secure = summed(inside, opened, [*fed, *run], table)
    boundary = summed((), (), entering, table).total
    every = summed([*outside, *inside], opened, [*handed, *fed, *run], table)
    return Prediction(
        unprotected=summed(_kernels(_arranged(victim)), (), (), table).total,
        normal_world=every.total - secure.total,
        secure_world=secure.total - boundary,
        boundary=boundary,
        secure_memory=lies.used,
        loaded=lies.loaded,
        # too large a payload is handed over partition by partition, between BEGIN and FINISH
        crossings=len(streaming.sizes) + 2 if streaming.steps and streaming.sizes else len(stages) + 1,
        bytes_in=sum(taps),
        error=every.error,
        extrapolations=every.extrapolations,
        evaluation=(table or constants()).get("evaluation"),
        unit=(table or constants()).get("unit", "instructions"),
    )


def _input_bytes(pair: ArrangedPair) -> int:
    return sum(buffer.size for buffer in pair.backbone_arrangement.lowered.inputs.values())


def _stages(pair: ArrangedPair) -> list[tuple[int, int, int]]:
    """What each invocation but the last takes in, and runs: bytes, partitions, operators."""
    made = pair.cpm_arrangement
    sizes = [buffer.size for buffer in made.lowered.inputs.values()]
    ends = [index for index in range(1, len(sizes)) if pair.taps[index].ready > pair.taps[index - 1].ready]
    found, first, done = [], 0, 0
    for end in ends:
        # what needs no input that is still missing runs at once
        until = pair.first_use[end]
        found.append((sum(sizes[first:end]), until - done, sum(map(len, made.parts[done:until]))))
        first, done = end, until
    return found


def _arranged(source: ModelSource, budget: int = 0, cipher: str | None = None) -> Arrangement:
    imported = import_onnx(source)
    clean(imported.graph)
    raise_problems([*imported.problems, *check_graph(imported.graph)])
    optimise(imported.graph)
    return arrange(imported.graph, secure_memory=budget, cipher=cipher)


def _kernels(made: Arrangement) -> list[Op]:
    return [op for part in made.parts for op in part]

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
from cloister.estimate.counting import Term
from cloister.estimate.instructions import WITH_CRYPTO, Extrapolation, open_terms, run_terms, summed
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
        normal_world: kernels of the backbone.
        secure_world: kernels in the TA, and decryption where partitions are streamed.
        boundary: entering the TA and leaving it, taking in what crosses.
        secure_memory: bytes that the session takes at most, all included.
        crossings: invocations of the TA.
        bytes_in: bytes that enter the TA.
        error: of the total, relative, as the calibration tells: about two in three estimates are as near.
        extrapolations: parts that rest on no measurement.
    """

    unprotected: float
    normal_world: float
    secure_world: float
    boundary: float
    secure_memory: int
    crossings: int
    bytes_in: int
    error: float
    extrapolations: tuple[Extrapolation, ...]

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
        staged: each tap enters the TA when it is ready, in an invocation of its own; else all in one.
        cipher: what partitions are sealed with.
        table: the constants, where not those of the package.

    Raises:
        MemoryBudgetError: what runs in the TA does not fit into the budget.
        FormatError, ModelError, UnsupportedModelError: as :func:`cloister.compile.compile_onnx`.
    """
    made = _arranged(protected, budget or 0, cipher)
    lies = made.reside(budget or UNLIMITED)
    if lies is None:
        raise MemoryBudgetError(
            f"what runs in the TA does not fit into {budget} bytes", f"allow at least {made.least} bytes", made.least
        )
    inside = _kernels(made)
    outside = [] if backbone is None else _kernels(_arranged(backbone))
    taps = [buffer.size for buffer in made.lowered.inputs.values()]
    values = next(iter(made.lowered.outputs.values())).count
    crossings = len(taps) if staged else 1
    opened = open_terms(streaming_of(made, lies), cipher)
    secure = summed(inside, opened, (), table)
    around = run_terms(len(made.parts), len(inside), secure.compute, sum(taps), values)
    if crossings > 1:
        # an invocation that only takes something in is what STEP is without the bytes that it decrypts
        around.append(Term("STEP", {"call": crossings - 1}))
    every = summed([*outside, *inside], opened, around, table)
    return Prediction(
        unprotected=summed(_kernels(_arranged(victim)), (), (), table).total,
        normal_world=every.compute - secure.compute,
        secure_world=secure.compute + secure.decrypt,
        boundary=every.boundary,
        secure_memory=lies.used,
        crossings=crossings,
        bytes_in=sum(taps),
        error=every.error,
        extrapolations=every.extrapolations,
    )


def _arranged(source: ModelSource, budget: int = 0, cipher: str | None = None) -> Arrangement:
    imported = import_onnx(source)
    clean(imported.graph)
    raise_problems([*imported.problems, *check_graph(imported.graph)])
    optimise(imported.graph)
    return arrange(imported.graph, secure_memory=budget, cipher=cipher)


def _kernels(made: Arrangement) -> list[Op]:
    return [op for part in made.parts for op in part]

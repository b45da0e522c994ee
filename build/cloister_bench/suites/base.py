# SPDX-License-Identifier: BSD-2-Clause
"""What a suite is: it asks for jobs, and turns what they printed into records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from cloister.estimate.instructions import Instructions
from cloister.seal.ciphers import SUITES
from cloister_bench.device import Job, Outcome
from cloister_bench.prepare import Workload
from cloister_bench.records import Record, Samples

#: Largest difference from onnxruntime that is taken for rounding, relative to the range of its outputs.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        quick: few and small measurements.
        networks: names of own networks.
        models: ONNX files to measure as well.
        onnxruntime: whether it is measured.
        crypto: the device's secure world uses the CPU's crypto instructions.
        pairs: a directory with pairs for the suite `mirror`; None: pairs made of random weights.
    """

    quick: bool = False
    networks: Sequence[str] = ()
    models: Sequence[Path] = ()
    onnxruntime: bool = True
    crypto: bool = True
    pairs: Path | None = None

    @property
    def ciphers(self) -> Sequence[str]:
        """The cipher suites that the device has, the fastest first."""
        return [name for name in SUITES if self.crypto or name != "aegis-128l"]


@dataclass
class Findings:
    """What a suite found: records, and what went wrong, each naming its step."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Suite(ABC):
    """One group of measurements. Made once for a run; jobs() before records()."""

    name: ClassVar[str]

    def __init__(self, options: Options) -> None:
        self.options = options
        self.found = Findings()

    @abstractmethod
    def prepare(self) -> list[Workload]:
        """Compile the models that the jobs need."""

    @abstractmethod
    def jobs(self) -> list[Job]:
        """What is to run on the device."""

    @abstractmethod
    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Fill `found` from the outcomes of jobs()."""

    def add(
        self,
        name: str,
        where: str,
        metric: str,
        value: float,
        unit: str,
        *,
        precision: str = "",
        spread: float | None = None,
    ) -> None:
        """Add a record of this suite."""
        if not self.options.crypto:
            name += ", without crypto instructions"
        self.found.records.append(Record(self.name, name, where, precision, metric, value, unit, spread))

    def instructions(self, name: str, where: str, samples: Samples, precision: str = "") -> None:
        """Add what one call took."""
        value, spread = samples.median, samples.spread
        self.add(name, where, "instructions", value, "instructions", precision=precision, spread=spread)

    def estimate(self, name: str, count: Instructions | None, precision: str) -> None:
        """Add what was estimated, and the error that the estimate told."""
        if count is not None:
            self.add(name, "ta", "estimate", count.total, "instructions", precision=precision)
            self.add(name, "ta", "estimate_error", count.error, "of the estimate", precision=precision)

    def take(self, outcomes: Mapping[str, Outcome], job: Job) -> Outcome | None:
        """The outcome of a job that worked; else None, and the problem is kept."""
        outcome = outcomes.get(job.name)
        if outcome is None or outcome.error:
            error = outcome.error if outcome else "it has no result"
            self.found.problems.append(f"{self.name}: {job.step}: {error}")
            return None
        return outcome


def ta_job(name: str, work: Workload, memory: int = 0, what: str = "") -> Job:
    """Inferences in the TA, with at most `memory` bytes (0: as many as there are)."""
    arguments = ("ta", f"$INPUT/{work.directory}", str(memory), f"$RESULTS/{name}.out")
    return Job(name, arguments, f"{work.name} in the TA{what}")


def normal_job(name: str, work: Workload) -> Job:
    """Inferences in the normal world with the same engine."""
    arguments = ("normal", f"$INPUT/{work.directory}", f"$RESULTS/{name}.out")
    return Job(name, arguments, f"{work.name} in the normal world")


def largest_error(answer: bytes, reference: bytes) -> float:
    """Largest difference of float32 outputs, relative to the reference's range; infinite where the sizes differ."""
    ours, theirs = (np.frombuffer(data, np.float32) for data in (answer, reference))
    if ours.size != theirs.size or not theirs.size or not np.isfinite(ours).all():
        return float("inf")
    span = float(theirs.max() - theirs.min()) or 1.0
    return float(np.abs(ours - theirs).max()) / span

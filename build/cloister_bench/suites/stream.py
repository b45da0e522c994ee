# SPDX-License-Identifier: BSD-2-Clause
"""Models in less memory than they need: what is not resident is decrypted for each inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from cloister.compile.arrange import MemoryBudgetError
from cloister.compile.memory import TA_OWN
from cloister.estimate.instructions import WITH_CRYPTO, WITHOUT_CRYPTO
from cloister_bench.device import Job, Outcome
from cloister_bench.estimated import estimated
from cloister_bench.networks import NETWORKS
from cloister_bench.prepare import Workload, prepare
from cloister_bench.suites.base import TOLERANCE, Suite, largest_error, ta_job

#: Shares of the memory that the model takes when it is compiled without a budget and all of it is resident.
_SHARES = (1.0, 0.75, 0.5, 0.25)
#: Pages of the manifest and of what the loader keeps for each partition: the limit of LOAD counts them.
_MANIFEST = 3 * 4096


@dataclass(frozen=True)
class _Case:
    work: Workload
    name: str
    share: float
    job: Job
    memory: int = 0


class StreamSuite(Suite):
    """The same network with less and less secure memory; what it took with enough of it is the measure."""

    name = "stream"

    def prepare(self) -> list[Workload]:
        """Each network twice: without a budget, and for the smallest share."""
        names = ["vgg7"] if self.options.quick else [name for name in self.options.networks if name != "lenet"]
        sources: list[tuple[str, onnx.ModelProto | Path]] = [(name, NETWORKS[name]()) for name in names]
        sources += [(path.stem, path) for path in self.options.models]
        self._least: dict[str, int] = {}
        self._pairs: list[tuple[Workload, Workload]] = []
        for index, (name, source) in enumerate(sources):
            whole = prepare(name, f"stream/{index}", source, optional=True)
            if whole.compiled is None:
                self.found.notes.append(f"{name} is not compiled: {whole.refusal}")
                continue
            # A budget of the compiler counts the TA itself, the limit of LOAD does not.
            cipher = WITH_CRYPTO if self.options.crypto else WITHOUT_CRYPTO
            budget = TA_OWN + _MANIFEST + int(whole.needed * _SHARES[-1])
            try:
                cut = prepare(name, f"stream/{index}cut", source, secure_memory=budget, cipher=cipher)
            except MemoryBudgetError as error:
                budget = error.smallest
                cut = prepare(name, f"stream/{index}cut", source, secure_memory=budget, cipher=cipher)
            self._pairs.append((whole, cut))
            self._least[name] = budget - TA_OWN
        return [work for pair in self._pairs for work in pair]

    def jobs(self) -> list[Job]:
        """One without a budget, then one for each share."""
        self._cases: list[_Case] = []
        for index, (whole, cut) in enumerate(self._pairs):
            self._cases.append(_Case(whole, f"{whole.name}, no budget", 0.0, ta_job(f"stream-{index}", whole)))
            for share in _SHARES:
                memory = int(whole.needed * share) + _MANIFEST
                if memory < self._least[whole.name]:
                    least = self._least[whole.name]
                    text = f"{whole.name} at {share:g} would be {memory >> 10} KiB: {least >> 10} KiB is its least"
                    self.found.notes.append(text)
                    memory, share = least, least / whole.needed
                job = ta_job(f"stream-{index}-{share:.2f}", cut, memory, f" with {memory >> 10} KiB")
                self._cases.append(_Case(cut, f"{whole.name} at {share:.2f}", share, job, memory))
        return [case.job for case in self._cases]

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Instructions, and their ratio to those of the resident model; all answers are the same."""
        resident: dict[str, tuple[float, bytes]] = {}
        for case in self._cases:
            outcome = self.take(outcomes, case.job)
            if outcome is None or outcome.samples is None:
                continue
            samples = outcome.samples
            name, precision = case.name, case.work.precision
            self.instructions(name, "ta", samples, precision)
            self.estimate(name, estimated(case.work, case.memory, crypto=self.options.crypto), precision)
            for metric, unit in (("peak", "bytes"), ("partitions", "partitions"), ("decrypted", "partitions")):
                self.add(name, "ta", metric, outcome.values.get(metric, 0), unit, precision=precision)
            if not case.share:
                resident[case.work.name] = (samples.median, outcome.answer)
            elif case.work.name in resident:
                before, answer = resident[case.work.name]
                self.add(name, "ta", "ratio", samples.median / before, "of resident", precision=precision)
                # With less memory other kernels may be chosen, whose rounding differs.
                if not largest_error(outcome.answer, answer) <= TOLERANCE:
                    self.found.problems.append(f"{self.name}: {name}: the answer is not the resident model's")

# SPDX-License-Identifier: BSD-2-Clause
"""Models in less memory than they need: what is not resident is decrypted for each inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloister.errors import CloisterError
from cloister_bench.device import Job, Outcome
from cloister_bench.networks import NETWORKS
from cloister_bench.prepare import Workload, prepare
from cloister_bench.suites.base import Suite, ta_job

#: Shares of the memory that everything resident takes.
_SHARES = (1.0, 0.75, 0.5, 0.25)
_MANIFEST = 3 * 4096
_LEAST_PARTITION = 8 << 10


@dataclass(frozen=True)
class _Case:
    work: Workload
    share: float
    job: Job


class StreamSuite(Suite):
    """The same network with less and less secure memory."""

    name = "stream"

    def prepare(self) -> list[Workload]:
        """Partitions that fit beside the arena in the smallest share, and as large as that allows."""
        names = ["vgg7"] if self.options.quick else [name for name in self.options.networks if name != "lenet"]
        sources = [(name, NETWORKS[name]()) for name in names] + [(path.stem, path) for path in self.options.models]
        self._works: list[Workload] = []
        for index, (name, source) in enumerate(sources):
            whole = prepare(name, f"stream/{index}", source, optional=True)
            if whole.compiled is None:
                self.found.notes.append(f"{name} is not compiled: {whole.refusal}")
                continue
            room = int(whole.needed * _SHARES[-1]) - whole.compiled.arena_size
            limit = min(1 << 20, max(_LEAST_PARTITION, room // 2))
            try:
                self._works.append(prepare(name, f"stream/{index}", source, max_partition=limit))
            except CloisterError as error:
                self.found.notes.append(f"{name} in partitions of {limit >> 10} KiB: {error.message}")
        return self._works

    def jobs(self) -> list[Job]:
        """One for each share that holds the arena and the largest partition."""
        self._cases: list[_Case] = []
        for index, work in enumerate(self._works):
            assert work.compiled is not None
            least = work.compiled.arena_size + max(map(len, work.compiled.partitions)) + _MANIFEST
            for share in _SHARES:
                memory = int(work.needed * share) + _MANIFEST
                if memory < least:
                    text = f"{work.name} at {share:g} of its memory: {memory >> 10} KiB, it needs {least >> 10} KiB"
                    self.found.notes.append(text)
                    continue
                job = ta_job(f"stream-{index}-{share:g}", work, memory, f" with {memory >> 10} KiB")
                self._cases.append(_Case(work, share, job))
        return [case.job for case in self._cases]

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Instructions, and their ratio to those of the resident model; all answers are the same."""
        resident: dict[str, tuple[float, bytes]] = {}
        for case in self._cases:
            outcome = self.take(outcomes, case.job)
            if outcome is None or outcome.samples is None:
                continue
            samples = outcome.samples
            name, precision = f"{case.work.name} at {case.share:g}", case.work.precision
            self.instructions(name, "ta", samples, precision)
            for metric, unit in (("peak", "bytes"), ("partitions", "partitions"), ("decrypted", "partitions")):
                self.add(name, "ta", metric, outcome.values.get(metric, 0), unit, precision=precision)
            if case.share == 1.0:
                resident[case.work.name] = (samples.median, outcome.answer)
            elif case.work.name in resident:
                before, answer = resident[case.work.name]
                self.add(name, "ta", "ratio", samples.median / before, "of resident", precision=precision)
                if answer != outcome.answer:
                    self.found.problems.append(f"{self.name}: {name}: the answer is not the resident model's")

# SPDX-License-Identifier: BSD-2-Clause
"""Instructions per multiply-accumulate of each kernel and shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloister_bench.device import Job, Outcome
from cloister_bench.kernels import KERNELS, QUICK, Kernel
from cloister_bench.prepare import Workload, prepare
from cloister_bench.suites.base import Options, Suite, normal_job, ta_job

#: Copies of the kernel in the two models whose difference counts.
_COPIES = (1, 3)
#: So large that no kernel is split.
PARTITION = 4 << 20
#: Memory for Winograd's scratch, which is otherwise only given what lies idle.
_ROOM = 11 << 20


def _winograds(work: Workload) -> int:
    """Kernels of a model that run as WINOGRAD."""
    return sum(row.kernel == "WINOGRAD" for row in work.compiled.report.rows) if work.compiled else 0


class KernelSuite(Suite):
    """The kernels alone: nothing of the boundary or of the layout of inputs is in these figures."""

    name = "kernels"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._works: dict[str, list[Workload]] = {}

    def prepare(self) -> list[Workload]:
        """Two models for each kernel."""
        for kernel in QUICK if self.options.quick else KERNELS:
            self._works[kernel.name] = self._pair(kernel, kernel.name, winograd=False)
            if kernel.kind != "matmul":  # of two 8-bit operands that are computed: done in float32
                name = f"{kernel.name}, int8"
                self._works[name] = self._pair(kernel, name, int8=True)
            name = f"{kernel.name}, Winograd"
            pair = self._pair(kernel, name, winograd=True, secure_memory=_ROOM)
            if all(_winograds(work) == copies for work, copies in zip(pair, _COPIES, strict=True)):
                self._works[name] = pair
        return [work for pair in self._works.values() for work in pair]

    def _pair(self, kernel: Kernel, name: str, int8: bool = False, **choices: Any) -> list[Workload]:
        place = f"kernels/{len(self._works)}"
        return [
            prepare(name, f"{place}x{copies}", kernel.model(copies, int8), max_partition=PARTITION, **choices)
            for copies in _COPIES
        ]

    def jobs(self) -> list[Job]:
        """Two in each world for each kernel."""
        self._jobs: dict[tuple[str, str], list[Job]] = {}
        for index, (name, works) in enumerate(self._works.items()):
            for where, make in (("ta", ta_job), ("normal", normal_job)):
                self._jobs[name, where] = [
                    make(f"kernels-{index}-{where}-{copies}", work) for copies, work in zip(_COPIES, works, strict=True)
                ]
        return [job for pair in self._jobs.values() for job in pair]

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Differences of the two models, divided by the copies' multiply-accumulates."""
        for (name, where), jobs in self._jobs.items():
            few, many = (self.take(outcomes, job) for job in jobs)
            if not (few and many and few.samples and many.samples):
                continue
            macs = self._works[name][1].macs - self._works[name][0].macs
            value = (many.samples.median - few.samples.median) / macs
            spread = many.samples.spread
            precision = self._works[name][1].precision
            self.add(name, where, "per_mac", value, "instructions/MAC", precision=precision, spread=spread)
        for name, works in self._works.items():
            each = (works[1].macs - works[0].macs) / (_COPIES[1] - _COPIES[0])
            self.add(name, "", "macs", each, "multiply-accumulates", precision=works[1].precision)
            answers = [outcomes[self._jobs[name, where][1].name].answer for where in ("ta", "normal")]
            if all(answers) and answers[0] != answers[1]:
                self.found.problems.append(f"{self.name}: {name}: the TA's answer is not the normal world's")

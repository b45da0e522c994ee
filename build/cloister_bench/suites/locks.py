# SPDX-License-Identifier: BSD-2-Clause
"""What a password costs: the same bundle with a licence without and with one, resident and streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cloister.password import Lock, Password
from cloister_bench.device import Job, Outcome
from cloister_bench.networks import NETWORKS
from cloister_bench.prepare import Workload, prepare
from cloister_bench.suites.base import Suite, ta_job

#: Shares of each layer's channels that are set to a constant and turned, as `cloister edgepro` does by default.
CONSTANT, TURNED = 0.1, 0.5
#: The limit of LOAD where partitions are streamed: arena and largest partition, and pages for manifest and licence.
PAGES = 32 * 4096


def random_password(work: Workload) -> Password:
    """Locks in every layer but the last, the same each time."""
    assert work.compiled is not None
    numbers = np.random.default_rng(11)
    locks = []
    for tensor, count in list(work.compiled.lockable.items())[:-1]:
        order = numbers.permutation(count)
        constant, turned = max(1, round(CONSTANT * count)), max(1, round(TURNED * count))
        channels = np.sort(order[: constant + turned]).astype(np.uint16)
        scales = np.where(np.isin(channels, order[:constant]), 0, -1).astype(np.float32)
        locks.append(Lock(tensor, channels, scales, numbers.standard_normal(len(channels)).astype(np.float32)))
    return Password(work.name, locks)


@dataclass(frozen=True)
class _Case:
    work: Workload
    name: str
    locked: Job
    opened: Job


class LockSuite(Suite):
    """Instructions of one inference with a password, and what it adds."""

    name = "locks"

    def prepare(self) -> list[Workload]:
        """Each network twice: its licence without a password, and with one."""
        names = ["lenet"] if self.options.quick else list(self.options.networks)
        self._pairs: list[tuple[Workload, Workload]] = []
        for index, name in enumerate(names):
            work = prepare(name, f"locks/{index}", NETWORKS[name]())
            opened = replace(work, directory=f"locks/{index}open", password=random_password(work))
            self._pairs.append((work, opened))
        return [work for pair in self._pairs for work in pair]

    def jobs(self) -> list[Job]:
        """Four for each network."""
        self._cases: list[_Case] = []
        for index, pair in enumerate(self._pairs):
            compiled = pair[0].compiled
            assert compiled is not None
            least = compiled.arena_size + max(map(len, compiled.partitions)) + PAGES
            for kind, memory in (("resident", 0), ("streamed", least)):
                jobs = [
                    ta_job(f"locks-{index}-{kind}-{place}", work, memory, f", {kind}")
                    for place, work in enumerate(pair)
                ]
                self._cases.append(_Case(pair[0], f"{pair[0].name}, {kind}", *jobs))
        return [job for case in self._cases for job in (case.locked, case.opened)]

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Both figures, and what the password adds; the answers differ."""
        for case in self._cases:
            locked, opened = (self.take(outcomes, job) for job in (case.locked, case.opened))
            if locked is None or opened is None or locked.samples is None or opened.samples is None:
                continue
            precision = case.work.precision
            self.instructions(case.name, "ta", opened.samples, precision)
            added = opened.samples.median / locked.samples.median - 1
            self.add(case.name, "ta", "added", added, "of the locked model's", precision=precision)
            for metric in ("partitions", "decrypted"):
                self.add(case.name, "ta", metric, opened.values.get(metric, 0), "partitions", precision=precision)
            if locked.answer == opened.answer:
                self.found.problems.append(f"{self.name}: {case.name}: the password changes no answer")

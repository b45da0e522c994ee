# SPDX-License-Identifier: BSD-2-Clause
"""What a password costs: the same bundle with a licence without and with one, resident and streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from cloister.compile import CompiledModel
from cloister.compile.memory import TA_OWN, least_memory, pages
from cloister.layers import pack_password
from cloister.password import Lock, Password
from cloister_bench.device import Job, Outcome
from cloister_bench.networks import NETWORKS, SMALL, SMALL_INT8
from cloister_bench.prepare import Workload, prepare
from cloister_bench.suites.base import Suite, ta_job

#: Shares of each layer's channels that are set to a constant and turned, as `cloister edgepro` does by default.
CONSTANT, TURNED = 0.1, 0.5
#: Bytes of a licence beside its password, and before it in the TA's copy (struct licence_copy in ta/load.c).
LICENCE = 256 + 24
#: Partitions of the streamed models: small, so that each network has several.
PARTITION = 1 << 14


def random_password(work: Workload) -> Password:
    """Locks in every layer that may be locked, which is all but the last; the same each time."""
    assert work.compiled is not None
    numbers = np.random.default_rng(11)
    locks = []
    for tensor, count in work.compiled.lockable.items():
        order = numbers.permutation(count)
        constant, turned = max(1, round(CONSTANT * count)), max(1, round(TURNED * count))
        channels = np.sort(order[: constant + turned]).astype(np.uint16)
        scales = np.where(np.isin(channels, order[:constant]), 0, -1).astype(np.float32)
        locks.append(Lock(tensor, channels, scales, numbers.standard_normal(len(channels)).astype(np.float32)))
    return Password(work.name, locks)


def _least(compiled: CompiledModel, sizes: list[int]) -> int:
    """The limit of LOAD at which no partition is resident, in bytes."""
    ios = len(compiled.inputs) + len(compiled.outputs)
    return least_memory(compiled.arena_size, sizes, ios, len(compiled.layers)) - TA_OWN


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
        """Each network whole and in small partitions, its licence without a password and with one."""
        names = list(self.options.networks)
        if tuple(names) == SMALL:  # none in particular was asked for
            names += SMALL_INT8
        names = ["lenet"] if self.options.quick else names
        sources: list[tuple[str, onnx.ModelProto | Path]] = [(name, NETWORKS[name]()) for name in names]
        sources += [(path.stem, path) for path in self.options.models]
        self._pairs: list[tuple[Workload, Workload, str]] = []
        for index, (name, source) in enumerate(sources):
            for kind in ("resident", "streamed"):
                limit = PARTITION if kind == "streamed" else None
                work = prepare(name, f"locks/{index}{kind}", source, max_partition=limit)
                opened = replace(work, directory=f"{work.directory}-open", password=random_password(work))
                self._pairs.append((work, opened, kind))
        return [work for pair in self._pairs for work in pair[:2]]

    def jobs(self) -> list[Job]:
        """Two for each network and kind."""
        self._cases: list[_Case] = []
        for index, (work, opened, kind) in enumerate(self._pairs):
            assert work.compiled is not None and opened.password is not None
            sizes = [len(part) for part in work.compiled.partitions]
            words = len(pack_password(opened.password, work.compiled.layers))
            # The same partitions are streamed with the licence's pages and without them.
            locked = 0 if kind == "resident" else _least(work.compiled, sizes)
            memory = 0 if kind == "resident" else locked + pages(LICENCE + words)
            jobs = [
                ta_job(f"locks-{index}-{place}", *each, f", {kind}")
                for place, each in enumerate(((work, locked), (opened, memory)))
            ]
            self._cases.append(_Case(work, f"{work.name}, {kind}", *jobs))
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

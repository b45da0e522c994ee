# SPDX-License-Identifier: BSD-2-Clause
"""Pairs: what backbone, CPM and boundary take, against the unprotected model in the normal world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cloister.native import NativeEngine
from cloister_bench.device import Job, Outcome
from cloister_bench.pairs import PairWork, boundary_of, made_pairs, own_pairs, prepare_pair
from cloister_bench.prepare import Workload, prepare
from cloister_bench.suites.base import TOLERANCE, Options, Suite, largest_error, normal_job, ta_job


@dataclass(frozen=True)
class _Case:
    work: PairWork
    victim: Job | None
    backbone: Job
    boundary: Job
    pair: Job
    stages: Job


class MirrorSuite(Suite):
    """Instructions of one inference, of everything: taps copied, the call, the answer.

    `boundary` is the same call of a model that takes the same taps and has no kernel; what the call takes beyond that
    is the CPM's own. `path` is the longer of both worlds where each tap is handed over when it is ready and each world
    has a core of its own: computed from the instructions of each stage on either side, measured one after the other. It
    knows nothing of caches, of waking a thread, or of two worlds in one core's way.
    """

    name = "mirror"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._cases: list[tuple[PairWork, Workload | None, Workload]] = []

    def prepare(self) -> list[Workload]:
        """Each pair, its victim, and its boundary."""
        works: list[Workload] = []
        pairs = own_pairs(self.options.pairs) if self.options.pairs else made_pairs(self.options.quick)
        for index, files in enumerate(pairs):
            work = prepare_pair(files, f"mirror/{index}")
            victim = prepare(files.name, f"mirror/{index}victim", files.victim) if files.victim else None
            boundary = boundary_of(work, f"mirror/{index}boundary")
            self._cases.append((work, victim, boundary))
            works += [work, boundary, *([victim] if victim else [])]
        return works

    def jobs(self) -> list[Job]:
        """Up to five for each pair."""
        self._jobs: list[_Case] = []
        for index, (work, victim, boundary) in enumerate(self._cases):
            name = f"mirror-{index}"
            self._jobs.append(
                _Case(
                    work,
                    normal_job(f"{name}-victim", victim) if victim else None,
                    normal_job(f"{name}-backbone", work),
                    ta_job(f"{name}-boundary", boundary),
                    pair_job("pair", name, work),
                    pair_job("stages", name, work),
                )
            )
        return [
            job
            for case in self._jobs
            for job in (case.victim, case.backbone, case.boundary, case.pair, case.stages)
            if job is not None
        ]

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """What each part takes, what is added to the victim, and what handing over early would save."""
        for case in self._jobs:
            work = case.work
            taken = {
                name: self.take(outcomes, job)
                for name in ("victim", "backbone", "boundary", "pair", "stages")
                if (job := getattr(case, name)) is not None
            }
            calls = {name: found.samples for name, found in taken.items() if found and found.samples}
            if not {"backbone", "boundary", "pair", "stages"} <= calls.keys():
                continue
            for name, where in (("victim", "normal"), ("backbone", "normal"), ("boundary", ""), ("pair", "")):
                if name in calls:
                    value, spread = calls[name].median, calls[name].spread
                    self.add(work.name, where, name, value, "instructions", precision=work.precision, spread=spread)
            median = {name: samples.median for name, samples in calls.items()}
            pair, stages = taken["pair"], taken["stages"]
            assert pair is not None and stages is not None
            # the least that a call took: no difference of two inferences, of which each met its own interrupts
            secure = pair.values["secure"] - median["boundary"]
            self.add(work.name, "ta", "cpm", secure, "instructions", precision=work.precision)
            if "victim" in median:
                share = median["pair"] / median["victim"] - 1
                self.add(work.name, "", "overhead", share, "of the unprotected model", precision=work.precision)
            for metric, unit in (("taps", "bytes"), ("peak", "bytes"), ("stages", "invocations at most")):
                self.add(work.name, "", metric, pair.values[metric], unit, precision=work.precision)
            self.add(work.name, "", "staged", median["stages"], "instructions", precision=work.precision)
            count = stages.values["stages"]
            sides = [[stages.values[f"{i}.{side}"] for i in range(count)] for side in ("normal", "secure")]
            self.add(work.name, "", "path", longer_path(*sides), "instructions", precision=work.precision)
            self.found.problems += disagreements(self.name, work, pair.answer, stages.answer)


def pair_job(kind: str, name: str, work: Workload, memory: int = 0) -> Job:
    """Inferences of a pair, its taps at once (`pair`) or in `stages`, with at most `memory` bytes (0: all)."""
    arguments = (kind, f"$INPUT/{work.directory}", str(memory), f"$RESULTS/{name}-{kind}.out")
    what = "at once" if kind == "pair" else "in stages"
    return Job(f"{name}-{kind}", arguments, f"{work.name}: the pair, {what}")


def longer_path(normal: Sequence[int], secure: Sequence[int]) -> int:
    """When the last call ends, if each world has a core: a call waits for its tap and for the call before it."""
    ready = done = 0
    for made, called in zip(normal, secure, strict=True):
        ready += made
        done = max(done, ready) + called
    return done


def disagreements(suite: str, work: Workload, whole: bytes, staged: bytes) -> list[str]:
    """Where a pair's answer is another when taps are handed over early, or not the host engine's, but for rounding."""
    found = []
    if whole != staged:
        found.append(f"{suite}: {work.name}: handing taps over early changes the answer")
    error = largest_error(whole, reference(work))
    if not error <= TOLERANCE:
        found.append(f"{suite}: {work.name}: off the host's answer by {error:.2g}")
    return found


def reference(work: Workload) -> bytes:
    """A model's or a pair's outputs by the engine of this machine."""
    assert work.compiled is not None
    engine = NativeEngine()
    values = dict(work.inputs)
    if isinstance(work, PairWork):
        assert work.pair is not None
        values |= engine.run(work.pair.backbone, work.inputs)
    found = engine.run(work.compiled, {info.name: values[info.name] for info in work.compiled.inputs})
    return b"".join(np.ascontiguousarray(value).tobytes() for value in found.values())

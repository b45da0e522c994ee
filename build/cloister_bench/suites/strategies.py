# SPDX-License-Identifier: BSD-2-Clause
"""The emulator's predictions of strategies, held against what they take on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from cloister.compile.memory import TA_OWN
from cloister.estimate.pair import Prediction
from cloister_bench.device import Job, Outcome
from cloister_bench.pairs import PairFiles, PairWork, boundary_of, prepare_pair
from cloister_bench.prepare import Workload, prepare
from cloister_bench.strategies import Builder, Built, built_files, cases
from cloister_bench.suites.base import Options, Suite, normal_job, ta_job
from cloister_bench.suites.mirror import disagreements, pair_job

#: What is predicted and measured, and its unit.
METRICS = {
    "unprotected": "instructions",
    "total": "instructions",
    "normal": "instructions",
    "secure": "instructions",
    "boundary": "instructions",
    "staged": "instructions",
    "peak": "bytes",
    "crossings": "invocations",
    "staged crossings": "invocations",
    "bytes": "bytes",
}


@dataclass(frozen=True)
class _Jobs:
    victim: Job
    boundary: Job
    whole: Job
    stages: Job | None


class StrategySuite(Suite):
    """For each strategy what was predicted before it was compiled, and what one inference takes.

    `total` is an inference from the image to the label. `secure` is what the call of the TA takes beyond `boundary`,
    the same call of a model that takes the same inputs and has no kernel; `normal` is the rest. `staged` is the total
    where each tap crosses as soon as it is ready. `peak` is what the TA itself says that it took.
    """

    name = "strategies"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._built: list[tuple[Built, Workload, Workload]] = []
        self._victims: dict[tuple[str, str], Workload] = {}

    def prepare(self) -> list[Workload]:
        """Each strategy, its boundary, and each victim once."""
        builder = Builder(built_files())
        works: list[Workload] = []
        for index, case in enumerate(cases(self.options.quick)):
            built = builder.build(case)
            place, key = f"strategies/{index}", (case.network, case.strategy.precision)
            if key not in self._victims:
                name = f"{key[0]}, {key[1]}"
                self._victims[key] = prepare(name, f"strategies/{'-'.join(key)}", built.victim)
                works.append(self._victims[key])
            protected, backbone = built.files
            if built.backbone:
                files = PairFiles(case.name, None, onnx.load(str(backbone)), onnx.load(str(protected)))
                work: Workload = prepare_pair(files, place, built.limit)
            else:
                work = prepare(case.name, place, protected, secure_memory=built.limit)
            boundary = boundary_of(work, f"{place}boundary")
            self._built.append((built, work, boundary))
            works += [work, boundary]
        return works

    def jobs(self) -> list[Job]:
        """Up to three for each strategy, one for each victim."""
        victims = {key: normal_job(f"strategies-{'-'.join(key)}", work) for key, work in self._victims.items()}
        self._jobs: list[_Jobs] = []
        for index, (built, work, boundary) in enumerate(self._built):
            name, strategy = f"strategies-{index}", built.case.strategy
            limit = built.limit - TA_OWN if built.limit else 0
            pair = isinstance(work, PairWork)
            self._jobs.append(
                _Jobs(
                    victims[built.case.network, strategy.precision],
                    ta_job(f"{name}-boundary", boundary),
                    pair_job("pair", name, work, limit) if pair else ta_job(f"{name}-ta", work, limit),
                    pair_job("stages", name, work) if built.staged else None,
                )
            )
        own = [job for jobs in self._jobs for job in (jobs.boundary, jobs.whole, jobs.stages) if job is not None]
        return [*victims.values(), *own]

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Both figures of each metric."""
        for (built, work, _), jobs in zip(self._built, self._jobs, strict=True):
            victim, boundary, whole = (self.take(outcomes, job) for job in (jobs.victim, jobs.boundary, jobs.whole))
            stages = self.take(outcomes, jobs.stages) if jobs.stages else None
            if victim is None or boundary is None or whole is None or (jobs.stages and stages is None):
                continue
            assert victim.samples and boundary.samples and whole.samples
            total, call = whole.samples.median, boundary.samples.median
            secure = whole.values.get("secure", total) - call
            found = {
                "unprotected": victim.samples.median,
                "total": total,
                "normal": total - secure - call,
                "secure": secure,
                "boundary": call,
                "peak": whole.values["peak"],
                "crossings": whole.values["invocations"],
                "bytes": whole.values["taps" if "taps" in whole.values else "inputs"],
            }
            if stages is not None:
                assert stages.samples
                found |= {"staged": stages.samples.median, "staged crossings": stages.values["invocations"]}
            self._add(built, found, whole)
            staged_answer = stages.answer if stages else whole.answer
            self.found.problems += disagreements(self.name, work, whole.answer, staged_answer)

    def _add(self, built: Built, found: Mapping[str, float], whole: Outcome) -> None:
        name, precision = built.case.name, built.case.strategy.precision
        assert whole.samples
        prediction = built.predict()
        told = by_metric(prediction, built.predict(staged=True) if "staged" in found else None)
        for metric, value in found.items():
            spread = whole.samples.spread if metric == "total" else None
            self.add(name, "", metric, value, METRICS[metric], precision=precision, spread=spread)
            self.add(name, "", f"{metric}, predicted", told[metric], METRICS[metric], precision=precision)
        for metric, value, unit in (
            ("told error", prediction.error, "of the prediction"),
            ("extrapolated", prediction.extrapolated, "of the prediction"),
            ("drawn", float(built.case.drawn), "from the space"),
        ):
            self.add(name, "", metric, value, unit, precision=precision)


def by_metric(told: Prediction, staged: Prediction | None) -> dict[str, float]:
    """A prediction by METRICS' names."""
    found: dict[str, float] = {
        "unprotected": told.unprotected,
        "total": told.total,
        "normal": told.normal_world,
        "secure": told.secure_world,
        "boundary": told.boundary,
        "peak": told.loaded,
        "crossings": told.crossings,
        "bytes": told.bytes_in,
    }
    return found | ({"staged": staged.total, "staged crossings": staged.crossings} if staged else {})

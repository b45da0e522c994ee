# SPDX-License-Identifier: BSD-2-Clause
"""Whole networks: in the TA, in the normal world with the same engine, and with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from cloister.demo.data import MODEL as DIGITS
from cloister_bench.builder import Builder
from cloister_bench.device import Job, Outcome
from cloister_bench.estimated import estimated
from cloister_bench.networks import NETWORKS, SMALL, SMALL_INT8, resnet20
from cloister_bench.prepare import Workload, prepare
from cloister_bench.suites.base import TOLERANCE, Options, Suite, largest_error, normal_job, ta_job

#: Channels of the first stage in the suite `sizes`.
WIDTHS = (4, 8, 16, 24, 32)


class ModelSuite(Suite):
    """Instructions of one inference, all of them: the boundary is in the TA's figure, `run()` in onnxruntime's."""

    name = "models"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._works: list[Workload] = []
        self._idle: Workload | None = None

    def sources(self) -> list[tuple[str, onnx.ModelProto | Path]]:
        """The networks asked for, the demo's model, and the user's ONNX files."""
        names = ["lenet"] if self.options.quick else list(self.options.networks)
        if tuple(names) == SMALL:  # none in particular was asked for
            names += SMALL_INT8
        sources: list[tuple[str, onnx.ModelProto | Path]] = [(name, NETWORKS[name]()) for name in names]
        if not self.options.quick:
            sources.append(("digits", DIGITS))
        return sources + [(path.stem, path) for path in self.options.models]

    def prepare(self) -> list[Workload]:
        """The networks, and a model of one number for onnxruntime."""
        sources = self.sources()
        for index, (name, source) in enumerate(sources):
            self._works.append(prepare(name, f"{self.name}/{index}", source, optional=True))
        for work in self._works:
            if work.refusal:
                self.found.notes.append(f"{work.name} is not compiled: {work.refusal}")
        if not self.options.onnxruntime:
            return self._works
        b = Builder("idle", [1, 1])
        self._idle = prepare("run() of one number", f"{self.name}/idle", b.finish(b.relu("x")))
        return [*self._works, self._idle]

    def jobs(self) -> list[Job]:
        """Up to three for each network."""
        self._jobs: dict[tuple[str, str], Job] = {}
        for index, work in enumerate(self._works):
            if work.compiled is not None:
                self._jobs[work.name, "ta"] = ta_job(f"{self.name}-{index}-ta", work)
                self._jobs[work.name, "normal"] = normal_job(f"{self.name}-{index}-normal", work)
            if self.options.onnxruntime:
                self._jobs[work.name, "onnxruntime"] = self._ort(f"{self.name}-{index}-ort", work)
        if self._idle is not None:
            self._jobs[self._idle.name, "onnxruntime"] = self._ort(f"{self.name}-idle-ort", self._idle)
        return list(self._jobs.values())

    @staticmethod
    def _ort(name: str, work: Workload) -> Job:
        return Job(name, (work.directory,), f"{work.name} with onnxruntime", "onnxruntime")

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Instructions in each place; the answers are held against each other."""
        for work in self._works:
            answers: dict[str, bytes] = {}
            for where in ("ta", "normal", "onnxruntime"):
                job = self._jobs.get((work.name, where))
                outcome = self.take(outcomes, job) if job else None
                if outcome is None or outcome.samples is None:
                    continue
                answers[where] = outcome.answer
                self.instructions(work.name, where, outcome.samples, work.precision)
                if where == "ta":
                    self._memory(work, outcome)
                    # What the device had no memory for was streamed.
                    limit = outcome.values.get("taken", 0) if outcome.values.get("decrypted") else 0
                    self.estimate(work.name, estimated(work, limit, crypto=self.options.crypto), work.precision)
            if work.compiled is not None:
                self.add(work.name, "", "macs", work.macs, "multiply-accumulates", precision=work.precision)
            self._agree(work, answers)
        if self._idle is not None:
            outcome = self.take(outcomes, self._jobs[self._idle.name, "onnxruntime"])
            if outcome and outcome.samples:
                self.instructions(self._idle.name, "onnxruntime", outcome.samples, "fp32")

    def _memory(self, work: Workload, outcome: Outcome) -> None:
        metrics = (
            ("peak", "bytes"),
            ("partitions", "partitions"),
            ("decrypted", "partitions"),
            ("first", "instructions"),
        )
        for metric, unit in metrics:
            if metric in outcome.values:
                self.add(work.name, "ta", metric, outcome.values[metric], unit, precision=work.precision)

    def _agree(self, work: Workload, answers: Mapping[str, bytes]) -> None:
        """The TA's bits are the normal world's; both are onnxruntime's but for rounding."""
        if "ta" in answers and "normal" in answers and answers["ta"] != answers["normal"]:
            self.found.problems.append(f"{self.name}: {work.name}: the TA's answer is not the normal world's")
        if "onnxruntime" not in answers:
            return
        for where in ("ta", "normal"):
            if where in answers:
                error = largest_error(answers[where], answers["onnxruntime"])
                self.add(work.name, where, "error", error, "of the range", precision=work.precision)
                if not error <= TOLERANCE and work.precision == "fp32":
                    self.found.problems.append(f"{self.name}: {work.name}: off onnxruntime's answer by {error:.2g}")


class SizeSuite(ModelSuite):
    """One architecture in several widths: how the cost grows with the model."""

    name = "sizes"

    def sources(self) -> list[tuple[str, onnx.ModelProto | Path]]:
        """ResNet-20, whose multiply-accumulates grow with the square of its width."""
        widths = WIDTHS[:1] if self.options.quick else WIDTHS
        return [(f"resnet20, width {width}", resnet20(width)) for width in widths]

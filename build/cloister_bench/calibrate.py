# SPDX-License-Identifier: BSD-2-Clause
"""The calibration as a suite: kernels one by one in the normal world, and what the TA adds to them.

What the TA adds is the difference between an inference there and its partitions alone, each measured in the same boot:
the invocation, inputs and answer, what a partition and an operator cost, interrupts; then, with too little memory to
keep anything, what each cipher costs for a byte and for a partition; and what handing the taps of a pair over costs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from cloister.compile.memory import TA_OWN, least_memory
from cloister.compile.planner import align
from cloister.errors import FormatError
from cloister.estimate.counting import Term
from cloister.estimate.fit import Sample, fit
from cloister.estimate.instructions import VERSION, Streaming, open_terms, run_terms
from cloister.seal import VendorKey
from cloister_bench.builder import Builder
from cloister_bench.cases import Case, cases
from cloister_bench.corpus import GROUPS
from cloister_bench.device import Job, Outcome
from cloister_bench.handed import handed_pairs, handed_samples
from cloister_bench.kernels import corner
from cloister_bench.networks import dense
from cloister_bench.pairs import PairWork, prepare_pair
from cloister_bench.prepare import ALIGN, Workload, prepare
from cloister_bench.suites.base import Options, Suite, ta_job
from cloister_bench.suites.mirror import pair_job

#: Repeats and instructions of each: the shortest repeat counts, and few of them meet a timer interrupt.
REPEATS, INSTRUCTIONS = 3, 150_000
#: Bytes of partitions that one start of the client reads.
_BATCH = 4 << 20
#: Ciphers whose cost is measured.
_CIPHERS = ("aegis-128l", "chacha20-poly1305", "aes-256-gcm")


@dataclass
class KernelBatch:
    """Partitions that one start of the client measures; stands where the benchmark has models."""

    directory: str
    arena: int
    partitions: Sequence[bytes]

    def files(self, _key: bytes, _vendor: VendorKey, _with_onnx: bool, *_: object) -> dict[str, bytes]:
        """What the client's job `kernels` reads."""
        lines = [f"arena 0 {self.arena}"]
        data = bytearray()
        for plain in self.partitions:
            lines.append(f"partition {len(data)} {len(plain)}")
            data += plain
            data += bytes(-len(data) % ALIGN)
        made = {"table": ("\n".join(lines) + "\n").encode(), "inputs": b"\0", "partitions": bytes(data)}
        return {f"{self.directory}/{name}": content for name, content in made.items()}

    def job(self, name: str, step: str, instructions: int = INSTRUCTIONS) -> Job:
        """The job that measures them."""
        return Job(name, ("kernels", f"$INPUT/{self.directory}", str(REPEATS), str(instructions)), step)


def all_cases() -> list[Case]:
    """All kernels that are measured one by one."""
    seen: set[object] = set()
    counted: Counter[str] = Counter()
    return [case for models in GROUPS.values() for case in cases(models(), seen, counted)]


def costs(outcome: Outcome, count: int) -> list[float]:
    """What a call of each of `count` partitions cost; empty where one was not measured."""
    found = []
    for index in range(count):
        calls, spent = outcome.values.get(f"{index}.calls"), outcome.values.get(f"{index}.spent")
        if not calls or not spent:
            return []
        found.append(spent / calls)
    return found


def batches(found: Sequence[Case]) -> list[list[Case]]:
    """The kernels in groups, each for one start of the client."""
    made: list[list[Case]] = []
    size = _BATCH
    for case in found:
        if size + len(case.partition) > _BATCH:
            made.append([])
            size = 0
        made[-1].append(case)
        size += len(case.partition)
    return made


@dataclass
class _Around:
    """A model whose inference in the TA is held against its partitions alone."""

    work: Workload
    job: Job
    plain: Job
    streamed: bool
    cipher: str


@dataclass
class _Handed:
    """A pair whose invocations are held against its partitions alone."""

    work: PairWork
    whole: Job
    stages: Job
    normal: Job
    secure: Job


def _models() -> list[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """Models for what lies around the kernels; the third entry holds the compiler's arguments."""
    made: list[tuple[str, onnx.ModelProto, dict[str, Any]]] = []
    b = Builder("idle", [1, 1])
    made.append(("one number", b.finish(b.relu("x")), {}))
    for name, parts in (("chain", 1), ("chain in parts", 13)):
        b = Builder("chain", [1, 1])
        x = "x"
        for _ in range(65):
            x = b.node("Sigmoid", [x], [1, 1])
        made.append((name, b.finish(x), {"partitions": parts}))
    for size in (16 << 10, 256 << 10, 1 << 20):
        b = Builder("inputs", [1, size // 4])
        made.append((f"{size} bytes of input", b.finish(b.relu(corner(b, "x", (1,)))), {}))
    for values in (1000, 8000):
        b = Builder("answer", [1, 1])
        other = b.weights(1, values, fan_in=1)
        made.append((f"{values} values of answer", b.finish(b.node("Mul", ["x", other], [1, values])), {}))
    for side, layers in ((24, 6), (48, 12)):
        b = Builder("work", [1, 32, side, side])
        x = "x"
        for _ in range(layers):
            x = b.relu(b.conv(x, 32, 3))
        made.append((f"work {side}", b.finish(corner(b, x, (2, 3))), {}))
    return made


def _streamed() -> list[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """Models in partitions of one size, each of which must be opened."""
    made: list[tuple[str, onnx.ModelProto, dict[str, Any]]] = []
    for layers, width in ((24, 64), (12, 128), (6, 256), (3, 512)):
        limit = {"max_partition": width * width * 4 + 4096}
        made.append((f"{layers} partitions of {width * width * 4}", dense(layers, width), limit))
    b = Builder("many", [1, 128])
    x = "x"
    for _ in range(6):
        for function in ("Sigmoid", "Abs", "Sqrt") * 8:
            x = b.node(function, [x], [1, 128])
        x = b.gemm(x, 128)
    made.append(("6 partitions of many operators", b.finish(x), {"partitions": 6}))
    return made


class Calibration(Suite):
    """Measures what the estimate's constants are fitted to."""

    name = "calibrate"

    def __init__(self, options: Options, ciphers: Sequence[str] = _CIPHERS, instructions: int = INSTRUCTIONS) -> None:
        """`ciphers` are those that the device has, `instructions` (or nanoseconds) what a sample of a kernel takes."""
        super().__init__(options)
        self._ciphers = [cipher for cipher in _CIPHERS if cipher in ciphers]
        self._instructions = instructions
        self.samples: list[tuple[str, Sample]] = []
        self._around: list[_Around] = []
        self._handed: list[_Handed] = []
        self._batches: list[tuple[list[Case], Job]] = []

    def prepare(self) -> list[Any]:
        """Kernels in batches, models for the TA and their partitions alone."""
        found = all_cases()
        works: list[Any] = []
        for index, batch in enumerate(batches(found)):
            own = KernelBatch(
                f"calibrate/{index}", max(case.arena for case in batch), [case.partition for case in batch]
            )
            step = f"{len(batch)} kernels, from {batch[0].name} on"
            self._batches.append((batch, own.job(f"calibrate-{index}", step, self._instructions)))
            works.append(own)
        for name, model, choices in _models():
            works += self._add(name, model, choices, "")
        for name, model, choices in _streamed():
            for cipher in self._ciphers:
                works += self._add(name, model, choices, cipher)
                if model.graph.name == "dense":
                    works += self._add(f"{name}, half resident", model, choices, cipher, share=0.5)
            works += self._add(name, model, choices, self._ciphers[0], steps=True)
        for index, files in enumerate(handed_pairs()):
            works += self._hand(index, prepare_pair(files, f"handed/{index}"))
        return works

    def _hand(self, index: int, work: PairWork) -> list[Any]:
        assert work.pair is not None
        name, sides, jobs = f"handed-{index}", [], []
        for side, compiled in (("normal", work.pair.backbone), ("secure", work.pair.cpm)):
            own = KernelBatch(f"handed/{index}-{side}", compiled.arena_size, compiled.partitions)
            sides.append(own)
            jobs.append(own.job(f"{name}-{side}", f"{work.name}, its partitions", self._instructions))
        self._handed.append(_Handed(work, pair_job("pair", name, work), pair_job("stages", name, work), *jobs))
        return [work, *sides]

    def _add(
        self, name: str, model: onnx.ModelProto, choices: Mapping[str, Any], cipher: str, *, steps: bool = False,
        share: float = 0.0,
    ) -> list[Any]:  # fmt: skip
        index = len(self._around)
        work = prepare(name, f"around/{index}", model, **choices)
        if cipher:
            work.cipher = cipher
        assert work.compiled is not None
        sizes = [len(plain) for plain in work.compiled.partitions]
        least = least_memory(work.compiled.arena_size, sizes, 2) - TA_OWN
        # One more than what is kept has its place in turn.
        least += align(max(sizes)) * int(share * len(sizes))
        job = ta_job(f"around-{index}", work, least if cipher else 0, f", {cipher or 'resident'}")
        if steps:
            job = Job(f"{job.name}-steps", ("steps", *job.arguments[1:]), f"{job.step}, in steps")
        plain = KernelBatch(f"around/{index}-plain", work.compiled.arena_size, work.compiled.partitions)
        self._around.append(
            _Around(
                work,
                job,
                plain.job(f"plain-{index}", f"{name}, its partitions", self._instructions),
                bool(cipher),
                cipher,
            )
        )
        return [work, plain]

    def jobs(self) -> list[Job]:
        """The kernels, then each model twice, then pairs and their partitions."""
        pairs = [job for around in self._around for job in (around.plain, around.job)]
        handed = [job for pair in self._handed for job in (pair.normal, pair.secure, pair.whole, pair.stages)]
        return [*(job for _, job in self._batches), *pairs, *handed]

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Fill `samples`."""
        for batch, job in self._batches:
            outcome = self.take(outcomes, job)
            spent = costs(outcome, len(batch)) if outcome else []
            if outcome and not spent:
                self.found.problems.append(f"{self.name}: {job.step}: not all were measured")
            self.samples += [
                (case.name, Sample(case.terms, cost)) for case, cost in zip(batch, spent, strict=bool(spent))
            ]
        for around in self._around:
            self._evaluate(around, outcomes)
        for pair in self._handed:
            jobs = (pair.whole, pair.stages, pair.normal, pair.secure)
            whole, stages, normal, secure = (self.take(outcomes, job) for job in jobs)
            if whole and stages and normal and secure and pair.work.pair is not None:
                alone = (
                    costs(normal, len(pair.work.pair.backbone.partitions)),
                    costs(secure, len(pair.work.pair.cpm.partitions)),
                )
                self.samples += handed_samples(pair.work, whole, stages, *alone)

    def _evaluate(self, around: _Around, outcomes: Mapping[str, Outcome]) -> None:
        compiled = around.work.compiled
        ta, plain = self.take(outcomes, around.job), self.take(outcomes, around.plain)
        if ta is None or plain is None or compiled is None or not ta.samples:
            return
        sizes = [len(part) for part in compiled.partitions]
        compute = sum(costs(plain, len(sizes)))
        opened = ta.values.get("decrypted", 0)
        if bool(opened) != around.streamed:
            self.found.problems.append(f"{self.name}: {around.job.step}: it decrypted {opened} partitions")
            return
        rows = len(compiled.report.rows)
        terms = run_terms(
            len(sizes),
            rows,
            compute,
            sum(info.size for info in compiled.inputs),
            compiled.outputs[0].size // 4,
        )
        if opened:
            streaming = Streaming(
                [sum(sizes) // len(sizes)] * opened,
                rows * opened // len(sizes),
                sum(sizes),
                bool(ta.values.get("steps")),
            )
            terms = [*open_terms(streaming, around.cipher), *terms]
        self.samples.append((around.job.step, Sample(terms, ta.samples.median - compute)))

    def table(self, target: str, source: Mapping[str, str]) -> dict[str, Any]:
        """The fitted table of constants."""
        return make_table([sample for _, sample in self.samples], target, source)


def make_table(samples: Sequence[Sample], target: str, source: Mapping[str, str]) -> dict[str, Any]:
    """The table of constants for a target."""
    return {
        "version": VERSION,
        "target": target,
        "unit": "instructions" if target == "qemu" else "nanoseconds",
        **source,
        "kernels": fit(samples),
    }


def table_text(table: Mapping[str, Any]) -> str:
    """A table as JSON, a kind on each line."""
    kinds = ",\n".join(f"    {json.dumps(kind)}: {json.dumps(row)}" for kind, row in table["kernels"].items())
    head = "".join(
        f"  {json.dumps(name)}: {json.dumps(value)},\n" for name, value in table.items() if name != "kernels"
    )
    return "{\n" + head + '  "kernels": {\n' + kinds + "\n  }\n}\n"


def samples_text(samples: Sequence[tuple[str, Sample]]) -> str:
    """Measurements as JSON, to fit again without measuring."""
    rows = [
        json.dumps({"name": name, "terms": [asdict(term) for term in sample.terms], "cost": sample.cost})
        for name, sample in samples
    ]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def read_samples(path: Path) -> list[tuple[str, Sample]]:
    """The reverse of :func:`samples_text`.

    Raises:
        FormatError: the file holds no measurements.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))
        return [(str(row["name"]), Sample([Term(**term) for term in row["terms"]], float(row["cost"]))) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} holds no measurements: {error}", "run: cloister calibrate") from error

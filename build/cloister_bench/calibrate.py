# SPDX-License-Identifier: BSD-2-Clause
"""Measures the calibration's kernels on the device, for the estimate of instructions to be fitted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from cloister.estimate.features import Term
from cloister.estimate.fit import Sample
from cloister_bench.cases import Case, cases
from cloister_bench.corpus import GROUPS
from cloister_bench.device import Job, Outcome
from cloister_bench.errors import BenchError
from cloister_bench.prepare import ALIGN

#: Instructions of a repeat, and repeats: the shortest counts, and few of them meet a timer interrupt.
INSTRUCTIONS, REPEATS = 150_000, 3
#: Bytes of partitions that one start of the client reads.
_BATCH = 4 << 20


def all_cases() -> list[Case]:
    """All kernels to be measured."""
    seen: set[object] = set()
    return [case for models in GROUPS.values() for case in cases(models(), seen)]


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


def batch_files(batch: Sequence[Case], directory: str) -> dict[str, bytes | Path]:
    """What the client's job `kernels` reads."""
    lines = [f"arena 0 {max(case.arena for case in batch)}"]
    data = bytearray()
    for case in batch:
        lines.append(f"partition {len(data)} {len(case.partition)}")
        data += case.partition
        data += bytes(-len(data) % ALIGN)
    return {
        f"{directory}/table": ("\n".join(lines) + "\n").encode(),
        f"{directory}/inputs": b"\0",
        f"{directory}/partitions": bytes(data),
    }


def batch_job(index: int, batch: Sequence[Case]) -> Job:
    """The job for a group of kernels."""
    step = f"{len(batch)} kernels from {batch[0].name.split(':')[0]} on"
    return Job(f"kernels-{index}", ("kernels", f"$INPUT/calibrate/{index}"), step)


def samples(batch: Sequence[Case], outcome: Outcome) -> list[Sample]:
    """What a group of kernels costs.

    Raises:
        BenchError: the job failed or lacks a kernel.
    """
    if outcome.error:
        raise BenchError(f"calibration from {batch[0].name} on: {outcome.error}")
    found = []
    for index, case in enumerate(batch):
        calls, spent = outcome.values.get(f"{index}.calls"), outcome.values.get(f"{index}.spent")
        if not calls or not spent:
            raise BenchError(f"the device did not measure {case.name}")
        found.append(Sample(case.terms, spent / calls))
    return found


def to_json(found: Sequence[Sample], names: Sequence[str]) -> str:
    """Samples as JSON, to fit again without measuring."""
    rows = [
        json.dumps({"name": name, "terms": [asdict(term) for term in sample.terms], "cost": sample.cost})
        for name, sample in zip(names, found, strict=True)
    ]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def from_json(rows: Sequence[Mapping[str, object]]) -> list[Sample]:
    """The reverse of :func:`to_json`."""
    made = []
    for row in rows:
        terms, cost = row["terms"], row["cost"]
        assert isinstance(terms, list) and isinstance(cost, int | float)
        made.append(Sample([Term(**term) for term in terms], float(cost)))
    return made

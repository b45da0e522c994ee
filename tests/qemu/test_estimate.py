# SPDX-License-Identifier: BSD-2-Clause
"""The estimate of instructions held against the emulated device, which counts them: the same on every machine."""

from __future__ import annotations

import pytest

from cloister.seal import VendorKey
from cloister_bench import device, tools
from cloister_bench.estimated import estimated
from cloister_bench.networks import dense, lenet, vgg7
from cloister_bench.prepare import Workload, prepare
from cloister_bench.quantised import quantised
from cloister_bench.suites.base import Options, ta_job
from cloister_build.paths import cache_dir
from cloister_build.report import Report

#: What the estimate is to keep.
NEAR = 0.10


def _silent(_done: int, _total: int, _step: str, _elapsed: float) -> None:
    pass


@pytest.fixture(scope="module")
def works() -> dict[str, tuple[Workload, int]]:
    """Models, and what the TA may take of memory for each; 0: all it wants. None is in the calibration."""
    streamed = prepare("streamed", "streamed", dense(5, 200), max_partition=200 * 200 * 4 + 4096)
    assert streamed.compiled is not None
    least = streamed.compiled.arena_size + max(map(len, streamed.compiled.partitions)) + 4 * 4096
    return {
        "lenet": (prepare("lenet", "lenet", lenet()), 0),
        "vgg7": (prepare("vgg7", "vgg7", vgg7()), 0),
        "lenet int8": (prepare("lenet int8", "lenet8", quantised(lenet())), 0),
        "streamed": (streamed, least),
    }


@pytest.fixture(scope="module")
def measured(works: dict[str, tuple[Workload, int]]) -> dict[str, device.Outcome]:
    """One boot for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "INSTANCE", "estimate-test")
        client = tools.build_client(cache_dir(), Report())
        key = device.device_key(client, _silent)
        vendor = VendorKey.load_or_generate()
        files = {"bench_client": client}
        jobs = {}
        for index, (name, (work, memory)) in enumerate(works.items()):
            files |= work.files(key, vendor, False, Options().ciphers[0])
            jobs[name] = ta_job(f"job-{index}", work, memory)
        outcomes = device.run_jobs(
            list(jobs.values()), files, repeats=3, instructions=5_000_000, progress=_silent, timeout=900
        )
        return {name: outcomes[job.name] for name, job in jobs.items()}


@pytest.mark.parametrize("name", ["lenet", "vgg7", "lenet int8", "streamed"])
def test_the_estimate_is_near(
    name: str, works: dict[str, tuple[Workload, int]], measured: dict[str, device.Outcome]
) -> None:
    work, memory = works[name]
    outcome = measured[name]
    assert not outcome.error and outcome.samples
    assert bool(outcome.values["decrypted"]) == bool(memory)
    told = estimated(work, memory)
    assert told is not None
    ratio = told.total / outcome.samples.median
    print(f"{name}: measured {outcome.samples.median:,.0f}, estimated {told.total:,.0f}, {ratio:.3f}")
    assert abs(ratio - 1) <= NEAR, f"{ratio:.3f} of the measured; kernels changed? run: cloister calibrate"
    assert told.error <= NEAR

# SPDX-License-Identifier: BSD-2-Clause
"""The calibration on any device that can be reached: what is measured there is time, in nanoseconds.

The same kernels and the same client as on the emulator, which counts instructions because of its `-icount`; elsewhere
the clock tells the time that passed, so that nothing else should run on the device meanwhile.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from cloister.device import connect
from cloister.estimate.fit import Sample
from cloister.seal import VendorKey
from cloister_bench import tools
from cloister_bench.calibrate import Calibration
from cloister_bench.device import Progress, make_script, parse_result
from cloister_bench.errors import BenchError
from cloister_bench.suites.base import Options
from cloister_build.paths import cache_dir
from cloister_build.report import Report

#: Nanoseconds of a sample of inferences, and their number; and of a sample of a kernel.
SAMPLE, REPEATS, KERNEL = 20_000_000, 5, 1_000_000


def measure_device(target: str, progress: Progress, timeout: float = 3600.0) -> list[tuple[str, Sample]]:
    """Measure kernels and what the TA adds on a device; it must run the firmware's libraries and this vendor's TA.

    Args:
        target: as :func:`cloister.device.connect` takes it.
        timeout: seconds for all measurements.

    Raises:
        BenchError: a measurement failed.
        CloisterError: the device cannot be reached.
    """
    client = tools.build_client(cache_dir(), Report())
    with connect(target, quiet=True) as device:
        progress(0, 1, "prepare the models", 0.0)
        record = device.record()
        suite = Calibration(Options(), ciphers=record.ciphers, instructions=KERNEL)
        vendor = VendorKey.load_or_generate()
        files: dict[str, bytes | Path] = {"bench_client": client}
        for work in suite.prepare():
            files |= work.files(record.public_key, vendor, False, record.ciphers[0])
        jobs = suite.jobs()
        place = device.run("mktemp -d /tmp/cloister-calibrate.XXXXXX").stdout.decode().strip()
        try:
            # In parts: a command line has its limits.
            names = sorted(files)
            for begin in range(0, len(names), 64):
                device.ssh.upload({name: files[name] for name in names[begin : begin + 64]}, f"{place}/input")
            script = make_script(jobs, REPEATS, SAMPLE)
            script = f"INPUT={place}/input RESULTS={place}/results\nmkdir -p $RESULTS\n{script}"
            device.ssh.upload({"run.sh": script.encode()}, place)
            done = 0

            def tell(output: bytes) -> None:
                nonlocal done
                done += output.count(b"BENCH ")
                progress(done, len(jobs), jobs[min(done, len(jobs)) - 1].step, 0.0)

            device.run(f"sh {place}/run.sh", timeout=timeout, on_output=tell)
            archive = device.run(f"tar -c -f - -C {place}/results .").stdout
        finally:
            device.run(f"rm -rf {place}", check=False)
    results = _unpack(archive)
    suite.evaluate({job.name: parse_result(job.name, results) for job in jobs})
    if suite.found.problems:
        raise BenchError("\n".join(suite.found.problems), "nothing was written; run it again")
    return suite.samples


def _unpack(archive: bytes) -> dict[str, bytes]:
    """The files of a tar archive by name."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                found[Path(member.name).name] = stream.read()
    return found

# SPDX-License-Identifier: BSD-2-Clause
"""Jobs on the device: one boot for all of them, results through the share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloister.device.errors import BootFailed, CommandTimeout, WorldFailed
from cloister.device.script import run_script
from cloister.errors import CloisterError
from cloister_bench.errors import BenchError, JobTimeout
from cloister_bench.records import Samples
from cloister_qemu.files import InstanceFiles

#: The instance whose secure storage is kept, and so its device key: a licence is for one device.
INSTANCE = "bench"
KEY_FILE = "bench-device-key"
_CODES = {
    0x80C10002: "the licence is for another device: run `cloister device reset --name bench`, then build/bench again",
    0xFFFF000C: "not enough secure memory",
    0xFFFF3072: "the TA trusts another vendor's key: run python -m cloister_build all",
    0x80C10005: "the TA knows another format version: run python -m cloister_build all",
    0xFFFF0005: "the TA refuses the format: it was built from other sources; run python -m cloister_build all",
}

#: Called with jobs done, jobs in all, the job that runs, and seconds passed.
Progress = Callable[[int, int, str, float], None]


@dataclass(frozen=True)
class Job:
    """One start of the client, or one model of onnxruntime.

    Attributes:
        name: letters, digits, `-`, `_`: names its result files.
        arguments: of the client; `$INPUT` and `$RESULTS` in them stand for the directories. For onnxruntime: the
            model's directory alone.
        place: `client` or `onnxruntime`.
        step: what it does, for errors.
    """

    name: str
    arguments: tuple[str, ...]
    step: str
    place: str = "client"


@dataclass(frozen=True)
class Outcome:
    """What a job printed.

    Attributes:
        samples: instructions of one call, for each repeat; None where the job failed.
        values: other numbers by name.
        answer: the outputs of the last inference, one after the other.
        error: what went wrong; empty where nothing did.
    """

    samples: Samples | None
    values: Mapping[str, int] = field(default_factory=dict)
    answer: bytes = b""
    error: str = ""


def parse_result(name: str, files: Mapping[str, bytes]) -> Outcome:
    """The outcome of a job from its result files."""
    status = files.get(f"{name}.rc")
    if status is None:
        return Outcome(None, error="it was not reached")
    if status.strip() != b"0":
        text = files.get(f"{name}.err", b"").decode("utf-8", "replace").strip()
        return Outcome(None, error=explain(text or f"it ended with status {status.decode().strip()}"))
    calls: list[float] = []
    values: dict[str, int] = {}
    for line in files.get(f"{name}.txt", b"").decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "sample":
            calls.append(int(words[2]) / int(words[1]))
        elif len(words) == 3 and words[0] == "value":
            values[words[1]] = int(words[2])
    if not calls and not values and f"{name}.out" not in files:
        return Outcome(None, error="it printed nothing")
    return Outcome(Samples(calls) if calls else None, values, files.get(f"{name}.out", b""))


def explain(text: str) -> str:
    """The client's words with the meaning of OP-TEE's codes."""
    for code, meaning in _CODES.items():
        if f"{code:#010x}" in text:
            return f"{text} ({meaning})"
    return text


def make_script(jobs: Sequence[Job], repeats: int, instructions: int) -> str:
    """The shell script that runs all jobs; each writes NAME.txt, NAME.err, NAME.rc and perhaps NAME.out."""
    lines = [
        f"export BENCH_REPEATS={repeats} BENCH_INSTRUCTIONS={instructions}",
        # Files from a host come without the right to be executed; and from here they are read at once.
        "cp $INPUT/bench_client /tmp/bench_client && chmod 755 /tmp/bench_client || exit 1",
        "job() {",
        '\tname=$1; shift; echo "BENCH $name"; : >"$RESULTS/$name.begun"',
        '\t/tmp/bench_client "$@" >"$RESULTS/$name.txt" 2>"$RESULTS/$name.err"',
        # The journal reads a result as soon as this file is there: it must not be seen empty.
        '\techo $? >"$RESULTS/$name.end"; mv "$RESULTS/$name.end" "$RESULTS/$name.rc"',
        "}",
    ]
    for job in jobs:
        if job.place == "client":
            # In double quotes, so that the shell puts $INPUT and $RESULTS in.
            lines.append("job " + " ".join(f'"{word}"' for word in (job.name, *job.arguments)))
    others = [job for job in jobs if job.place == "onnxruntime"]
    if others:
        models = " ".join(f'"{job.name}=$INPUT/{job.arguments[0]}"' for job in others)
        lines += [
            "mkdir /tmp/python && cp -r $INPUT/python/* /tmp/python/",
            f'PYTHONPATH=/tmp/python python3 $INPUT/ort_client.py "$RESULTS" {models} 2>"$RESULTS/onnxruntime.err"',
        ]
    return "\n".join([*lines, "exit 0", ""])


def _raw(directory: Path) -> dict[str, bytes]:
    """The result files that lie below a directory, also while the device still writes there."""
    files: dict[str, bytes] = {}
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if path.is_file() and not path.is_symlink():
                with contextlib.suppress(OSError):
                    files[path.name] = path.read_bytes()
    return files


class _Boot:
    """What one boot has done so far: told to the user, written to the journal, and watched."""

    def __init__(self, jobs: Sequence[Job], finished: int, tell: Progress, journal: Path | None, limit: float) -> None:
        self.jobs = jobs
        self.results = InstanceFiles(INSTANCE).share / "results"
        self._finished, self._tell, self._journal, self._limit = finished, tell, journal, limit
        self._known: set[str] = set()
        self._running: tuple[str, float] = ("", 0.0)

    def progress(self, elapsed: float, _phase: str) -> None:
        """Called several times a second. Raises JobTimeout."""
        for job in self.jobs:
            if job.name not in self._known and (self.results / f"{job.name}.rc").exists():
                self._known.add(job.name)
                self._note(job)
        running = self.begun()
        total = self._finished + len(self.jobs)
        # The last one that began: onnxruntime's jobs come after all others.
        step = running[-1].step if running else "onnxruntime" if self._known else "start the device"
        self._tell(self._finished + len(self._known), total, step if len(self._known) < len(self.jobs) else "", elapsed)
        name = running[-1].name if running else ""
        if name != self._running[0]:
            self._running = (name, elapsed)
        elif name and elapsed - self._running[1] > self._limit:
            raise JobTimeout(f"it took more than {self._limit:.0f} s", "allow more: --job-timeout")

    def begun(self) -> list[Job]:
        """Jobs that began and did not end."""
        return [
            job
            for job in self.jobs
            if job.name not in self._known
            and (self.results / f"{job.name}.begun").exists()
            and not (self.results / f"{job.name}.rc").exists()
        ]

    def _note(self, job: Job) -> None:
        if self._journal is None:
            return
        outcome = parse_result(job.name, _raw(self.results))
        samples = list(outcome.samples.calls) if outcome.samples else []
        row = {"step": job.step, "calls": samples, "values": dict(outcome.values), "error": outcome.error}
        try:
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise BenchError(f"cannot write {self._journal}: {error.strerror}", "free space") from error


def run_jobs(
    jobs: Sequence[Job],
    files: Mapping[str, bytes | Path],
    *,
    repeats: int,
    instructions: int,
    progress: Progress,
    timeout: float,
    job_timeout: float = 1200.0,
    journal: Path | None = None,
    profile: str = "icount",
) -> dict[str, Outcome]:
    """Boot the device, run all jobs, switch it off.

    A job that takes the device with it (a world panics, or its time is up) fails alone: the device is started again
    for those that were not reached.

    Args:
        files: by path below the input directory.
        repeats: samples of each measurement.
        instructions: how many a sample has at least.
        timeout: seconds of the host for each boot.
        job_timeout: seconds of the host for each job.
        journal: a file that gets a line of JSON as soon as a job ends, for runs that do not come to their end.
        profile: of the machine; with another than the default, "instructions" are nanoseconds of the host.

    Returns:
        The outcomes by the jobs' names.

    Raises:
        CloisterError: the device did not boot, or ended without a job having begun.
    """
    outcomes: dict[str, Outcome] = {}
    left = list(jobs)
    while left:
        boot = _Boot(left, len(outcomes), progress, journal, job_timeout)
        script = make_script(left, repeats, instructions)
        lost: CloisterError | None = None
        try:
            ran = run_script(
                script,
                files,
                name=INSTANCE,
                profile=profile,
                extra_tas=True,
                progress=boot.progress,
                timeout=timeout,
            )
            found = ran.files
            if ran.returncode:
                raise BenchError(f"the benchmark's script ended with status {ran.returncode}\n{ran.console[-2000:]}")
        except (WorldFailed, CommandTimeout, BootFailed, JobTimeout) as error:
            lost, found = error, _raw(boot.results)
        culprits = boot.begun()
        done = {job.name: parse_result(job.name, found) for job in left if f"{job.name}.rc" in found}
        trouble = found.get("onnxruntime.err", b"").decode("utf-8", "replace").strip().splitlines()[-1:]
        if lost:
            trouble = [lost.message.splitlines()[0]]
        if not done and not culprits:
            if lost and not outcomes:
                raise lost
            # Nothing began, and it would not the next time either.
            culprits = left
        for job in culprits:
            done[job.name] = Outcome(None, error="; ".join(trouble) or "it ended without a result")
        outcomes |= done
        left = [job for job in left if job.name not in outcomes]
    return outcomes


def device_key(client: Path, progress: Progress) -> bytes:
    """The public key of the benchmark's device; a boot more where it is not known yet."""
    files = InstanceFiles(INSTANCE)
    kept = files.directory / KEY_FILE
    if kept.exists() and files.storage.exists():
        return kept.read_bytes()
    ran = run_script(
        "cp $INPUT/bench_client /tmp/bench_client && chmod 755 /tmp/bench_client && "
        "/tmp/bench_client key $RESULTS/key 2>$RESULTS/err\n",
        {"bench_client": client},
        name=INSTANCE,
        progress=lambda elapsed, _phase: progress(0, 1, "make the device's key", elapsed),
        timeout=600.0,
    )
    key = ran.files.get("key", b"")
    if ran.returncode or not key:
        text = ran.files.get("err", b"").decode("utf-8", "replace").strip()
        raise BenchError(f"the device gave no key: {explain(text) or ran.console[-1000:]}")
    aside = kept.with_suffix(".new")
    aside.write_bytes(key)
    aside.rename(kept)
    return key

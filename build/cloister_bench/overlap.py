# SPDX-License-Identifier: BSD-2-Clause
"""What it gains to run backbone and CPM side by side: by time, on a device with two emulated cores.

Time under emulation is the host's: it says nothing of a board, and little where the host is busy. What can be compared
are runs of one boot; the least of many repeats of each is taken, as everything else only makes them longer. Beside it
stands what the instruction counts of the suite `mirror` say (its column "longer world").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from cloister.seal import VendorKey
from cloister_bench.device import Job, Progress, device_key, run_jobs
from cloister_bench.errors import BenchError
from cloister_bench.pairs import PairFiles, PairWork, prepare_pair

#: The client's jobs: in turn, in turn but each tap handed over when it is ready, and by two threads.
WAYS = ("pair", "stages", "overlap")
#: Profile of the emulated machine: two cores, in host time.
PROFILE = "default"
#: Nanoseconds of a sample, and samples.
SAMPLE, REPEATS = 50_000_000, 10
#: Times that all ways of all pairs are measured in turn: what disturbs the host for a while then disturbs none alone.
ROUNDS = 5


@dataclass(frozen=True)
class Side:
    """One pair: nanoseconds of one inference in each of WAYS, the least of every round's samples."""

    name: str
    rounds: tuple[dict[str, float], ...]

    @property
    def least(self) -> dict[str, float]:
        """The least of all rounds."""
        return {way: min(found[way] for found in self.rounds) for way in WAYS}

    @property
    def gain(self) -> float:
        """Share of the time that running side by side saves against the better way of one after the other."""
        return _gain(self.least)

    @property
    def gains(self) -> tuple[float, float]:
        """The least and the most that a round alone would have shown."""
        each = [_gain(found) for found in self.rounds]
        return min(each), max(each)


def _gain(times: dict[str, float]) -> float:
    return 1 - times["overlap"] / min(times["pair"], times["stages"])


def measure_overlap(pairs: Sequence[PairFiles], client: Path, progress: Progress, timeout: float) -> list[Side]:
    """Run each pair in each way.

    Raises:
        BenchError: a job failed, or answers differ.
    """
    works = [prepare_pair(files, f"overlap/{index}") for index, files in enumerate(pairs)]
    vendor = VendorKey.load_or_generate()
    files: dict[str, bytes | Path] = {"bench_client": client}
    key = device_key(client, progress)
    for work in works:
        files |= work.files(key, vendor, False, "aegis-128l")
    jobs = {
        (turn, index, way): _job(turn, index, work, way)
        for turn in range(ROUNDS)
        for index, work in enumerate(works)
        for way in WAYS
    }
    outcomes = run_jobs(
        list(jobs.values()),
        files,
        repeats=REPEATS,
        instructions=SAMPLE,
        progress=progress,
        timeout=timeout,
        profile=PROFILE,
    )
    found = []
    for index, work in enumerate(works):
        rounds: list[dict[str, float]] = [{} for _ in range(ROUNDS)]
        answers = set()
        for turn in range(ROUNDS):
            for way in WAYS:
                outcome = outcomes[jobs[turn, index, way].name]
                if outcome.samples is None:
                    raise BenchError(f"{jobs[turn, index, way].step}: {outcome.error}")
                rounds[turn][way] = min(outcome.samples.calls)
                answers.add(outcome.answer)
        if len(answers) != 1:
            raise BenchError(f"{work.name}: answers differ with the way in which taps are handed over")
        found.append(Side(work.name, tuple(rounds)))
    return found


def _job(turn: int, index: int, work: PairWork, way: str) -> Job:
    name = f"overlap-{turn}-{index}-{way}"
    arguments = (way, f"$INPUT/{work.directory}", "0", f"$RESULTS/{name}.out")
    return Job(name, arguments, f"round {turn + 1}: {work.name}, {way}")


def overlap_table(sides: Sequence[Side]) -> Table:
    """Milliseconds of the host, and what is saved."""
    table = Table(title="overlap: ms of this host for one inference, two emulated cores", title_justify="left")
    table.add_column("pair")
    for column in ("in turn", "in stages", "side by side", "saved", "in single rounds"):
        table.add_column(column, justify="right")
    for side in sides:
        times = (f"{side.least[way] / 1e6:.3f}" for way in WAYS)
        low, high = (f"{100 * gain:+.1f}" for gain in side.gains)
        table.add_row(side.name, *times, f"{100 * side.gain:+.1f} %", f"{low} to {high} %")
    return table

# SPDX-License-Identifier: BSD-2-Clause
"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cloister.errors import CloisterError
from cloister.estimate.fit import Sample
from cloister.estimate.instructions import CONSTANTS, table_path
from cloister.seal import VendorKey
from cloister_bench import tools
from cloister_bench.board import measure_device
from cloister_bench.calibrate import Calibration, make_table, read_samples, samples_text, table_text
from cloister_bench.device import Progress, device_key, run_jobs
from cloister_bench.document import write_tables
from cloister_bench.errors import BenchError
from cloister_bench.evaluation import keep_evaluation, rows_of
from cloister_bench.networks import NETWORKS, SMALL
from cloister_bench.overlap import measure_overlap, overlap_table
from cloister_bench.pairs import made_pairs, own_pairs
from cloister_bench.plot import write_plots
from cloister_bench.records import (
    Record,
    append_history,
    compare,
    read_history,
    read_records,
    to_json,
    write_text,
)
from cloister_bench.suites import SUITES, USUAL
from cloister_bench.suites.base import Options, Suite
from cloister_bench.suites.strategies import StrategySuite
from cloister_bench.tables import TABLES, compare_table
from cloister_build.paths import REPO, cache_dir, index_without_crypto
from cloister_build.report import Report

HISTORY = REPO / "out" / "bench" / "history.jsonl"
#: What the last calibration measured, to be fitted again.
SAMPLES = REPO / "out" / "bench" / "calibration.json"
#: Measurements of the run at hand, each as soon as it ends; begun anew by the next run.
JOURNAL = HISTORY.with_name("journal.jsonl")
#: Where the plots of docs/performance.md lie.
PLOTS = REPO / "docs" / "plots"
#: Repeats that differ by more than this are no measurement.
AGREEMENT = 0.01
#: Least of a sample: it meets five timer interrupts, give or take one, each of which costs some thousand.
INSTRUCTIONS = 20_000_000
DESCRIPTION = """Counts instructions on the emulated device (QEMU -icount, cortex-a53, one core): the figures do not
depend on the machine that runs it. All suites of one call share one boot."""
EPILOG = """examples:
  build/bench                                     all suites, small networks
  build/bench --suite tee --quick                 a minute: is all well?
  build/bench --suite models --network resnet50 --network mobilenetv2
  build/bench --suite models --models DIR         ONNX files of your own
  build/bench --suite mirror --pairs DIR          pairs of your own
  build/bench --suite strategies                  predictions of strategies (needs build/setup --train)
  build/bench --overlap                           both halves of pairs side by side, by time on two cores
  build/bench --suite tee --without-crypto        what a CPU without crypto instructions pays
  build/bench --json now.json --compare before.json
  build/bench --calibrate                         as `cloister calibrate`
  build/bench --plot out/bench/history.jsonl      the plots of docs/performance.md

Every run is added to out/bench/history.jsonl, which --compare takes as well (its last run). Each measurement stands
in out/bench/journal.jsonl as soon as it ends. One that fails or takes too long does not stop the others."""


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="build/bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--suite", action="append", choices=list(SUITES), help="may be repeated (default: all but strategies)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records there")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="show what differs from that run")
    parser.add_argument("--quick", action="store_true", help="few and short measurements")
    parser.add_argument(
        "--network",
        action="append",
        choices=list(NETWORKS),
        help=f"a network of the suites models and stream; may be repeated (default: {', '.join(SMALL)})",
    )
    parser.add_argument("--models", type=Path, metavar="DIR", help="measure the .onnx files in DIR instead")
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="DIR",
        help="measure the pairs in the folders of DIR (backbone.onnx, cpm.onnx, victim.onnx) in the suite mirror",
    )
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="by time, with two emulated cores: what it gains to run both halves of pairs side by side; no suite",
    )
    parser.add_argument("--without-onnxruntime", action="store_true", help="leave onnxruntime out")
    parser.add_argument(
        "--without-crypto",
        action="store_true",
        help="with a secure world that does not use the CPU's crypto instructions, as on a Raspberry Pi 3",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="measure kernels one by one and fit what `cloister plan` estimates with; no suite unless named",
    )
    parser.add_argument(
        "--target", metavar="TARGET", help="calibrate that device by time: qemu:NAME or ssh://root@host[:port]"
    )
    parser.add_argument("--refit", action="store_true", help=f"fit again what was measured last ({SAMPLES.name})")
    parser.add_argument(
        "--constants", type=Path, metavar="FILE", default=CONSTANTS, help="write the fitted table there"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="do not measure: draw the plots and tables of docs/ from FILE, a history or JSON",
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", default=PLOTS, help="where plots go (default: docs/plots)")
    parser.add_argument("--repeats", type=int, help="samples of each measurement (default: 5, quick: 3)")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds for the device (default: 7200)")
    parser.add_argument(
        "--job-timeout", type=float, default=1200.0, help="seconds for each measurement (default: 1200)"
    )
    return parser.parse_args(arguments)


def _options(chosen: argparse.Namespace) -> Options:
    models: list[Path] = []
    if chosen.models is not None:
        models = sorted(chosen.models.glob("*.onnx"))
        if not models:
            raise BenchError(f"{chosen.models} holds no .onnx file", "give a directory with ONNX models")
    networks = chosen.network or (() if models else SMALL)
    return Options(
        chosen.quick,
        tuple(networks),
        tuple(models),
        not chosen.without_onnxruntime,
        not chosen.without_crypto,
        chosen.pairs,
    )


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """Shows jobs done: a bar on a terminal, else a line for each new step."""
    if not console.is_terminal:
        last = ("", 0)

        def line(done: int, total: int, step: str, elapsed: float) -> None:
            nonlocal last
            if (step, done) != last:
                last = (step, done)
                console.print(f"  [{done}/{total}] {elapsed:4.0f} s  {step}", markup=False)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("start the device", total=None)

        def show(done: int, total: int, step: str, _elapsed: float) -> None:
            bar.update(task, completed=done, total=total, description=step)

        yield show


def measure(suites: Sequence[Suite], chosen: argparse.Namespace, console: Console) -> None:
    """Run all suites in one boot; each then holds what it found.

    Raises:
        CloisterError: a step failed that all of them need.
    """
    report = Report()
    began = time.monotonic()
    client = tools.build_client(cache_dir(), report)
    works = [work for suite in suites for work in suite.prepare()]
    jobs = [job for suite in suites for job in suite.jobs()]
    console.print(f"{len(works)} models compiled in {time.monotonic() - began:.0f} s, {len(jobs)} measurements")
    # Each in its place: first ours, then onnxruntime's in one process.
    wanted = {job.arguments[0] for job in jobs if job.place == "onnxruntime"}
    vendor = VendorKey.load_or_generate()
    write_text(JOURNAL, "")
    with _progress(console) as progress:
        key = device_key(client, progress)
        files: dict[str, bytes | Path] = {"bench_client": client}
        for work in works:
            files |= work.files(key, vendor, work.directory in wanted, suites[0].options.ciphers[0])
        if wanted:
            files |= tools.below(tools.fetch_onnxruntime(cache_dir(), report) / "onnxruntime", "python/onnxruntime")
            files["ort_client.py"] = tools.GUEST / "ort_client.py"
        quick = chosen.quick
        outcomes = run_jobs(
            jobs,
            files,
            repeats=chosen.repeats or (3 if quick else 5),
            instructions=INSTRUCTIONS,
            progress=progress,
            timeout=chosen.timeout,
            job_timeout=chosen.job_timeout,
            journal=JOURNAL,
        )
    for suite in suites:
        suite.evaluate(outcomes)
        if isinstance(suite, Calibration):
            # Before the others, which hold the estimate against what they measured.
            write_text(SAMPLES, samples_text(suite.samples))
            if not suite.found.problems:
                write_constants(suite.samples, chosen.constants, console)
        if isinstance(suite, StrategySuite) and not suite.found.problems and not chosen.quick:
            source = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}
            keep_evaluation(table_path(), rows_of(suite.found.records), source)
    console.print(f"measured in {time.monotonic() - began:.0f} s")


def write_constants(samples: Sequence[tuple[str, Sample]], path: Path, console: Console, target: str = "qemu") -> None:
    """Fit and write the table of constants.

    Raises:
        CloisterError: it cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    table = make_table([sample for _, sample in samples], target, {"measured": now, "commit": commit()})
    write_text(path, table_text(table))
    worst = sorted(table["kernels"].items(), key=lambda kind: -kind[1]["error"])[:5]
    listed = ", ".join(f"{kind} {100 * row['error']:.0f} %" for kind, row in worst)
    console.print(
        f"{len(samples)} measurements, {len(table['kernels'])} kinds: {path}; least certain: {listed}", markup=False
    )


def commit() -> str:
    """The commit that is checked out, `+` behind it where files differ from it; empty where there is none."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=REPO,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return run.stdout.strip()


def _unsteady(records: Sequence[Record]) -> list[str]:
    return [
        f"{record.suite}: {record.name} ({record.where}): repeats differ by {100 * record.spread:.1f} %"
        for record in records
        if record.spread is not None and record.spread > AGREEMENT
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when all was measured, 1 when something failed, 130 when interrupted."""
    chosen = _arguments(arguments)
    console, errors = Console(), Console(stderr=True, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        # A table in a file or a pipe is not squeezed into 80 columns.
        console = Console(width=160)
    if chosen.without_crypto:
        # build/bench has built it; everything below boots the firmware that this names.
        os.environ["CLOISTER_FIRMWARE"] = str(index_without_crypto())
    try:
        # Read first: a mistyped name must not cost a whole run.
        before = read_records(chosen.compare) if chosen.compare else []
        if chosen.plot:
            kept = read_history(chosen.plot)
            written = write_plots(kept, chosen.plots)
            if chosen.plots == PLOTS:
                written += write_tables(kept, PLOTS.parent)
            for path in written:
                errors.print(f"wrote {path}", markup=False)
            return 0
        if chosen.refit:
            write_constants(read_samples(SAMPLES), chosen.constants, errors)
            return 0
        if chosen.calibrate and chosen.target:
            with _progress(errors) as progress:
                found = measure_device(chosen.target, progress, chosen.timeout)
            write_text(SAMPLES.with_name("calibration-device.json"), samples_text(found))
            write_constants(found, chosen.constants, errors, chosen.target)
            return 0
        if chosen.overlap:
            client = tools.build_client(cache_dir(), Report())
            pairs = own_pairs(chosen.pairs) if chosen.pairs else made_pairs(chosen.quick)
            with _progress(errors) as progress:
                console.print(overlap_table(measure_overlap(pairs, client, progress, chosen.timeout)))
            return 0
        names = chosen.suite or ([] if chosen.calibrate else USUAL)
        calibration = [Calibration(_options(chosen))] if chosen.calibrate else []
        suites = [*calibration, *(SUITES[name](_options(chosen)) for name in dict.fromkeys(names))]
        measure(suites, chosen, errors)
        records = [record for suite in suites for record in suite.found.records]
        for suite in suites:
            if suite.name in TABLES:
                console.print(TABLES[suite.name](records))
        if chosen.compare:
            console.print(compare_table(compare(before, records), str(chosen.compare)))
        if chosen.json:
            write_text(chosen.json, to_json(records))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        run = {"time": now, "commit": commit(), "suites": [suite.name for suite in suites], "quick": chosen.quick}
        append_history(HISTORY, run, records)
    except CloisterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"error: interrupted; what was measured stands in {JOURNAL}", file=sys.stderr)
        return 130
    notes = [note for suite in suites for note in suite.found.notes]
    problems = [problem for suite in suites for problem in suite.found.problems] + _unsteady(records)
    for note in notes:
        errors.print(f"note: {note}", markup=False)
    for problem in problems:
        errors.print(f"error: {problem}", markup=False)
    return 1 if problems else 0

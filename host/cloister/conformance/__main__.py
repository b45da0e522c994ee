# SPDX-License-Identifier: BSD-2-Clause
"""Runs the official ONNX node cases: ``python -m cloister.conformance [--target qemu] [--write]``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from rich.progress import Progress

from cloister.compile.compiler import supported_operators
from cloister.conformance.batch import evaluate_in_batches
from cloister.conformance.cases import NodeCase, cases_of, node_cases
from cloister.conformance.results import FAILED, Result, evaluate_all
from cloister.conformance.runners import device_runner, native_runner
from cloister.conformance.table import render
from cloister.seal.files import write_aside

#: Where the page lies in a checkout.
PAGE = Path(__file__).resolve().parents[3] / "docs" / "operators.md"


def run_on(target: str, cases: list[NodeCase]) -> list[Result]:
    """Results of the cases with the native engine ("native"), or in the TA of a device as ``connect`` names it."""
    with Progress(transient=True) as bar:
        task = bar.add_task(target, total=len(cases))

        def tell(done: int, _: int) -> None:
            bar.update(task, completed=done)

        if target == "native":
            return evaluate_all(cases, native_runner(), tell)
        from cloister.device import connect
        from cloister.seal import VendorKey

        with connect(target) as device:
            return evaluate_in_batches(cases, device_runner(device, VendorKey.load()), tell)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status: 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m cloister.conformance", description=__doc__)
    parser.add_argument("--target", default="native", help="native (default), or a device: qemu, ssh://root@board")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} in the checkout's docs")
    options = parser.parse_args(arguments)
    results = run_on(options.target, cases_of(set(supported_operators())))
    for result in results:
        if result.status == FAILED:
            print(f"{result.case.name}: {result.reason}", file=sys.stderr)
    counts = Counter(result.status for result in results)
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    if counts[FAILED]:
        return 1
    if options.write:
        write_aside(PAGE, render(results, node_cases()).encode())
        print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

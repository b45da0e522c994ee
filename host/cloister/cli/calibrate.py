# SPDX-License-Identifier: BSD-2-Clause
"""``cloister calibrate``: measures on a target what the estimates of ``cloister plan`` are made of."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cloister.errors import CloisterError

EXAMPLE = """
\b
Examples:
  cloister calibrate --target qemu                  # some minutes; writes the table of this package
  cloister calibrate --target qemu --output my.json # and CLOISTER_CONSTANTS=my.json cloister plan ...
  cloister calibrate --target qemu --refit          # fit again what was measured last
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--target", type=click.Choice(["qemu"]), default="qemu", help="Where to measure: qemu counts instructions."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the table there [default: into the package].")
@click.option("--refit", is_flag=True, help="Do not measure: fit again what was measured last.")
def calibrate(target: str, output: Path | None, refit: bool) -> None:
    """Measure kernels one by one, and what the TA adds, and fit the constants of the estimate to that.

    The kernels come from a designed set of small models in which what each part of a kernel costs can be told apart; no
    network is among them. The table keeps its own error, found on kernels that a fit had not seen, and the sizes for
    which it holds.
    """
    try:
        from cloister_bench.cli import main
    except ImportError as error:
        raise CloisterError(
            f"the benchmark is not here: {error}", "calibrate from a checkout of Cloister, after build/setup"
        ) from error
    arguments = ["--refit" if refit else "--calibrate"]
    if output:
        arguments += ["--constants", str(output)]
    status = main(arguments)
    if status:
        sys.exit(status)

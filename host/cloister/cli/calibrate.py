# SPDX-License-Identifier: BSD-2-Clause
"""``cloister calibrate``: measures on a target what the estimates of ``cloister plan`` are made of."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cloister.cli.common import NewFile, begins
from cloister.errors import CloisterError

EXAMPLE = """
\b
Examples:
  cloister calibrate --target qemu                  # some minutes; writes the table of this package
  cloister calibrate --target qemu --output my.json # and CLOISTER_CONSTANTS=my.json cloister plan ...
  cloister calibrate --target qemu --refit          # fit again what was measured last
  cloister calibrate --target ssh://root@board --output board.json   # a board: time, not instructions
"""


@click.command(epilog=EXAMPLE)
@click.option(
    "--target", default="qemu", show_default=True, metavar="TARGET",
    help="qemu: count instructions on the emulator. qemu:NAME or ssh://root@host[:port]: measure time there.",
)  # fmt: skip
@click.option(
    "--output", type=NewFile("table of constants", begins(b'{\n  "version"')),
    help="Write the table there [default: into the package].",
)  # fmt: skip
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
    if target != "qemu" and output is None:
        raise CloisterError(
            "the package's table is for the emulator", "name a file for this device's: --output device.json"
        )
    if target != "qemu" and refit:
        raise CloisterError("what was measured last was measured on the emulator", "leave out --refit, or --target")
    arguments = ["--refit" if refit else "--calibrate"]
    if target != "qemu":
        arguments += ["--target", target]
    if output:
        arguments += ["--constants", str(output)]
    status = main(arguments)
    if status:
        sys.exit(status)

# SPDX-License-Identifier: BSD-2-Clause
"""``cloister licence``: let one device run one bundle."""

from __future__ import annotations

from pathlib import Path

import click

from cloister.api import licence as issue
from cloister.cli.common import NewFile, begins, show_facts
from cloister.cli.keys import DIRECTORY
from cloister.cli.provision import read_device_key
from cloister.password import Password
from cloister.seal.bundle import Bundle
from cloister.seal.keys import VendorKey
from cloister.seal.licence import MAGIC, OUTPUTS

EXAMPLE = """
\b
Examples:
  cloister licence model.clb device.json -o model.lic
  cloister licence model.clb device.json -o trial.lic --queries 1000 --rate 60
  cloister licence model.clb device.json -o debug.lic --output full
  cloister licence locked.clb device.json -o full.lic --password locked.pwd --personal
"""


@click.command(epilog=EXAMPLE)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("device_key", type=click.Path(path_type=Path))
@click.option("-o", "output_file", type=NewFile("licence", begins(MAGIC)), required=True, help="Licence file to write.")
@click.option(
    "--output",
    type=click.Choice(list(OUTPUTS)),
    default="label",
    show_default=True,
    help="Most that an answer may reveal. The less, the harder the model is to copy by asking.",
)
@click.option("--top-k", type=click.IntRange(1), default=None, help="With --output top-k: most entries of an answer.")
@click.option("--queries", type=click.IntRange(0), default=0, help="Answers in the licence's life; 0: no limit.")
@click.option("--rate", type=click.IntRange(0), default=0, help="Answers in a minute; 0: no limit.")
@click.option("--min-version", type=click.IntRange(1), help="Lowest model version it opens [default: the bundle's].")
@click.option("--max-version", type=click.IntRange(1), help="Highest model version it opens [default: the bundle's].")
@click.option(
    "--password",
    type=click.Path(path_type=Path),
    help="Password file (.pwd) of a locked model; without it the model answers as it is locked.",
)
@click.option(
    "--personal",
    is_flag=True,
    help="Give the device a password of its own that tells whose it is; the model must be locked with a jitter.",
)
@DIRECTORY
def licence(
    bundle: Path, device_key: Path, output_file: Path, output: str, top_k: int | None, queries: int, rate: int,
    min_version: int | None, max_version: int | None, password: Path | None, personal: bool, directory: Path | None,
) -> None:  # fmt: skip
    """Let the device of DEVICE_KEY (from 'cloister provision') run BUNDLE."""
    opened = Bundle.load(bundle)
    opened.check_signature(VendorKey.load(directory).public)
    key = read_device_key(device_key)
    locks = None if password is None else Password.read(password)
    if personal and locks is None:
        raise click.UsageError("--personal needs --password")
    made = issue(
        opened,
        key,
        output=output,
        top_k=top_k or 0,
        queries=queries,
        rate_per_minute=rate,
        min_version=min_version,
        max_version=max_version,
        password=locks,
        personal=personal,
        keys=directory,
    )
    made.save(output_file)
    kind = "this device's own" if personal else "the same for all devices"
    show_facts({
        "licence": output_file,
        "model": f"{opened.name} (version {opened.version})",
        "device": made.device_id.hex()[:16],
        "answers": output if output != "top-k" else f"top {top_k}",
        "queries": queries or "no limit",
        "per minute": rate or "no limit",
        "password": "none" if locks is None else f"{password} of '{locks.model}', {kind}",
    })  # fmt: skip

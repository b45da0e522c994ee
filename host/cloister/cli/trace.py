# SPDX-License-Identifier: BSD-2-Clause
"""``cloister trace``: whose password has leaked."""

from __future__ import annotations

from pathlib import Path

import click

from cloister.cli.common import show_table
from cloister.cli.provision import read_device_key
from cloister.password import Password
from cloister.seal.licence import device_id

#: Deviations of a foreign device's score that a score must be above to count as the device's own.
SURE = 4.0

EXAMPLE = """
\b
Example:
  cloister trace found.pwd devices/*.json --password locked/password.pwd
"""


@click.command(epilog=EXAMPLE)
@click.argument("leaked", type=click.Path(path_type=Path))
@click.argument("device_keys", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--password", type=click.Path(path_type=Path), required=True, help="The password that licences were issued with."
)
def trace(leaked: Path, device_keys: tuple[Path, ...], password: Path) -> None:
    """Tell which of the devices in DEVICE_KEYS the password in LEAKED was made for.

    Licences issued with --personal carry a password of the device's own. A score near 1 is the device's, one near 0
    another's; of n devices whose passwords were averaged each has about 1 / n.
    """
    ours = Password.read(password)
    ids = [device_id(read_device_key(path)) for path in device_keys]
    scores = ours.trace(Password.read(leaked), ids)
    rows = sorted(zip(scores, device_keys, ids, strict=True), key=lambda row: -row[0])
    show_table(
        f"Scores of {leaked}", ["device", "id", "score"],
        [(path, found.hex()[:16], f"{score:.3f}") for score, path, found in rows],
    )  # fmt: skip
    # what a foreign device's score differs from 0 by, in two of three cases
    chance = ours.channels**-0.5
    others = f"a foreign device would have 0, give or take {chance:.3f}"
    named = [str(path) for score, path, _ in rows if score > SURE * chance]
    if SURE * chance > 1:
        click.echo(f"{ours.channels} locked channels are too few to tell: {others}")
    else:
        click.echo(f"made for {', '.join(named) or 'none of these devices'}: {others}")

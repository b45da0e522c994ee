# SPDX-License-Identifier: BSD-2-Clause
"""``cloister keys``: the vendor's signing key."""

from __future__ import annotations

from pathlib import Path

import click

from cloister.cli.common import show_facts
from cloister.seal.keys import PRIVATE_NAME, VendorKey, default_key_dir

DIRECTORY = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Directory of the keys [default: $CLOISTER_KEYS, or "
    "cloister/keys in your data directory]."
)  # fmt: skip


@click.group()
def keys() -> None:
    """Make and show the vendor's keys.

    The vendor key signs every bundle and licence; the TA is built with its public half and trusts no other.
    Keep a backup: without it no device in the field accepts an update.
    """


@keys.command(epilog="Example: cloister keys new")
@DIRECTORY
def new(directory: Path | None) -> None:
    """Make a vendor key; never overwrites one."""
    directory = directory or default_key_dir()
    VendorKey.generate().save(directory)
    show_facts({"vendor key": directory / PRIVATE_NAME, "public key": VendorKey.load(directory).public.hex()})


@keys.command(epilog="Example: cloister keys show")
@DIRECTORY
def show(directory: Path | None) -> None:
    """Show where the vendor key is, and its public half."""
    directory = directory or default_key_dir()
    show_facts({"vendor key": directory / PRIVATE_NAME, "public key": VendorKey.load(directory).public.hex()})

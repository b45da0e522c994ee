# SPDX-License-Identifier: BSD-2-Clause
"""``cloister provision``: fetch a device's public key."""

from __future__ import annotations

from pathlib import Path

import click

from cloister.cli.common import show_facts
from cloister.seal.errors import KeyFileError
from cloister.seal.files import read_file, write_aside
from cloister.seal.licence import device_id

TARGET = click.option(
    "--target", default="qemu", show_default=True, metavar="TARGET", envvar="CLOISTER_TARGET",
    help="Device: qemu, qemu:NAME, or ssh://root@host[:port].",
)  # fmt: skip


def read_device_key(path: Path) -> bytes:
    """The 32 bytes of a device's public key file, 64 hexadecimal digits.

    Raises:
        KeyFileError: the file holds something else.
    """
    try:
        key = bytes.fromhex(read_file(path, "device key", 1 << 10).decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise KeyFileError(f"{path} is not a device's public key", "fetch it with: cloister provision -o FILE")
    return key


@click.command(epilog="Example: cloister provision --target qemu -o device.pub")
@TARGET
@click.option("-o", "output_file", type=click.Path(path_type=Path), required=True, help="Public key file to write.")
def provision(target: str, output_file: Path) -> None:
    """Fetch the public key of a device; its TA makes the pair on first use and never gives the private half away.

    Over a network that you do not trust, compare the printed device id with one read at the device itself: a licence
    made for a stranger's key opens your model to the stranger.
    """
    from cloister.device import connect

    with connect(target) as device:
        key = device.public_key()
    write_aside(output_file, key.hex().encode() + b"\n")
    show_facts({"device key": output_file, "device id": device_id(key).hex()})

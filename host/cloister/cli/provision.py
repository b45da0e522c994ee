# SPDX-License-Identifier: BSD-2-Clause
"""``cloister provision``: fetch a device's record: its public key, and what it can do."""

from __future__ import annotations

from pathlib import Path

import click

from cloister.cli.common import NewFile, show_facts
from cloister.errors import CloisterError
from cloister.seal.errors import KeyFileError
from cloister.seal.files import read_file
from cloister.seal.record import DeviceRecord

TARGET = click.option(
    "--target", default="qemu", show_default=True, metavar="TARGET", envvar="CLOISTER_TARGET",
    help="Device: qemu, qemu:NAME, or ssh://root@host[:port].",
)  # fmt: skip


def read_device_key(path: Path) -> bytes:
    """The public key (32 bytes) of a device's record, or of a file with its 64 hexadecimal digits alone.

    Raises:
        KeyFileError: the file holds something else.
    """
    data = read_file(path, "device record", 1 << 16)
    if data.lstrip()[:1] == b"{":
        return DeviceRecord.load(path).public_key
    try:
        key = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise KeyFileError(f"{path} is not a device's record", "fetch it with: cloister provision -o FILE")
    return key


def _is_record(path: Path) -> bool:
    try:
        DeviceRecord.load(path)
    except CloisterError:
        return False
    return True


@click.command(epilog="Example: cloister provision --target qemu -o device.json")
@TARGET
@click.option(
    "-o", "output_file", type=NewFile("device's record", _is_record), required=True, help="Record to write (JSON)."
)  # fmt: skip
def provision(target: str, output_file: Path) -> None:
    """Fetch a device's record: its public key and the cipher suites that it opens.

    Its TA makes the key pair on first use and never gives the private half away.

    Over a network that you do not trust, compare the printed device id with one read at the device itself: a licence
    made for a stranger's key opens your model to the stranger.
    """
    from cloister.device import connect

    with connect(target) as device:
        record = device.record()
    record.save(output_file)
    show_facts({
        "device record": output_file,
        "device id": record.device_id.hex(),
        "ciphers": ", ".join(record.ciphers),
    })  # fmt: skip

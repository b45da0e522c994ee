# SPDX-License-Identifier: BSD-2-Clause
"""From a target's name to a device."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, unquote, urlsplit

from cloister.device.base import Device
from cloister.device.errors import DeviceError, InstanceNotRunning
from cloister.device.progress import boot_progress

EXAMPLES = "use qemu, qemu:NAME or ssh://root@host[:port]"


def connect(target: str = "qemu", *, quiet: bool = False) -> Device:
    """Connect to a device.

    Args:
        target: "qemu" or "qemu:NAME", an emulated device: the one that `cloister device start` left running, else a
            private one that is stopped when the device is closed, or at the program's end. "ssh://user@host:port", a
            board; its host key must be known (known_hosts). `?identity=FILE` names a private key,
            `?known_hosts=FILE` a further file of known hosts, `?directory=DIR` where the package's files are put.
        quiet: show no progress.

    Raises:
        DeviceError: no such target, firmware not built, the device does not boot or answer.
    """
    kind, _, rest = target.partition(":")
    if kind == "qemu":
        from cloister.device.qemu import join_device, start_device

        name = rest or "default"
        with boot_progress(f"device {name}", quiet) as progress:
            try:
                return join_device(name, progress)
            except InstanceNotRunning:
                return start_device(name, progress=progress)
    if kind == "ssh":
        from cloister.device.board import BoardDevice
        from cloister.device.ssh import Endpoint

        endpoint, directory = parse_ssh(target)
        assert isinstance(endpoint, Endpoint)
        return BoardDevice(endpoint, directory, target)
    raise DeviceError(f"unknown target {target!r}", EXAMPLES)


def parse_ssh(target: str) -> tuple[object, str | None]:
    """Endpoint and directory of an `ssh://` target. Raises DeviceError when it cannot be one."""
    from pathlib import Path

    from cloister.device.ssh import Endpoint

    parts = urlsplit(target)
    try:
        port = parts.port or 22
    except ValueError:
        raise DeviceError(f"{target!r} has no valid port", EXAMPLES) from None
    if not parts.hostname or parts.path.strip("/") or parts.password or parts.fragment:
        raise DeviceError(f"{target!r} is no target: it must name a user and a host alone", EXAMPLES)
    options = parse_qs(parts.query, strict_parsing=False)
    unknown = set(options) - {"identity", "known_hosts", "directory"}
    if unknown:
        raise DeviceError(f"{target!r} has unknown options: {', '.join(sorted(unknown))}", EXAMPLES)
    directory = options.get("directory", [None])[0]
    if directory is not None and not re.fullmatch(r"/[A-Za-z0-9._/-]+", directory):
        raise DeviceError(f"the directory {directory!r} must be an absolute path without blanks", EXAMPLES)
    return (
        Endpoint(
            parts.hostname,
            port,
            unquote(parts.username or "root"),
            identity=Path(options["identity"][0]) if "identity" in options else None,
            known_hosts=tuple(Path(name) for name in options.get("known_hosts", [])),
        ),
        directory,
    )

# SPDX-License-Identifier: BSD-2-Clause
"""A board that runs Linux and OP-TEE, over SSH."""

from __future__ import annotations

import os
from pathlib import Path

from cloister.device.base import Device
from cloister.device.ssh import Endpoint, Ssh
from cloister.device.stage import device_files, digest


class BoardDevice(Device):
    """A board. It brings Python, cffi's back end, libteec, tee-supplicant and the Cloister TA; this package's own
    files are put into a directory of it, once for each version.

    Args:
        endpoint: its SSH server.
        directory: where this package's files go; None: below `/run`, which a restart empties.
        teec: directory with the `_teec` extension built for the board; None: `CLOISTER_BOARD_TEEC`, else the
            emulated device's, which serves any 64-bit Arm Linux with libteec 2 and CPython 3.11 or newer.
    """

    def __init__(self, endpoint: Endpoint, directory: str | None, target: str, teec: Path | None = None) -> None:
        super().__init__(target)
        self._directory = directory
        self._teec = teec
        self._endpoint = endpoint
        self._ssh = Ssh(endpoint)

    @property
    def ssh(self) -> Ssh:
        """The SSH connection; made again when it was lost."""
        if not self._ssh.alive:
            self._ssh = Ssh(self._endpoint)
        return self._ssh

    def check(self) -> None:
        """A board's consoles are not seen from here."""

    def agent_directory(self) -> str:
        """Put this package's files on the board unless this version of them is there."""
        files = device_files(*self._built())
        place = self._directory or f"/run/cloister/{digest(files)}"
        mark = f"{place}/digest"
        if self.run(f"cat {mark} 2>/dev/null", check=False).text != digest(files):
            self.ssh.upload(files, place)
            self.ssh.upload({"digest": digest(files).encode()}, place)
        return place

    def _built(self) -> tuple[Path | None, Path | None]:
        """Engine and bridge for the board, where they are built; a board may have the bridge installed itself."""
        named = os.environ.get("CLOISTER_BOARD_TEEC")
        teec = self._teec or (Path(named) if named else None)
        from cloister.device.errors import FirmwareMissing
        from cloister_qemu.firmware import load_firmware

        try:
            firmware = load_firmware()
        except FirmwareMissing:
            return None, teec
        return firmware.engine, teec or firmware.teec

    def close_target(self) -> None:
        """Disconnect."""
        self._ssh.close()

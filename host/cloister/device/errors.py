# SPDX-License-Identifier: BSD-2-Clause
"""Errors of targets: the emulator, boards over SSH, and the agent that runs on them."""

from __future__ import annotations

from cloister.errors import CloisterError


class DeviceError(CloisterError):
    """Something between the host and a device went wrong; base of all errors of this room."""


class FirmwareMissing(DeviceError):
    """The firmware index, or a file that it names, does not exist."""


class EmulatorMissing(DeviceError):
    """QEMU, or a tool that the launcher needs beside it, is not installed."""


class MachineDefinitionError(DeviceError):
    """A machine definition (TOML) has a missing, unknown or wrong field."""


class InstanceBusy(DeviceError):
    """The instance is in use by another process."""


class InstanceNotRunning(DeviceError):
    """The instance is stopped."""


class BootFailed(DeviceError):
    """The emulated device ended, or was not ready in time; the text holds the tails of its logs."""


class DiskFull(DeviceError):
    """There is no room for the instance's files."""


class WorldFailed(DeviceError):
    """One of the device's worlds, or the emulator, ended or panicked while it was in use."""


class SecureWorldPanic(WorldFailed):
    """OP-TEE's core (or TF-A) panicked or aborted: nothing that the device answers counts any more."""


class TrustedApplicationPanic(WorldFailed):
    """A trusted application panicked or was aborted; OP-TEE itself lives on."""


class NormalWorldPanic(WorldFailed):
    """The device's Linux kernel panicked."""


class EmulatorExited(WorldFailed):
    """QEMU ended while the device was in use."""


class ConnectionFailed(DeviceError):
    """The device does not answer over SSH, or answers with a key that is not its own."""


class CommandFailed(DeviceError):
    """A command on the device ended with a status other than zero.

    Attributes:
        command: the command line as it was sent.
        returncode: its exit status, -1 when it was ended by a signal.
        stdout, stderr: what it printed.
    """

    def __init__(self, command: str, returncode: int, stdout: bytes, stderr: bytes) -> None:
        self.command = command
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        tail = (stderr or stdout).decode("utf-8", "replace").strip()[-2000:]
        super().__init__(f"on the device, {command!r} ended with status {returncode}" + (f":\n{tail}" if tail else ""))


class CommandTimeout(DeviceError):
    """A command on the device did not end in time."""


class ProtocolError(DeviceError):
    """Host and on-device agent do not understand each other (other version, or broken stream)."""


class AgentError(DeviceError):
    """The on-device agent failed outside of the TEE; the text holds what it reported."""

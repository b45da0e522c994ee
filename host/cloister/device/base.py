# SPDX-License-Identifier: BSD-2-Clause
"""A device as its user holds it: the same for the emulator and for boards."""

from __future__ import annotations

import abc
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cloister.device.client import AgentClient
from cloister.device.ssh import Completed, Ssh
from cloister.device.stage import agent_command
from cloister.device.ta import CLOISTER_TA, RemoteTa
from cloister.seal.ciphers import suites_of
from cloister.seal.record import DeviceRecord
from cloister.teec.params import Parameter
from cloister.wire import C, ffi, unpack

if TYPE_CHECKING:
    from cloister.device.session import Session
    from cloister.seal import Bundle, Licence


class Device(abc.ABC):
    """A device with OP-TEE and the Cloister TA, reached over SSH. Made by `connect()`; a context manager.

    Attributes:
        target: what it was connected by, such as `qemu` or `ssh://root@board`.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._agent: AgentClient | None = None
        self._lock = threading.Lock()

    # What a kind of device provides.

    @property
    @abc.abstractmethod
    def ssh(self) -> Ssh:
        """The SSH connection."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raise what failed on the device (WorldFailed), else return. A board without a console knows nothing."""

    @abc.abstractmethod
    def agent_directory(self) -> str:
        """Directory of the device that holds the staged files; puts them there if need be."""

    def place(self, data: bytes) -> str | None:
        """Make bytes readable on the device faster than over SSH; returns their path there, or None if it cannot."""
        del data
        return None

    @contextlib.contextmanager
    def expect_ta_panic(self) -> Iterator[list[str]]:
        """Inside of it a trusted application may panic; the list then holds the log lines that say so."""
        yield []

    @abc.abstractmethod
    def close_target(self) -> None:
        """Let go of the device itself."""

    # What every device can do.

    @property
    def agent(self) -> AgentClient:
        """The on-device agent; started when first used, and again after a broken connection."""
        with self._lock:
            if self._agent is None or not self._agent.usable:
                self._agent = AgentClient(self.ssh, agent_command(self.agent_directory()), self.check)
            return self._agent

    def run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        check: bool = True,
        timeout: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """Run a shell command on the device; see `Ssh.run`."""
        return self.ssh.run(command, stdin=stdin, check=check, timeout=timeout, on_output=on_output)

    def upload(self, source: Path | bytes, path: str) -> None:
        """Write a file of the device; it appears whole or not at all."""
        directory, _, name = path.rpartition("/")
        self.ssh.upload({name: source}, directory or "/")

    def download(self, path: str) -> bytes:
        """Read a file of the device."""
        return self.ssh.download(path)

    def shell(self) -> int:
        """An interactive shell; returns its exit status."""
        return self.ssh.shell()

    def install_ta(self, path: Path, directory: str = "/lib/optee_armtz") -> None:
        """Install a trusted application (`UUID.ta`) where tee-supplicant looks for it."""
        self.upload(path, f"{directory}/{path.name}")

    def open_ta(self, uuid: str, *params: Parameter | None) -> RemoteTa:
        """Open a session with any trusted application of the device."""
        return RemoteTa(self.agent, uuid, *params)

    def public_key(self) -> bytes:
        """The device's X25519 public key, 32 bytes; its TA makes the pair on first use and keeps the private half."""
        return self._query(C.CL_CMD_DEVICE_KEY, int(C.CL_KEY_SIZE))

    def record(self) -> DeviceRecord:
        """What a vendor keeps of the device: its public key, and the cipher suites that its TA opens."""
        data = unpack("struct cl_info", self._query(C.CL_CMD_INFO, ffi.sizeof("struct cl_info")))
        build = ffi.string(data.build, 64).decode("utf-8", "replace")
        return DeviceRecord(self.public_key(), tuple(suites_of(data.suites)), build)

    def info(self) -> dict[str, Any]:
        """What the device is: `ta` (its interface, build and vendor key), `python`, `kernel`, `machine`, `optee`."""
        data = unpack("struct cl_info", self._query(C.CL_CMD_INFO, ffi.sizeof("struct cl_info")))
        about = {key: self.agent.about[key] for key in ("python", "kernel", "machine")}
        return {
            "target": self.target,
            **about,
            "optee": self.optee_version(),
            "ta": {
                "interface_version": data.interface_version,
                "format_version": data.format_version,
                "embedded": bool(data.embedded),
                "vendor_key": bytes(data.vendor_key).hex(),
                "build": ffi.string(data.build, 64).decode("utf-8", "replace"),
                "ciphers": suites_of(data.suites),
            },
        }

    def optee_version(self) -> str:
        """OP-TEE's revision as its Linux driver reported it, "" when its log is gone."""
        text = self.run("dmesg | grep -o 'optee: revision .*' | tail -n 1", check=False).text
        return text.removeprefix("optee: revision ").strip()

    def load(
        self,
        bundle: Bundle | Path | str,
        licence: Licence | Path | str | bytes,
        *,
        memory: int = 0,
        mode: str = "auto",
        embedded: bool = False,
        overlap: str = "auto",
    ) -> Session:
        """Load a model into the device's TA.

        Args:
            bundle: a bundle, or its file.
            licence: a licence for this device, or its file or bytes.
            memory: most bytes of secure memory that it may use; 0: as much as there is.
            mode: "whole": one invocation for each inference; "steps": one for each partition; "auto": whole if the
                sealed payload can be mapped into the TA at once.
            embedded: the model is linked into the TA; the bundle only says what it is.
            overlap: of a pair, whether the CPM begins while the backbone still computes: "yes", "no", or "auto": where
                there are several taps and processors, and the first inferences turn out to be faster so.

        Raises:
            TeecError: the TA refuses manifest or licence; `name` says why (WRONG_DEVICE, SIGNATURE_INVALID, ...).
            CloisterError: a file is no bundle or licence, or the device failed.
        """
        from cloister.device.session import Session
        from cloister.seal import Bundle, Licence

        opened = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        if isinstance(licence, Licence):
            data = licence.data
        elif isinstance(licence, bytes):
            data = licence
        else:
            data = Licence.load(licence).data
        return Session(self, opened, data, memory, mode, embedded, overlap)

    def _query(self, command: int, size: int) -> bytes:
        _, out = self.agent.call("query", uuid=CLOISTER_TA, number=int(command), size=size)
        return out[0]

    def close(self) -> None:
        """End agent and connection, and the device itself if it was started for this user."""
        with self._lock:
            agent, self._agent = self._agent, None
        try:
            if agent is not None:
                agent.close()
        finally:
            self.close_target()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

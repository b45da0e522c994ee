# SPDX-License-Identifier: BSD-2-Clause
"""The host's end of the on-device agent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from uuid import UUID

from cloister.device.errors import AgentError, ConnectionFailed, ProtocolError
from cloister.device.frames import PROTOCOL_VERSION, FrameError, decode, encode
from cloister.device.remedies import with_remedy
from cloister.device.ssh import Reader, Ssh, send_all
from cloister.errors import CloisterError
from cloister.teec.codes import Origin
from cloister.teec.errors import TeecError, make_error

Blob = bytes | bytearray | memoryview


class AgentClient:
    """Starts the agent on a device and speaks with it, one request at a time.

    Args:
        ssh: connection to the device.
        command: shell command that starts the agent.
        check: raises what went wrong on the device; called while an answer is awaited, and after it came.

    Raises:
        AgentError: the agent does not start; the text holds what it printed.
        ProtocolError: it speaks another version.
    """

    def __init__(self, ssh: Ssh, command: str, check: Callable[[], None]) -> None:
        self._ssh = ssh
        self._check = check
        self._lock = threading.Lock()
        self._broken = ""
        self._channel = ssh.open(command)
        self._reader = Reader(self._channel, check)
        self._reader.collect_errors()
        #: What the agent said of itself: `python`, `kernel`, `machine`.
        self.about, _ = self.call("hello")
        if self.about.get("protocol") != PROTOCOL_VERSION:
            self.close()
            raise ProtocolError(
                f"the device's agent speaks version {self.about.get('protocol')}, this host {PROTOCOL_VERSION}",
                "install the same version of Cloister on both",
            )

    @property
    def usable(self) -> bool:
        """Whether it can take requests: not closed, and the last one was not torn."""
        return not self._broken and not self._channel.closed

    def call(self, command: str, blobs: Sequence[Blob] = (), **fields: Any) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and wait for its answer.

        Returns:
            The answer's result and its blobs.

        Raises:
            TeecError: the TEE or the TA refused, with code, origin and name.
            AgentError, CloisterError: another failure on the device.
            ConnectionFailed: the connection is lost; models that were loaded are lost with it.
            WorldFailed: a world of the device failed meanwhile.
        """
        with self._lock:
            if self._broken:
                raise ConnectionFailed(f"the device's agent is gone ({self._broken})", "load the model again")
            try:
                for piece in encode({"command": command, **fields}, blobs):
                    send_all(self._channel, piece, self._check)
                frame = decode(self._reader.read_exactly)
            except FrameError as error:
                self._fail(command, str(error))
            except (OSError, EOFError, ConnectionFailed) as error:
                self._fail(command, str(error) or "the connection is lost")
            except BaseException:
                # Whatever interrupts (Ctrl-C, a panic) leaves the stream in the middle of a frame.
                self._broken = f"{command} was interrupted"
                self._channel.close()
                raise
            if frame is None:
                self._fail(command, "it ended")
            header, out = frame
        # A panic counts more than the answer that it led to.
        self._check()
        if not header.get("ok"):
            raise rebuild(header.get("error") or {}, fields.get("uuid", ""))
        return header.get("result") or {}, out

    def _fail(self, command: str, reason: str) -> NoReturn:
        self._broken = reason
        errors = self._reader.errors().decode("utf-8", "replace").strip()[-3000:]
        self._channel.close()
        self._check()
        raise AgentError(f"the device's agent failed at {command!r}: {reason}" + (f"\n{errors}" if errors else ""))

    def close(self) -> None:
        """End the agent."""
        self._broken = self._broken or "closed"
        self._channel.close()


def _of_cloister(application: str, error: TeecError) -> bool:
    """Whether the Cloister TA itself returned it."""
    from cloister.device.ta import CLOISTER_TA

    return bool(application) and str(UUID(application)) == CLOISTER_TA and error.origin == Origin.TRUSTED_APP


def rebuild(error: dict[str, Any], uuid: str = "") -> CloisterError:
    """The exception for an error that the agent described."""
    kind = error.get("kind")
    if kind == "tee":
        application = str(error.get("uuid") or uuid)
        made = make_error(
            int(error["code"]),
            int(error["origin"]),
            str(error["where"]),
            uuid=UUID(application) if application else None,
            required={int(index): int(size) for index, size in error.get("required", [])},
        )
        return with_remedy(made) if _of_cloister(application, made) else made
    if kind == "cloister":
        return AgentError(str(error.get("message")), str(error.get("remedy", "")))
    return AgentError(f"the device's agent failed: {error.get('message')}\n{error.get('trace', '')}".rstrip())

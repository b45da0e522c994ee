# SPDX-License-Identifier: BSD-2-Clause
"""Commands, files and a shell on a device, over SSH (paramiko). Host keys are always verified."""

from __future__ import annotations

import base64
import io
import logging
import os
import select
import shlex
import shutil
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import paramiko

from cloister.device.errors import CommandFailed, CommandTimeout, ConnectionFailed

# Paramiko logs each lost connection with a traceback; it is shown as an exception here.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

_POLL_S = 0.25
_CHUNK = 32768

#: Raises what went wrong on the device; called while waiting for it.
Check = Callable[[], None]


@dataclass(frozen=True)
class Endpoint:
    """Where a device's SSH server is, and how to know it.

    Attributes:
        host_key: the server's key as in known_hosts (`ssh-ed25519 BASE64`); None: as the user's known_hosts says.
        identity: private key file; None: the user's agent and default keys.
        known_hosts: further files of known hosts.
    """

    host: str
    port: int = 22
    user: str = "root"
    host_key: str | None = None
    identity: Path | None = None
    known_hosts: tuple[Path, ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Completed:
    """What a command printed, and its exit status (-1: ended by a signal)."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the white space at its end."""
        return self.stdout.decode("utf-8", "replace").rstrip()


class Ssh:
    """A connection to a device.

    Args:
        endpoint: where to.
        check: raises what went wrong on the device; a command that waits is ended by it within `0.25 s`.
        timeout: seconds until the device must have answered; it may still be starting its server.

    Raises:
        ConnectionFailed: no answer, a host key that is not the device's, or no login.
    """

    def __init__(self, endpoint: Endpoint, check: Check = lambda: None, timeout: float = 30.0) -> None:
        self.endpoint = endpoint
        self._check = check
        self._client = self._connect(timeout)

    def _connect(self, timeout: float) -> paramiko.SSHClient:
        deadline = time.monotonic() + timeout
        identity = self.endpoint.identity
        while True:
            self._check()
            client = self._new_client()
            try:
                client.connect(
                    self.endpoint.host,
                    self.endpoint.port,
                    self.endpoint.user,
                    key_filename=None if identity is None else str(identity),
                    allow_agent=identity is None,
                    look_for_keys=identity is None,
                    timeout=10,
                    banner_timeout=30,
                    auth_timeout=30,
                )
                return client
            except paramiko.BadHostKeyException as error:
                client.close()
                raise ConnectionFailed(
                    f"{self.endpoint} answers with a host key that is not the device's: {error}",
                    "another program may answer there; if the device was set up anew, remove its old key",
                ) from error
            except paramiko.AuthenticationException as error:
                client.close()
                raise ConnectionFailed(
                    f"{self.endpoint} refuses the login: {error}", "install your public key on the device"
                ) from error
            except (OSError, EOFError, paramiko.SSHException) as error:
                client.close()
                if "not found in known_hosts" in str(error):
                    raise ConnectionFailed(
                        f"the host key of {self.endpoint} is not known",
                        f"compare it once with: ssh -p {self.endpoint.port} {self.endpoint.user}@{self.endpoint.host}",
                    ) from error
                if time.monotonic() > deadline:
                    raise ConnectionFailed(f"{self.endpoint} does not answer over SSH: {error}") from error
                time.sleep(0.3)

    def _new_client(self) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        if self.endpoint.host_key is None:
            client.load_system_host_keys()
            for path in self.endpoint.known_hosts:
                client.load_host_keys(str(path))
        else:
            kind, text = self.endpoint.host_key.split()[:2]
            name = self.endpoint.host if self.endpoint.port == 22 else f"[{self.endpoint.host}]:{self.endpoint.port}"
            client.get_host_keys().add(name, kind, paramiko.Ed25519Key(data=base64.b64decode(text)))
        return client

    @property
    def alive(self) -> bool:
        """Whether the connection stands."""
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def open(self, command: str) -> paramiko.Channel:
        """Start a command; its channel's reads and writes time out after `0.25 s`, to be tried again.

        Raises ConnectionFailed when the connection is lost.
        """
        transport = self._client.get_transport()
        try:
            if transport is None:
                raise ConnectionFailed(f"the connection to {self.endpoint} is closed")
            channel = transport.open_session(timeout=30)
            channel.settimeout(_POLL_S)
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._check()
            raise ConnectionFailed(f"the connection to {self.endpoint} is lost: {error}") from error
        return channel

    def run(
        self,
        command: str,
        *,
        stdin: bytes | memoryview = b"",
        check: bool = True,
        timeout: float | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Completed:
        """Run a shell command.

        Args:
            stdin: what it reads.
            check: raise when its status is not zero.
            timeout: seconds it may take.
            on_output: gets its standard output as it comes.

        Raises:
            CommandFailed, CommandTimeout, ConnectionFailed, or what the device's check raises.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        channel = self.open(command)
        try:
            reader = Reader(channel, self._check)
            reader.collect_errors()
            sender = threading.Thread(target=_send_quietly, args=(channel, stdin), daemon=True)
            sender.start()
            out = bytearray()
            while True:
                data = reader.read_some(deadline, command)
                if not data:
                    break
                out += data
                if on_output is not None:
                    on_output(data)
            while not channel.status_event.wait(_POLL_S):
                reader.guard(deadline, command)
            code = channel.exit_status
            errors = reader.errors()
        finally:
            channel.close()
        self._check()
        if code == -1 and not self.alive:
            raise ConnectionFailed(f"the connection to {self.endpoint} was lost during {command!r}")
        if check and code != 0:
            raise CommandFailed(command, code, bytes(out), errors)
        return Completed(code, bytes(out), errors)

    def upload(self, files: Mapping[str, bytes | Path], directory: str) -> None:
        """Write files below a directory of the device, which is made; keys are relative paths.

        Each file appears whole or not at all: they are unpacked aside and moved. Needs `tar` and `sh` there.
        """
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in sorted(files.items()):
                data = content.read_bytes() if isinstance(content, Path) else content
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = len(data), 0o644, int(time.time())
                tar.addfile(info, io.BytesIO(data))
        target, names = shlex.quote(directory), sorted(files)
        moves = " && ".join(
            f"mkdir -p {shlex.quote(str(PurePosixPath(directory, name).parent))} && "
            f'mv -f "$d"/{shlex.quote(name)} {shlex.quote(f"{directory}/{name}")}'
            for name in names
        )
        self.run(
            f"mkdir -p {target} && d=$(mktemp -d {target}/.upload.XXXXXX) && trap 'rm -rf \"$d\"' EXIT && "
            f'tar -x -o -f - -C "$d" && {moves or "true"}',
            stdin=archive.getbuffer(),
        )

    def download(self, path: str) -> bytes:
        """Read a file of the device. Raises CommandFailed when it cannot be read."""
        return self.run(f"cat -- {shlex.quote(path)}").stdout

    def shell(self) -> int:
        """An interactive shell on the user's terminal; without a terminal it reads commands from standard input."""
        transport = self._client.get_transport()
        if transport is None:
            raise ConnectionFailed(f"the connection to {self.endpoint} is closed")
        channel = transport.open_session(timeout=30)
        try:
            if sys.stdin.isatty() and sys.stdout.isatty():
                return _terminal(channel, self._check)
            channel.exec_command("exec sh")
            channel.settimeout(_POLL_S)
            return _plain_shell(channel, self._check)
        finally:
            channel.close()

    def close(self) -> None:
        """Close the connection and all of its channels."""
        self._client.close()


class Reader:
    """Reads a channel while the device is watched."""

    def __init__(self, channel: paramiko.Channel, check: Check) -> None:
        self._channel = channel
        self._check = check
        self._rest = bytearray()
        self._errors = bytearray()
        self._thread: threading.Thread | None = None

    def collect_errors(self, limit: int = 1 << 20) -> None:
        """Read standard error in a thread, and keep its end."""

        def collect() -> None:
            while True:
                try:
                    data = self._channel.recv_stderr(_CHUNK)
                except TimeoutError:
                    continue
                except (OSError, EOFError):
                    return
                if not data:
                    return
                self._errors += data
                del self._errors[:-limit]

        self._thread = threading.Thread(target=collect, daemon=True)
        self._thread.start()

    def errors(self, wait: float = 1.0) -> bytes:
        """What came on standard error so far."""
        if self._thread is not None:
            self._thread.join(wait)
        return bytes(self._errors)

    def guard(self, deadline: float | None, what: str) -> None:
        """Raise what went wrong on the device, or CommandTimeout after the deadline."""
        self._check()
        if deadline is not None and time.monotonic() > deadline:
            raise CommandTimeout(f"on the device, {what!r} did not end in time")

    def read_some(self, deadline: float | None, what: str) -> bytes:
        """Some bytes of standard output, none at its end."""
        while True:
            try:
                data: bytes = self._channel.recv(_CHUNK)
                if deadline is not None and time.monotonic() > deadline:
                    self.guard(deadline, what)
                return data
            except TimeoutError:
                self.guard(deadline, what)

    def read_exactly(self, size: int) -> bytes:
        """So many bytes of standard output, fewer only at its end."""
        while len(self._rest) < size:
            data = self.read_some(None, "read")
            if not data:
                break
            self._rest += data
        result = bytes(self._rest[:size])
        del self._rest[:size]
        return result


def send_all(channel: paramiko.Channel, data: bytes | memoryview, check: Check) -> None:
    """Send to a command's standard input, while the device is watched."""
    view = memoryview(data).cast("B")
    while view:
        try:
            sent = channel.send(view[:_CHUNK])
        except TimeoutError:
            check()
            continue
        if not sent:
            raise ConnectionFailed("the device closed the connection")
        view = view[sent:]


def _send_quietly(channel: paramiko.Channel, data: bytes | memoryview) -> None:
    try:
        send_all(channel, data, lambda: None)
        channel.shutdown_write()
    except (OSError, EOFError, ConnectionFailed):
        pass  # the command ended without reading all of it; its status says why


def _plain_shell(channel: paramiko.Channel, check: Check) -> int:
    sender = threading.Thread(target=_pump_stdin, args=(channel,), daemon=True)
    sender.start()
    while True:
        try:
            data = channel.recv(_CHUNK)
        except TimeoutError:
            check()
            continue
        if not data:
            break
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    while channel.recv_stderr_ready():
        sys.stderr.buffer.write(channel.recv_stderr(_CHUNK))
    while not channel.status_event.wait(_POLL_S):
        check()
    return int(channel.exit_status)


def _pump_stdin(channel: paramiko.Channel) -> None:
    try:
        while data := os.read(sys.stdin.fileno(), _CHUNK):
            send_all(channel, data, lambda: None)
        channel.shutdown_write()
    except (OSError, EOFError, ConnectionFailed):
        pass


def _terminal(channel: paramiko.Channel, check: Check) -> int:
    import termios
    import tty

    size = shutil.get_terminal_size()
    channel.get_pty(os.environ.get("TERM", "vt100"), size.columns, size.lines)
    channel.invoke_shell()
    channel.settimeout(0.0)
    stdin = sys.stdin.fileno()

    def resize(_number: int, _frame: Any) -> None:
        now = shutil.get_terminal_size()
        channel.resize_pty(now.columns, now.lines)

    before, handler = termios.tcgetattr(stdin), signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(stdin)
        while True:
            ready, _, _ = select.select([channel, stdin], [], [], _POLL_S)
            if channel in ready:
                try:
                    data = channel.recv(_CHUNK)
                except TimeoutError:
                    data = None
                if data == b"":
                    break
                if data:
                    os.write(sys.stdout.fileno(), data)
            if stdin in ready:
                channel.setblocking(True)
                channel.sendall(os.read(stdin, _CHUNK))
                channel.settimeout(0.0)
            check()
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, handler)
    return int(channel.exit_status) if channel.exit_status_ready() else 0

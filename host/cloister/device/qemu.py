# SPDX-License-Identifier: BSD-2-Clause
"""The emulated device."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cloister.device.base import Device
from cloister.device.errors import DeviceError, InstanceBusy, InstanceNotRunning
from cloister.device.session import payload_name
from cloister.device.ssh import Endpoint, Ssh
from cloister.device.stage import device_files, digest
from cloister_qemu.console import EventKind, LogFollower, World, classify
from cloister_qemu.files import InstanceFiles
from cloister_qemu.firmware import Firmware, load_firmware
from cloister_qemu.instance import SEVERITY, Instance, Progress, silent
from cloister_qemu.launch import StartOptions, join_instance, start_instance
from cloister_qemu.machine import load_machine
from cloister_qemu.paths import machine_file
from cloister_qemu.process import end_process
from cloister_qemu.storage import disk_error

SHARE = "/mnt/share"
#: Placed payloads that are kept in a share.
_KEPT_BLOBS = 8


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a directory, each aside and then renamed."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(data)
        aside.rename(path)


def fill_share(share: Path, firmware: Firmware, extra_tas: bool = True) -> None:
    """Put trusted applications, this package and the engine into an instance's share.

    Args:
        extra_tas: OP-TEE's and xtest's trusted applications as well.
    """
    folder = share / "optee_armtz"
    folder.mkdir(exist_ok=True)
    (share / "lib").mkdir(exist_ok=True)
    if extra_tas and firmware.extra_ta_dir is not None:
        for path in sorted(firmware.extra_ta_dir.glob("*.ta")):
            shutil.copyfile(path, folder / path.name)
    for uuid, path in firmware.ta.items():
        shutil.copyfile(path, folder / f"{uuid}.ta")
    files = device_files(firmware.engine, firmware.teec)
    write_files(share, files)
    (share / "digest").write_text(digest(files))


class QemuDevice(Device):
    """An emulated device; made by start_device() and join_device()."""

    def __init__(self, instance: Instance, firmware: Firmware, target: str) -> None:
        super().__init__(target)
        self.instance = instance
        self.firmware = firmware
        self._ssh: Ssh | None = None
        self._placed: set[str] = set()
        # A session that is never closed (a script that just ends) powers its private device off all the same.
        atexit.register(self.close)

    @property
    def ssh(self) -> Ssh:
        """The SSH connection; made when first used, and again when it was lost."""
        if self._ssh is None or not self._ssh.alive:
            self._ssh = Ssh(endpoint(self.instance), self.check, timeout=60.0)
        return self._ssh

    def check(self) -> None:
        """Raise SecureWorldPanic, NormalWorldPanic, TrustedApplicationPanic or EmulatorExited, else return."""
        self.instance.check()

    @contextlib.contextmanager
    def expect_ta_panic(self) -> Iterator[list[str]]:
        """Inside of it a trusted application may panic; the list then holds the log lines that say so."""
        with self.instance.expect_ta_panic() as lines:
            yield lines

    def agent_directory(self) -> str:
        """A copy of the share's files, where Python can keep what it compiles; renewed with this package."""
        files = device_files(self.firmware.engine, self.firmware.teec)
        mark, current = self.instance.files.share / "digest", digest(files)
        if not mark.exists() or mark.read_text() != current:
            write_files(self.instance.files.share, files)
            mark.write_text(current)
        place = f"/tmp/cloister-{current}"  # noqa: S108 - of the device, which has one user
        if place not in self._placed:
            copy = f"mkdir {place}.$$ && cp -r {SHARE}/python {SHARE}/lib {place}.$$/ && mv {place}.$$ {place}"
            self.run(f"[ -d {place} ] || {{ {copy}; }}")
            self._placed.add(place)
        return place

    def place(self, data: bytes) -> str | None:
        """Put bytes into the share, which is much faster than SSH to an emulated CPU."""
        folder, name = self.instance.files.share / "blobs", payload_name(data)
        try:
            write_files(folder, {name: data})
            for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-_KEPT_BLOBS]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        return f"{SHARE}/blobs/{name}"

    def power_off(self) -> None:
        """Ask Linux to write everything out and switch the device off."""
        with contextlib.suppress(Exception):
            self.check()  # after a panic there is nobody left to ask
            ssh = self._ssh if self._ssh is not None and self._ssh.alive else Ssh(endpoint(self.instance), timeout=5.0)
            # Without -f the request goes to process 1, which may be a shell that waits.
            channel = ssh.open("sync; poweroff -f")
            channel.status_event.wait(1.0)

    def stop(self) -> None:
        """Switch the device off, a daemon too."""
        self.instance.stop(self.power_off)
        self._drop_ssh()

    def close_target(self) -> None:
        """Disconnect; switch the device off if it was started for this user alone."""
        atexit.unregister(self.close)
        if self.instance.owned:
            self.stop()
        else:
            self._drop_ssh()
            self.instance.release()

    def _drop_ssh(self) -> None:
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None


def endpoint(instance: Instance) -> Endpoint:
    """Where an instance's SSH server is; its host key is the one made for it."""
    return Endpoint(
        "127.0.0.1",
        instance.note.ssh_port,
        host_key=instance.keys.host_public(),
        identity=instance.keys.client,
    )


def start_device(
    name: str = "default",
    *,
    machine: str = "virt",
    cpu: str | None = None,
    profile: str = "default",
    daemon: bool = False,
    extra_tas: bool = True,
    progress: Progress = silent,
    timeout: float | None = None,
) -> QemuDevice:
    """Start an emulated device; unless it is a daemon it ends with the calling process.

    Args:
        cpu: QEMU's name of a CPU other than the machine's own.

    Raises:
        FirmwareMissing, EmulatorMissing, InstanceBusy, BootFailed, DiskFull, ConnectionFailed.
    """
    firmware = load_firmware()
    options = StartOptions(
        profile=profile,
        daemon=daemon,
        extend=lambda share: fill_share(share, firmware, extra_tas),
        timeout=timeout,
    )
    definition = load_machine(machine_file(machine))
    definition = replace(definition, cpu=cpu) if cpu else definition
    instance = start_instance(name, definition, firmware, options, progress)
    device = QemuDevice(instance, firmware, f"qemu:{name}")
    try:
        progress(0.0, "SSH")
        device.run("true")
    except BaseException:
        instance.kill()
        atexit.unregister(device.close)
        raise
    return device


def join_device(name: str = "default", progress: Progress = silent) -> QemuDevice:
    """Join a daemon. Raises InstanceNotRunning, InstanceBusy, BootFailed, or what failed on it earlier."""
    instance = join_instance(name, lambda machine: load_machine(machine_file(machine)), progress)
    return QemuDevice(instance, load_firmware(), f"qemu:{name}")


def stop_device(name: str = "default", report: Callable[[str], None] = lambda _text: None) -> None:
    """Switch a running device off, in whatever state it is. Raises InstanceNotRunning."""
    files = InstanceFiles(name)
    try:
        join_device(name).stop()
        return
    except InstanceNotRunning:
        raise
    except DeviceError as error:
        # It hangs, panicked, or belongs to another process: nothing to ask, it is ended.
        report(str(error).splitlines()[0])
    note = files.read_note()
    if note is not None:
        end_process(note.qemu)
        note.guard.wait(5.0)


def reset_device(name: str = "default", force: bool = False) -> None:
    """Delete an instance's secure storage, keys and logs; the next start makes a new device.

    Args:
        force: stop it first when it runs.

    Raises InstanceBusy when it runs, InstanceNotRunning when there is none.
    """
    files = InstanceFiles(name)
    if not files.directory.exists():
        raise InstanceNotRunning(f"there is no device {name!r}", "cloister device status lists them")
    if force:
        with contextlib.suppress(InstanceNotRunning):
            stop_device(name)
    try:
        lock = files.acquire()
    except InstanceBusy as error:
        raise InstanceBusy(
            f"{error.message}; a reset deletes its secure storage",
            f"stop it first (cloister device stop --name {name}), or use --force",
        ) from None
    try:
        files.remove()
    except OSError as error:
        raise disk_error(error, files.directory) from error
    finally:
        os.close(lock)


def watch_events(name: str) -> list[str]:
    """What a running instance's logs say that went wrong, worst first; empty while all is well."""
    files = InstanceFiles(name)
    found: list[EventKind] = []
    for world, path in ((World.NORMAL, files.normal_log), (World.SECURE, files.secure_log)):
        follower = LogFollower(path)
        found += [kind for line in follower.poll() if (kind := classify(world, line)) is not None]
        follower.close()
    fatal = [kind for kind in SEVERITY if kind in found and kind is not EventKind.TA_PANIC]
    return [kind.value for kind in fatal]

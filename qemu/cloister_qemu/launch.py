# SPDX-License-Identifier: BSD-2-Clause
"""Start an emulated device, or join one that another process started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloister.device.errors import BootFailed, EmulatorMissing, InstanceBusy, InstanceNotRunning
from cloister_qemu import guard
from cloister_qemu.command import Wiring, build_command
from cloister_qemu.console import tail
from cloister_qemu.files import InstanceFiles, Note, read_json
from cloister_qemu.firmware import Firmware
from cloister_qemu.instance import Instance, Progress, silent
from cloister_qemu.keys import InstanceKeys, ensure_keys
from cloister_qemu.machine import Machine
from cloister_qemu.process import ProcessId, end_process, free_port
from cloister_qemu.storage import disk_error, ensure_storage
from cloister_qemu.uboot import write_environment

# QEMU's own words (net/slirp.c); the port was free when it was chosen.
_PORT_TAKEN = "Could not set up host forwarding rule"
_PORT_ATTEMPTS = 8


@dataclass(frozen=True)
class StartOptions:
    """How to start an instance.

    Attributes:
        daemon: it runs on when the calling process ends.
        share_writable: the guest may write into the share.
        extend: fills the share, which already holds the keys.
        timeout: seconds until both worlds must be up; None: as the machine says.
    """

    profile: str = "default"
    daemon: bool = False
    share_writable: bool = False
    extend: Callable[[Path], None] = lambda _share: None
    timeout: float | None = None


def start_instance(
    name: str,
    machine: Machine,
    firmware: Firmware,
    options: StartOptions | None = None,
    progress: Progress = silent,
) -> Instance:
    """Start an instance and wait until both worlds are up.

    Unless it is a daemon it ends with this process, in whatever way that ends.

    Raises:
        InstanceBusy: another process has it.
        EmulatorMissing: QEMU, or mke2fs, is not installed.
        BootFailed: it ended, panicked or was not ready in time.
        DiskFull, DeviceError: its files cannot be written.
    """
    options = options or StartOptions()
    profile = machine.profile(options.profile)
    if shutil.which(machine.binary) is None:
        raise EmulatorMissing(f"{machine.binary} was not found", "install the package qemu-system-arm")
    files = InstanceFiles(name)
    lock = files.acquire()
    instance: Instance | None = None
    try:
        try:
            files.rotate()
            ensure_storage(files.storage)
            write_environment(files.environment, machine.u_boot_environment, machine.u_boot_size)
            keys = ensure_keys(files.keys)
            prepare_share(files.share, keys)
            options.extend(files.share)
        except OSError as error:
            raise disk_error(error, files.directory) from error
        launched: _Launched | None = None
        for attempt in range(_PORT_ATTEMPTS):
            port = free_port()
            wiring = Wiring(
                share=files.share,
                share_writable=options.share_writable,
                environment=files.environment,
                storage=files.storage,
                ssh_port=port,
                normal_log=files.normal_log,
                secure_log=files.secure_log,
            )
            command = build_command(machine, profile, firmware, wiring)
            launched = _launch(files, command, lock)
            if launched is not None:
                break
            if _PORT_TAKEN not in tail(files.qemu_log, 20) or attempt == _PORT_ATTEMPTS - 1:
                raise BootFailed(f"QEMU did not start:\n{tail(files.qemu_log, 20)}\ncommand: {command}")
        assert launched is not None
        (qemu, guard_id), guard_process, lifeline = launched
        note = Note(
            qemu=qemu,
            guard=guard_id,
            owner=os.getpid(),
            daemon=options.daemon,
            machine=machine.path.stem,
            profile=profile.name,
            ssh_port=port,
            firmware=firmware.digest(),
            started=time.time(),
        )
        try:
            files.write_note(note)
            instance = Instance(files, machine, note, lock, guard_process, lifeline)
        except BaseException:
            end_process(note.qemu)
            os.close(lifeline)
            raise
        instance.wait_ready(progress, options.timeout)
        return instance
    except BaseException:
        # Ctrl-C included: whatever was started ends here.
        if instance is not None:
            instance.kill()
        else:
            os.close(lock)
        raise


def prepare_share(share: Path, keys: InstanceKeys) -> None:
    """Make the share anew, with the keys in it. Hold the instance's lock."""
    if share.exists():
        shutil.rmtree(share)
    share.mkdir(mode=0o700)
    (share / "authorized_keys").write_text(keys.client_public() + "\n", "ascii")
    shutil.copyfile(keys.host, share / "ssh_host_ed25519_key")
    (share / "ssh_host_ed25519_key").chmod(0o600)


_Launched = tuple[tuple[ProcessId, ProcessId], "subprocess.Popen[bytes]", int]


def _launch(files: InstanceFiles, command: list[str], lock: int) -> _Launched | None:
    """Start guard and QEMU; None when QEMU ended at once (it checks all its arguments before it runs)."""
    for path in (files.process, files.exit):
        path.unlink(missing_ok=True)
    arguments = [sys.executable, "-I", "-S", str(Path(guard.__file__))]
    arguments += ["--process", str(files.process), "--exit", str(files.exit), "--hold", str(lock), "--", *command]
    read_end, write_end = os.pipe()
    try:
        with files.qemu_log.open("ab") as log:
            popen = subprocess.Popen(
                arguments,
                stdin=read_end,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=(lock,),
                start_new_session=True,
            )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    try:
        begin = time.monotonic()
        while True:
            ended = read_json(files.exit) is not None or popen.poll() is not None
            process = read_json(files.process)
            # QEMU sets its network up within its first tenths of a second; the console appears after that.
            if (
                not ended
                and process is not None
                and (files.normal_log.stat().st_size > 0 or time.monotonic() - begin > 3.0)
            ):
                ids = (
                    ProcessId(process["pid"], process["start"]),
                    ProcessId(process["guard"], process["guard_start"]),
                )
                return ids, popen, write_end
            if ended:
                popen.wait()
                os.close(write_end)
                return None
            if process is None and time.monotonic() - begin > 20.0:
                raise BootFailed(f"QEMU's guard did not start:\n{tail(files.qemu_log, 20)}")
            time.sleep(0.02)
    except BaseException:
        popen.terminate()
        os.close(write_end)
        raise


def join_instance(name: str, load: Callable[[str], Machine], progress: Progress = silent) -> Instance:
    """Join a daemon that another process started, and wait until it is ready.

    Raises InstanceNotRunning, InstanceBusy when it belongs to another process's session, BootFailed, or what
    failed on it earlier.
    """
    files = InstanceFiles(name)
    deadline = time.monotonic() + 20.0
    while True:
        if not files.locked():
            raise InstanceNotRunning(
                f"the device {name!r} is not running", f"start it with: cloister device start --name {name}"
            )
        note = files.read_note()
        if note is not None:
            break
        if time.monotonic() > deadline:
            raise InstanceBusy(f"the device {name!r} is locked by a process that is just starting or stopping it")
        time.sleep(0.1)
    if not note.daemon and note.owner != os.getpid():
        raise InstanceBusy(
            f"the device {name!r} belongs to the running process {note.owner}",
            f"wait for its end, use another name, such as qemu:{name}2, or share a device: cloister device start",
        )
    instance = Instance(files, load(note.machine), note, None)
    try:
        instance.wait_ready(progress)
        # Applications that panicked before are no fault of this user's.
        instance.forget_ta_panics()
        instance.check()
    except BaseException:
        instance.release()
        raise
    return instance

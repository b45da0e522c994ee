# SPDX-License-Identifier: BSD-2-Clause
"""Run a script inside a device that is started for it alone: for benchmarks in deterministic time.

With the profile `icount` guest time advances by instructions, and an idle guest's clocks run ahead of
the host's: nothing may be driven over the network. The script, its files and its results go through the share.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cloister.device.errors import BootFailed, CommandTimeout, DeviceError
from cloister.device.qemu import fill_share, reset_device
from cloister_qemu.console import tail
from cloister_qemu.files import InstanceFiles
from cloister_qemu.firmware import load_firmware
from cloister_qemu.instance import Instance, Progress, silent
from cloister_qemu.launch import StartOptions, start_instance
from cloister_qemu.machine import load_machine
from cloister_qemu.paths import machine_file

_DONE = re.compile(r"CLOISTER BOOTSH rc=(\d+)")


@dataclass(frozen=True)
class ScriptResult:
    """What a script that ran at boot left behind.

    Attributes:
        returncode: its exit status.
        files: what it wrote into `$RESULTS`, by relative path.
        console: the end of the normal world's log, the script's output in it.
        seconds: of the host, from start to power-off.
    """

    returncode: int
    files: dict[str, bytes]
    console: str
    seconds: float


def run_script(
    script: str,
    files: Mapping[str, bytes | Path] | None = None,
    *,
    name: str | None = None,
    profile: str = "icount",
    machine: str = "virt",
    extra_tas: bool = False,
    progress: Progress = silent,
    timeout: float = 1800.0,
) -> ScriptResult:
    """Boot a device, run a shell script in it as root, switch it off.

    Args:
        script: for `sh`; in it `$INPUT` and `$RESULTS` are directories, PYTHONPATH holds this package.
        files: what the script finds in `$INPUT`, by relative path.
        name: of an instance whose secure storage is kept from run to run (and so its device key); None: a new
            device, deleted afterwards.
        extra_tas: OP-TEE's and xtest's trusted applications as well.
        timeout: seconds of the host for boot and script.

    Raises:
        BootFailed, CommandTimeout: with the logs' tails.
        SecureWorldPanic, TrustedApplicationPanic, NormalWorldPanic: a world failed meanwhile.
    """
    firmware = load_firmware()
    own = name or f"script-{os.getpid()}-{next(tempfile._get_candidate_names())}"  # type: ignore[attr-defined]

    def extend(share: Path) -> None:
        fill_share(share, firmware, extra_tas)
        (share / "results").mkdir()
        for relative, content in (files or {}).items():
            path = share / "input" / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read_bytes() if isinstance(content, Path) else content)
        (share / "script.sh").write_text(script)
        (share / "boot.sh").write_text(
            # Addresses and hashes chosen at random would change how many instructions a program takes.
            "echo 0 > /proc/sys/kernel/randomize_va_space\nexport PYTHONHASHSEED=0\n"
            "export INPUT=/mnt/share/input RESULTS=/mnt/share/results\ncd /tmp && sh /mnt/share/script.sh\n"
        )

    begin = time.monotonic()
    instance = start_instance(
        own,
        load_machine(machine_file(machine)),
        firmware,
        StartOptions(profile=profile, share_writable=True, extend=extend),
        progress,
    )
    try:
        try:
            instance.wait_exit(progress, timeout)
        except TimeoutError:
            raise CommandTimeout(f"the script did not end within {timeout:.0f} s\n{instance.tails()}") from None
        return _collect(instance, time.monotonic() - begin)
    finally:
        instance.kill()
        if name is None:
            reset_device(own)
            shutil.rmtree(InstanceFiles(own).directory, ignore_errors=True)


def _collect(instance: Instance, seconds: float) -> ScriptResult:
    console = tail(instance.files.normal_log, 2000)
    found = _DONE.findall(console)
    if not found:
        raise BootFailed(f"the device ended before its script did\n{instance.tails(30)}")
    results: dict[str, bytes] = {}
    root = instance.files.share / "results"
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise DeviceError(f"the script left a symbolic link, {path.relative_to(root)}: links are not followed")
        if path.is_file():
            results[str(path.relative_to(root))] = path.read_bytes()
    return ScriptResult(int(found[-1]), results, console, seconds)

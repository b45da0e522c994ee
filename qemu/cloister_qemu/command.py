# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloister_qemu.firmware import Firmware
from cloister_qemu.machine import Machine, Profile

SHARE_TAG = "cloister"


@dataclass(frozen=True)
class Wiring:
    """What of the host an instance is connected to.

    Attributes:
        environment: image of the flash that holds U-Boot's environment.
        ssh_port: port of 127.0.0.1 that leads to the guest's port 22.
        share_writable: whether the guest may write into the share.
    """

    share: Path
    share_writable: bool
    environment: Path
    storage: Path
    ssh_port: int
    normal_log: Path
    secure_log: Path


def option_value(path: Path | str) -> str:
    """Escape a value for QEMU's option syntax, in which a comma ends a value unless it is doubled."""
    return str(path).replace(",", ",,")


def build_command(machine: Machine, profile: Profile, firmware: Firmware, wiring: Wiring) -> list[str]:
    """The command line that starts an instance. It listens on loopback only, and has no monitor."""
    append = " ".join(part for part in (firmware.append, machine.append) if part)
    share = (
        f"local,id=share,path={option_value(wiring.share)},security_model=none,multidevs=remap,"
        f"readonly={'off' if wiring.share_writable else 'on'}"
    )
    return [
        machine.binary,
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        *("-display", "none", "-monitor", "none"),
        *("-machine", machine.type, "-cpu", machine.cpu),
        *("-smp", str(profile.smp), "-m", str(machine.memory_mib)),
        *profile.options,
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={option_value(firmware.flash)}"),
        *("-drive", f"if=pflash,unit=1,format=raw,readonly=on,file={option_value(wiring.environment)}"),
        *("-kernel", str(firmware.kernel), "-initrd", str(firmware.initrd), "-append", append),
        *("-chardev", f"file,id=normal,path={option_value(wiring.normal_log)}", "-serial", "chardev:normal"),
        *("-chardev", f"file,id=secure,path={option_value(wiring.secure_log)}", "-serial", "chardev:secure"),
        *("-drive", f"if=none,id=rootfs,format=raw,readonly=on,file={option_value(firmware.rootfs)}"),
        *("-device", "virtio-blk-pci,drive=rootfs,serial=rootfs"),
        *("-drive", f"if=none,id=teestate,format=raw,file={option_value(wiring.storage)}"),
        *("-device", "virtio-blk-pci,drive=teestate,serial=teestate"),
        *("-fsdev", share),
        *("-device", f"virtio-9p-pci,fsdev=share,mount_tag={SHARE_TAG}"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{wiring.ssh_port}-:22"),
        # romfile=: without it the device needs a boot ROM that a minimal QEMU package does not bring.
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-rng-pci"),
    ]

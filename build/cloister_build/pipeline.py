# SPDX-License-Identifier: BSD-2-Clause
"""The order of the steps, and the firmware index that they end in."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister_build.archive import Archive
from cloister_build.keys import ta_sign_key, vendor_public_key
from cloister_build.paths import firmware_index, keys_dir
from cloister_build.steps import device, firmware, linux, rootfs
from cloister_build.store import Artifact, Store

# Linux on QEMU's virt machine. panic=-1 with QEMU's -no-reboot: a kernel panic ends QEMU.
KERNEL_COMMAND_LINE = "console=ttyAMA0 panic=-1 quiet loglevel=4 random.trust_bootloader=on"


@dataclass(frozen=True)
class Firmware:
    """The device's system."""

    optee: Artifact
    flash: Artifact
    kernel: Artifact
    initrd: Artifact
    rootfs: Artifact
    headers: Artifact
    foreign: Artifact

    def parts(self) -> list[Artifact]:
        """Return all parts."""
        return [self.optee, self.flash, self.kernel, self.initrd, self.rootfs, self.headers, self.foreign]


@dataclass(frozen=True)
class Application:
    """Our own parts on the device."""

    ta: Artifact
    engine: Artifact
    bridge: Artifact


def build_firmware(store: Store, *, crypto: bool = True) -> Firmware:
    """Make the device's system, each step from the cache if nothing that it depends on has changed.

    crypto: the secure world uses the CPU's crypto instructions.
    """
    archive = Archive(store)
    optee = firmware.optee_os(store, archive.fetch("optee-os"), crypto=crypto)
    flash = firmware.trusted_firmware(store, archive.fetch("tf-a"), optee, archive.fetch("u-boot"))
    kernel = linux.kernel(store, archive.fetch("linux"))
    packages = archive.fetch("guest")
    xtest = archive.fetch("xtest")
    initrd = linux.initrd(store, kernel, packages)
    image = rootfs.root_file_system(store, packages, xtest, archive.fetch("compiler"))
    headers = device.sysroot(store, archive.fetch("sysroot"))
    foreign = device.foreign_tas(store, xtest, optee)
    return Firmware(optee, flash, kernel, initrd, image, headers, foreign)


def build_application(store: Store, system: Firmware, *, crypto: bool = True) -> Application:
    """Make our TA (with AES instructions where ``crypto``), the engine and the bridge."""
    vendor = vendor_public_key() or _new_vendor_key()
    ta = device.trusted_application(store, system.optee, vendor, aes=crypto)
    return Application(ta, device.engine(store), device.bridge(store, system.headers))


def _new_vendor_key() -> str:
    """Have the package that owns the vendor's key make one: the TA is built with its public half."""
    from cloister.seal.keys import VendorKey

    return VendorKey.load_or_generate(keys_dir()).public.hex()


def index(system: Firmware, application: Application | None) -> dict[str, Any]:
    """Return the firmware index: absolute paths of all that the launcher and the host package need."""
    versions: dict[str, str] = {}
    for part in system.parts():
        versions.update(part.versions)
    entry: dict[str, Any] = {
        "flash": str(system.flash.path / "qemu_fw.rom"),
        "kernel": str(system.kernel.path / "Image"),
        "initrd": str(system.initrd.path / "initrd.cpio"),
        "rootfs": str(system.rootfs.path / "rootfs.img"),
        "append": KERNEL_COMMAND_LINE,
        "ta_dev_kit": str(system.optee.path / "export-ta_arm64"),
        "ta_sign_key": str(ta_sign_key()),
        "optee_elf": str(system.optee.path / "tee.elf"),
        "sysroot": str(system.headers.path),
        "extra_ta_dir": str(system.foreign.path),
        "ta": {},
        "engine": None,
        "teec": None,
        "versions": dict(sorted(versions.items())),
    }
    if application is not None:
        entry["ta"] = {path.stem: str(path) for path in sorted(application.ta.path.glob("*.ta"))}
        entry["engine"] = str(application.engine.path / device.ENGINE)
        entry["teec"] = str(application.bridge.path)
    return entry


def keep_application(entry: dict[str, Any], path: Path | None = None) -> None:
    """Take our own parts over from the index as it stands, where they still exist and were built for this system."""
    try:
        old = json.loads((path or firmware_index()).read_text())
        same_system = old["ta_dev_kit"] == entry["ta_dev_kit"] and old["sysroot"] == entry["sysroot"]
        parts = [*old["ta"].values(), old["engine"], old["teec"]]
    except (OSError, ValueError, KeyError, AttributeError):
        return
    if same_system and all(part and Path(part).exists() for part in parts):
        for name in ("ta", "engine", "teec"):
            entry[name] = old[name]


def write_index(entry: dict[str, Any], path: Path | None = None) -> Path:
    """Write the index aside and rename it into place; returns where."""
    target = path or firmware_index()
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entry, indent=1) + "\n"
    if target.exists() and target.read_text() == text:
        return target
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(target)
    return target

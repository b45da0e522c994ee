# SPDX-License-Identifier: BSD-2-Clause
"""The secure world and the boot loaders: OP-TEE OS and Trusted Firmware-A with U-Boot."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from cloister_build.errors import BuildError
from cloister_build.keys import public_digest, ta_sign_key
from cloister_build.store import Artifact, Store, Workshop

CROSS = "aarch64-linux-gnu-"

# The key that signed the TAs of every public build; it must never be the one that our OP-TEE trusts.
PUBLIC_DEFAULT_KEY = "default_ta.pem"

OPTEE_FLAGS = {
    "PLATFORM": "vexpress-qemu_armv8a",
    "CFG_ARM64_core": "y",
    "CFG_ARM_GICV3": "y",
    "CFG_USER_TA_TARGETS": "ta_arm64",
    "CFG_DT": "y",
    # the driver uses dynamic shared memory; the reserved region would lie where U-Boot puts the kernel
    "CFG_CORE_RESERVED_SHM": "n",
    "CFG_ATTESTATION_PTA": "y",
    # QEMU's cortex-a53 has the Armv8 crypto instructions: AES-GCM is a hundred times cheaper with them
    "CFG_CRYPTO_WITH_CE": "y",
    "CFG_CRYPTO_SIZE_OPTIMIZATION": "n",
    "CFG_CC_OPT_LEVEL": "2",
    "CFG_TEE_CORE_DEBUG": "n",
    # the engine is compiled with -mno-strict-align
    "CFG_SCTLR_ALIGNMENT_CHECK": "n",
    # info: a core panic, an abort of a TA and its call stack are printed; so is a TA's own IMSG
    "CFG_TEE_CORE_LOG_LEVEL": "2",
    "CFG_TEE_TA_LOG_LEVEL": "2",
}


def _job_flag() -> str:
    return f"-j{os.cpu_count() or 1}"


def path_with_this_python() -> dict[str, str]:
    """OP-TEE's scripts run the ``python3`` on PATH and need pyelftools and cryptography: those of this environment."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def optee_os(store: Store, source: Artifact, *, crypto: bool = True) -> Artifact:
    """Build OP-TEE OS and its TA dev kit (``export-ta_arm64``); it trusts TAs signed with the user's key only.

    crypto: use the CPU's crypto instructions; without them it is as on a CPU that has none.
    """
    key = ta_sign_key()
    flags = OPTEE_FLAGS | ({} if crypto else {"CFG_CRYPTO_WITH_CE": "n"})
    inputs = {"source": source.identity, "flags": flags, "key": public_digest(key)}

    def build(shop: Workshop) -> None:
        tree = _copy_source(shop, source)
        work = shop.tmp / "out"
        shop.run(
            "make",
            _job_flag(),
            f"O={work}",
            f"CROSS_COMPILE64={CROSS}",
            f"CROSS_COMPILE_core={CROSS}",
            f"CROSS_COMPILE_ta_arm64={CROSS}",
            f"TA_SIGN_KEY={key}",
            f"TEE_IMPL_VERSION={source.versions['optee-os']}",
            *(f"{name}={value}" for name, value in flags.items()),
            "all",
            cwd=tree,
            env=path_with_this_python(),
        )
        for name in ("tee-header_v2.bin", "tee-pager_v2.bin", "tee-pageable_v2.bin", "tee.elf"):
            shutil.copy2(work / "core" / name, shop.out / name)
        shutil.copy2(work / "conf.mk", shop.out / "conf.mk")
        kit = shop.out / "export-ta_arm64"
        shutil.copytree(work / "export-ta_arm64", kit, symlinks=True)
        keys = kit / "keys"
        for exported in keys.iterdir():
            exported.unlink()
        # the kit signs with this file unless told otherwise: a link, so that the private key stays in its own folder
        (keys / PUBLIC_DEFAULT_KEY).symlink_to(key)
        shop.versions["optee_os"] = _optee_version(work)
        shop.versions["optee-os"] = source.versions["optee-os"]
        shop.versions["gcc (aarch64)"] = shop.output(f"{CROSS}gcc", "-dumpfullversion").strip()

    text = "build OP-TEE OS and its TA dev kit" + ("" if crypto else ", without crypto instructions")
    return store.make("optee", text, inputs, build)


def _copy_source(shop: Workshop, source: Artifact) -> Path:
    """Copy a source tree to where it may be built."""
    target = shop.tmp / "source"
    shutil.copytree(source.path / "root", target, symlinks=True)
    return target


def _optee_version(work: Path) -> str:
    conf = (work / "conf.mk").read_text()
    major = re.search(r"^CFG_OPTEE_REVISION_MAJOR=(\d+)", conf, re.MULTILINE)
    minor = re.search(r"^CFG_OPTEE_REVISION_MINOR=(\d+)", conf, re.MULTILINE)
    extra = re.search(r"^CFG_OPTEE_REVISION_EXTRA=(\S*)", conf, re.MULTILINE)
    if not major or not minor:
        raise BuildError("the OP-TEE build names no revision in conf.mk", "this OP-TEE version is not supported")
    return f"{major.group(1)}.{minor.group(1)}.0{extra.group(1) if extra else ''}"


def trusted_firmware(store: Store, source: Artifact, optee: Artifact, u_boot: Artifact) -> Artifact:
    """Build Trusted Firmware-A with OP-TEE as BL32 and U-Boot as BL33: ``qemu_fw.rom``, a 64 MiB flash image."""
    flags = {
        "PLAT": "qemu",
        "SPD": "opteed",
        "BL32_RAM_LOCATION": "tdram",
        "QEMU_USE_GIC_DRIVER": "QEMU_GICV3",
        "DEBUG": "0",
        # GCC takes the firmware's accesses to low addresses for null pointer accesses otherwise
        "CFLAGS": "--param=min-pagesize=0",
    }
    inputs = {"source": source.identity, "optee": optee.identity, "u-boot": u_boot.identity, "flags": flags}

    def build(shop: Workshop) -> None:
        tree = _copy_source(shop, source)
        bl33 = u_boot.path / "root/usr/lib/u-boot/qemu_arm64/u-boot.bin"
        shop.run(
            "make",
            _job_flag(),
            f"CROSS_COMPILE={CROSS}",
            f"BL32={optee.path}/tee-header_v2.bin",
            f"BL32_EXTRA1={optee.path}/tee-pager_v2.bin",
            f"BL32_EXTRA2={optee.path}/tee-pageable_v2.bin",
            f"BL33={bl33}",
            *(f"{name}={value}" for name, value in flags.items() if name != "CFLAGS"),
            "all",
            "fip",
            cwd=tree,
            env={"CFLAGS": flags["CFLAGS"]},
        )
        built = tree / "build/qemu/release"
        # most of the 64 MiB are empty: keep them as a hole
        shop.run("cp", "--sparse=always", built / "qemu_fw.rom", shop.out / "qemu_fw.rom")
        shutil.copy2(built / "qemu_fw.bios", shop.out / "qemu_fw.bios")
        shop.versions.update(source.versions)
        shop.versions.update(u_boot.versions)

    return store.make("tf-a", "build Trusted Firmware-A around OP-TEE and U-Boot", inputs, build)

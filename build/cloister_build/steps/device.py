# SPDX-License-Identifier: BSD-2-Clause
"""What is built for the device besides its system: headers to cross-compile against, TAs of others, our own parts."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import uuid
from importlib.metadata import version
from pathlib import Path

from cloister_build.errors import BuildError
from cloister_build.keys import public_digest, ta_sign_key
from cloister_build.paths import REPO
from cloister_build.steps.firmware import CROSS, path_with_this_python
from cloister_build.store import Artifact, Store, Workshop

# struct shdr of OP-TEE's core/include/signed_hdr.h, little-endian: magic, image type, image size, algorithm,
# hash size, signature size; the signature follows the hash, then (not for the legacy type 0) UUID and version
SHDR = struct.Struct("<IIIIHH")
SHDR_MAGIC = 0x4F545348
SHDR_BOOTSTRAP_TA = 1
SHDR_SUBKEY = 3

ENGINE = "libcloister_engine.so"


def sysroot(store: Store, package: Artifact) -> Artifact:
    """Return headers and libraries of the device to compile against: libteec and CPython 3.13."""

    def build(shop: Workshop) -> None:
        root = package.path / "root"
        include = shop.out / "include"
        shutil.copytree(root / "usr/include", include, symlinks=True)
        libraries = shop.out / "lib"
        libraries.mkdir()
        found = list((root / "usr/lib/aarch64-linux-gnu").glob("libteec.so.2*"))
        real = next((path for path in found if not path.is_symlink()), None)
        if real is None:
            raise BuildError(f"step '{shop.step}': no libteec.so.2 in the packages", "see build/packages.lock")
        shutil.copy2(real, libraries / "libteec.so.2")
        (libraries / "libteec.so").symlink_to("libteec.so.2")
        for header in ("tee_client_api.h", "python3.13/Python.h", "aarch64-linux-gnu/python3.13/pyconfig.h"):
            if not (include / header).exists():
                raise BuildError(f"step '{shop.step}': the packages hold no {header}", "see build/packages.lock")
        # what the packages of the device hold is what the extension meets at run time
        shop.versions.update(package.versions)

    return store.make("sysroot", "collect headers to cross-compile", {"package": package.identity}, build)


def foreign_tas(store: Store, xtest: Artifact, optee: Artifact) -> Artifact:
    """Return OP-TEE's own TAs and those of its test suite, signed with the user's key instead of the public one."""

    def build(shop: Workshop) -> None:
        script = optee.path / "export-ta_arm64/scripts/sign_encrypt.py"
        tas = sorted((xtest.path / "root").rglob("*.ta"))
        if not tas:
            raise BuildError(f"step '{shop.step}': the test suite's package holds no TA", "see build/packages.lock")
        for path in tas:
            payload = ta_payload(path)
            if payload is None:
                # TAs that test chains of signing keys: they hang on a key that only the public build's OP-TEE trusts
                continue
            image, ta_version = payload
            elf = shop.tmp / f"{path.stem}.elf"
            elf.write_bytes(image)
            shop.run(
                *(sys.executable, script, "sign-enc", "--key", ta_sign_key(), "--uuid", path.stem),
                *("--ta-version", str(ta_version), "--in", elf, "--out", shop.out / path.name),
            )
        # signed with the user's key when OP-TEE was built
        for path in sorted((optee.path / "export-ta_arm64/ta").glob("*.ta")):
            shutil.copy2(path, shop.out / path.name)
        shop.versions.update(xtest.versions)

    inputs = {"xtest": xtest.identity, "optee": optee.identity, "key": public_digest(ta_sign_key())}
    return store.make("foreign-tas", "sign the test suite's TAs with your key", inputs, build)


def ta_payload(path: Path) -> tuple[bytes, int] | None:
    """Return the ELF image inside a signed, unencrypted TA and the TA's version; None when it is signed by a subkey.

    Raises BuildError for a file that is no signed TA.
    """
    data = path.read_bytes()
    wrong = BuildError(f"{path} is no signed TA", "see build/packages.lock: the package may have changed")
    if len(data) < SHDR.size:
        raise wrong
    magic, kind, size, _, hash_size, signature_size = SHDR.unpack_from(data)
    if magic != SHDR_MAGIC:
        raise wrong
    if kind == SHDR_SUBKEY:
        return None
    at = SHDR.size + hash_size + signature_size
    ta_version = 0
    if kind == SHDR_BOOTSTRAP_TA:
        if data[at : at + 16] != uuid.UUID(path.stem).bytes:
            raise wrong
        (ta_version,) = struct.unpack_from("<I", data, at + 16)
        at += 20
    elif kind != 0:
        raise wrong
    image = data[at : at + size]
    if len(image) != size or image[:4] != b"\x7fELF":
        raise wrong
    return image, ta_version


def _ours(*names: str) -> list[Path]:
    return [REPO / name for name in names]


def trusted_application(store: Store, optee: Artifact, vendor_key: str, *, aes: bool = True) -> Artifact:
    """Build our TA with the plain dev kit, signed with the user's key, with the vendor's public key inside.

    vendor_key: 32 bytes in hex. aes: the CPU has AES instructions, as QEMU's cortex-a53 has. The artifact holds
    ``<uuid>.ta`` and ``<uuid>.elf``.
    """
    kit = optee.path / "export-ta_arm64"

    def build(shop: Workshop) -> None:
        work = shop.tmp / "out"
        shop.run(*ta_make_command(REPO / "ta", kit, work, vendor_key, aes), env=path_with_this_python())
        built = sorted(work.glob("*.ta"))
        if not built:
            raise BuildError(f"step '{shop.step}': the build left no .ta file", f"look at {shop.log}")
        for path in built:
            shutil.copy2(path, shop.out / path.name)
            elf = path.with_suffix(".elf")
            if elf.exists():
                shutil.copy2(elf, shop.out / elf.name)

    inputs = {"optee": optee.identity, "vendor": vendor_key, "key": public_digest(ta_sign_key()), "aes": aes}
    return store.make("ta", "build the trusted application", inputs, build, _ours("ta"))


def ta_make_command(ta: Path, kit: Path, out: Path, vendor_key: str, aes: bool = True) -> list[str]:
    """Return the command that builds the TA, as any OP-TEE build calls it."""
    return [
        "make",
        "-C",
        str(ta),
        f"-j{os.cpu_count() or 1}",
        f"CROSS_COMPILE={CROSS}",
        f"TA_DEV_KIT_DIR={kit}",
        f"O={out}",
        f"CLOISTER_VENDOR_KEY={vendor_key}",
        f"CLOISTER_CPU_AES={'y' if aes else 'n'}",
    ]


def engine(store: Store) -> Artifact:
    """Build the engine as a shared library for the device's normal world."""

    def build(shop: Workshop) -> None:
        work = shop.tmp / "engine"
        shop.run(
            *("make", "-C", REPO / "ta/engine", f"-j{os.cpu_count() or 1}", f"CROSS_COMPILE={CROSS}", f"O={work}"),
            "aarch64",
        )
        shutil.copy2(work / "aarch64" / ENGINE, shop.out / ENGINE)

    sources = _ours("ta/engine", "ta/include")
    return store.make("engine", "build the engine for the device", {"cross": CROSS}, build, sources)


def bridge(store: Store, headers: Artifact) -> Artifact:
    """Cross-compile the cffi extension over libteec for the device's CPython."""
    sources = _ours("host/cloister/teec/build_teec.py", "host/cloister/teec/codes.py")

    def build(shop: Workshop) -> None:
        shop.run(
            *(sys.executable, "-m", "cloister.teec.build_teec"),
            *("--sysroot", headers.path, "--cc", f"{CROSS}gcc", "--out", shop.out),
            env={"PYTHONPATH": str(REPO / "host"), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        if not list(shop.out.glob("_teec*.so")):
            raise BuildError(f"step '{shop.step}': no _teec*.so was built", f"look at {shop.log}")

    inputs = {"headers": headers.identity, "cffi": version("cffi")}
    return store.make("bridge", "build the libteec bridge for the device", inputs, build, sources)

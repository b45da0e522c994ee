# SPDX-License-Identifier: BSD-2-Clause
"""The normal world's start: the kernel with its modules, and the small initrd that finds the root file system."""

from __future__ import annotations

import lzma
import re
import shutil
from pathlib import Path

from cloister_build.errors import BuildError
from cloister_build.paths import BUILD
from cloister_build.store import Artifact, Store, Workshop

GUEST = BUILD / "guest"

# Loaded by the initrd, in this order, each after what it depends on.
# ext4 asks the crypto layer for crc32c by an alias, which an initrd without modprobe cannot follow.
EARLY_MODULES = ("virtio_pci", "virtio_blk", "squashfs", "overlay", "crc32c_generic", "ext4")
# Loaded once the root file system is mounted.
LATE_MODULES = ("virtio_net", "9pnet_virtio", "9p", "optee", "optee_rng", "virtio_rng")
# Built into some kernels, or welcome but not needed.
OPTIONAL_MODULES = ("virtio_pci", "virtio_rng", "optee_rng")


def kernel(store: Store, package: Artifact) -> Artifact:
    """Return the kernel's Image and the modules that the device needs, decompressed."""

    def build(shop: Workshop) -> None:
        root = package.path / "root"
        images = list((root / "boot").glob("vmlinuz-*"))
        if len(images) != 1:
            raise BuildError(f"step '{shop.step}': no kernel in the package", "see build/packages.lock")
        image = images[0].read_bytes()
        # an arm64 Image has its magic at 56 (Documentation/arch/arm64/booting.rst); U-Boot boots no EFI zboot file
        if image[56:60] != b"ARM\x64":
            raise BuildError(f"step '{shop.step}': {images[0].name} is no uncompressed Image", "pin an older kernel")
        (shop.out / "Image").write_bytes(image)
        found = {_module_name(path): path for path in root.rglob("*.ko*")}
        order: list[str] = []
        for name in (*EARLY_MODULES, *LATE_MODULES):
            _add_module(shop, name, found, order)
        early: list[str] = []
        for name in EARLY_MODULES:
            _add_module(shop, name, found, early)
        target = shop.out / "modules"
        target.mkdir()
        for name in order:
            (target / f"{name}.ko").write_bytes(_module_bytes(found[name]))
        (target / "early").write_text("\n".join(early) + "\n")
        (target / "late").write_text("\n".join(name for name in order if name not in early) + "\n")
        release = images[0].name.removeprefix("vmlinuz-")
        (shop.out / "release").write_text(release + "\n")
        for tree in root.rglob("bcm2837-rpi-3-b.dtb"):
            shutil.copy2(tree, shop.out / tree.name)
        shop.versions["linux"] = f"{release} ({package.versions['linux-image-arm64']})"

    inputs = {"package": package.identity, "early": EARLY_MODULES, "late": LATE_MODULES}
    return store.make("kernel", "take kernel and modules", inputs, build)


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _module_bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _add_module(shop: Workshop, name: str, found: dict[str, Path], order: list[str]) -> None:
    """Add a module to the order of loading, after what it depends on; built-in ones are no files."""
    key = name.replace("-", "_")
    if key in order:
        return
    path = found.get(key)
    if path is None:
        if key in OPTIONAL_MODULES:
            return
        raise BuildError(f"step '{shop.step}': the kernel has no module {name}", "pin another kernel in packages.lock")
    data = _module_bytes(path)
    if match := re.search(rb"\0depends=([^\0]*)\0", data):
        for dependency in match.group(1).decode().split(","):
            if dependency:
                _add_module(shop, dependency, found, order)
    # soft dependencies that the file system needs before it mounts (ext4 needs its checksum)
    for soft in re.findall(rb"\0softdep=pre: ([^\0]*)\0", data):
        for dependency in soft.decode().split():
            if dependency.replace("-", "_") in found:
                _add_module(shop, dependency, found, order)
    order.append(key)


def initrd(store: Store, kernel_image: Artifact, guest: Artifact) -> Artifact:
    """Make the initrd: busybox, the kernel's modules and a script."""

    def build(shop: Workshop) -> None:
        root = shop.tmp / "initrd"
        for folder in ("bin", "dev", "proc", "sys", "run", "new", "modules"):
            (root / folder).mkdir(parents=True)
        shutil.copy2(guest.path / "root/usr/bin/busybox", root / "bin/busybox")
        (root / "bin/sh").symlink_to("busybox")
        shutil.copytree(kernel_image.path / "modules", root / "modules", dirs_exist_ok=True)
        shutil.copy2(GUEST / "initrd-init", root / "init")
        (root / "init").chmod(0o755)
        _pack_cpio(shop, root, shop.out / "initrd.cpio")

    inputs = {"kernel": kernel_image.identity, "guest": guest.identity}
    return store.make("initrd", "make the initrd", inputs, build, [GUEST / "initrd-init"])


def _pack_cpio(shop: Workshop, root: Path, target: Path) -> None:
    """Pack a folder as an uncompressed cpio archive, all owned by root: the kernel unpacks it fastest."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    listing = shop.tmp / "names"
    listing.write_text("\n".join(names) + "\n")
    script = 'cd "$1" && cpio --quiet -o -H newc -R 0:0 --reproducible < "$2" > "$3"'
    shop.run("sh", "-c", script, "sh", root, listing, target)

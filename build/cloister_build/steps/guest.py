# SPDX-License-Identifier: BSD-2-Clause
"""The normal world: kernel, the small initrd that finds the root file system, and the read-only root file system.

Packages are unpacked and never configured: none of their scripts runs, and no foreign program is executed.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from cloister_build.errors import BuildError
from cloister_build.paths import BUILD
from cloister_build.steps.elf import unresolved_libraries
from cloister_build.store import Artifact, Store, Workshop

GUEST = BUILD / "guest"
LIB = "usr/lib/aarch64-linux-gnu"

# Loaded by the initrd, in this order, each after what it depends on.
# ext4 asks the crypto layer for crc32c by an alias, which an initrd without modprobe cannot follow.
EARLY_MODULES = ("virtio_pci", "virtio_blk", "squashfs", "overlay", "crc32c_generic", "ext4")
LATE_MODULES = ("virtio_net", "9pnet_virtio", "9p", "optee", "optee_rng", "virtio_rng")

# What the device never uses: documentation, tests, compilers, tools with no purpose there.
UNWANTED = (
    "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug",
    "usr/share/python3", "usr/share/applications", "usr/share/pixmaps", "usr/share/binfmts", "usr/share/doc-base",
    "usr/share/polkit-1", "usr/lib/systemd", "usr/lib/udev", "etc/systemd", "etc/init.d", "etc/default", "usr/include",
    "usr/lib/aarch64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/audit", "usr/lib/locale",
    "usr/lib/aarch64-linux-gnu/ossl-modules", "usr/lib/aarch64-linux-gnu/engines-3",
)  # fmt: skip
UNWANTED_PYTHON = (
    "idlelib", "tkinter", "turtledemo", "test", "ensurepip", "lib2to3", "pydoc_data", "venv", "wsgiref", "sqlite3",
    "curses", "dbm", "config-3.13-aarch64-linux-gnu", "_pyrepl", "__phello__", "pyclbr.py", "turtle.py", "doctest.py",
)  # fmt: skip


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
        if key in ("virtio_pci", "virtio_rng", "optee_rng"):
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


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


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
    shop.run(
        "sh", "-c", 'cd "$1" && cpio --quiet -o -H newc -R 0:0 --reproducible < "$2" > "$3"', "sh", root, listing, target
    )


def root_file_system(store: Store, guest: Artifact, xtest: Artifact, compiler: Artifact) -> Artifact:
    """Make the read-only root file system: an uncompressed squashfs image, all files owned by root."""

    def build(shop: Workshop) -> None:
        root = shop.tmp / "rootfs"
        shutil.copytree(guest.path / "root", root, symlinks=True)
        _merge_usr(root)
        for library in (xtest.path / "root" / LIB).glob("libckteec.so*"):
            shutil.copy2(library, root / LIB / library.name, follow_symlinks=False)
        shutil.copy2(xtest.path / "root/usr/bin/xtest", root / "usr/bin/xtest")
        plugins = xtest.path / "root/usr/lib/tee-supplicant"
        if plugins.exists():
            shutil.copytree(plugins, root / "usr/lib/tee-supplicant", dirs_exist_ok=True)
        _link_alternatives(root)
        _trim(root)
        _skeleton(root)
        missing = unresolved_libraries(root)
        if missing:
            raise BuildError(
                f"step '{shop.step}': libraries are missing in the root file system: {', '.join(missing)}",
                "add the package that holds them to the group 'guest' of build/packages.lock",
            )
        _compile_python(shop, root, compiler)
        shop.run(
            # no compression: the image lies in the host's page cache, and the emulated CPU would have to inflate it
            *("mksquashfs", root, shop.out / "rootfs.img", "-noappend", "-all-root", "-no-progress", "-no-xattrs"),
            *("-noI", "-noId", "-noD", "-noF", "-noX", "-processors", "2"),
        )
        shop.versions.update(guest.versions)
        shop.versions.update({f"{k} (xtest)": v for k, v in xtest.versions.items()})

    inputs = {"guest": guest.identity, "xtest": xtest.identity, "compiler": compiler.identity}
    sources = [GUEST / "rcS", Path(__file__).with_name("elf.py")]
    return store.make("rootfs", "make the root file system", inputs, build, sources)


def _merge_usr(root: Path) -> None:
    """Make /bin, /sbin and /lib links into /usr, as Debian's base-files does."""
    for name in ("bin", "sbin", "lib"):
        old = root / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not old.is_symlink():
            old.symlink_to(f"usr/{name}")


def _link_alternatives(root: Path) -> None:
    """Make the links that update-alternatives would make when the packages were configured."""
    for folder, name in (("blas", "libblas.so.3"), ("lapack", "liblapack.so.3")):
        (root / LIB / name).symlink_to(f"{folder}/{name}")
    sftp = root / "usr/lib/sftp-server"
    if not sftp.is_symlink() and not sftp.exists():
        sftp.symlink_to("openssh/sftp-server")
    for name in ("python3", "python"):
        link = root / "usr/bin" / name
        if not link.is_symlink() and not link.exists():
            link.symlink_to("python3.13")


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            path.unlink()


def _trim(root: Path) -> None:
    _remove(root / name for name in UNWANTED)
    stdlib = root / "usr/lib/python3.13"
    _remove(stdlib / name for name in UNWANTED_PYTHON)
    for pattern in ("_sqlite3*", "_tkinter*", "_curses*", "readline*", "_test*", "_dbm*", "_gdbm*", "xxlimited*", "_ctypes_test*"):
        _remove((stdlib / "lib-dynload").glob(pattern))
    packages = root / "usr/lib/python3/dist-packages"
    _remove(packages.glob("*.egg-info"))
    numpy = packages / "numpy"
    _remove(sorted((path for path in numpy.rglob("tests") if path.is_dir()), reverse=True))
    _remove(numpy.rglob("*.pyi"))
    _remove([numpy / "f2py", numpy / "_core/include", numpy / "_core/lib", numpy / "distutils", numpy / "doc"])
    _remove(sorted((path for path in root.rglob("__pycache__")), reverse=True))


def _skeleton(root: Path) -> None:
    """Add what no package brings: mount points, accounts, the start script."""
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt/share", "var/lib/tee", "var/log", "root/.ssh", "lib/optee_armtz", "etc/dropbear"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "root").chmod(0o700)
    (root / "root/.ssh").chmod(0o700)
    (root / "tmp").chmod(0o1777)
    _write(root / "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    # '*': no password opens the account, a key does
    _write(root / "etc/shadow", "root:*:20000:0:99999:7:::\n", 0o600)
    _write(root / "etc/group", "root:x:0:\n")
    _write(root / "etc/shells", "/bin/sh\n")
    _write(root / "etc/hosts", "127.0.0.1 localhost cloister\n")
    _write(root / "etc/hostname", "cloister\n")
    _write(root / "etc/ld.so.conf", f"/{LIB}\n")
    _write(root / "etc/profile", "export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/mnt/share/python\n")
    busybox = root / "usr/bin/busybox"
    for applet in APPLETS:
        link = root / "usr/bin" / applet
        if not link.is_symlink() and not link.exists():
            link.symlink_to("busybox")
    if not busybox.exists():
        raise BuildError("the guest packages hold no busybox", "see build/packages.lock")
    (root / "usr/sbin/init").unlink(missing_ok=True)
    shutil.copy2(GUEST / "rcS", root / "usr/sbin/init")
    (root / "usr/sbin/init").chmod(0o755)


APPLETS = (
    "sh ash awk basename cat chmod chown cmp cp cut date dd df diff dirname dmesg du echo env expr false find findfs free "
    "grep gunzip gzip head hexdump hostname id ifconfig insmod ip kill killall less ln logger ls lsmod md5sum mkdir mkfifo "
    "mknod mktemp modprobe more mount mountpoint mv nc netstat nohup nproc od pgrep pidof ping pkill poweroff printenv "
    "printf ps pwd readlink realpath reboot rm rmdir rmmod route sed seq setsid sha256sum sleep sort stat stty sync "
    "sysctl tail tar tee test time timeout top touch tr true tty umount uname uniq uptime vi wc wget which xargs xxd yes"
).split()


def _compile_python(shop: Workshop, root: Path, compiler: Artifact) -> None:
    """Compile all Python modules of the image with a CPython of the same version that runs on this machine.

    The code files are of the 'unchecked' kind, so that the device does not look at the sources' times (PEP 552).
    """
    host = compiler.path / "root"
    _merge_usr_links(host, shop.tmp / "compiler")
    tool = shop.tmp / "compiler"
    loader = next(iter([*tool.glob("lib64/ld-linux-*.so.*"), *tool.glob("usr/lib*/ld-linux-*.so.*"), *tool.glob("usr/lib/*/ld-linux-*.so.*")]))
    libraries = [*tool.glob("usr/lib/*-linux-gnu")]
    shop.run(
        *(loader, "--library-path", ":".join(map(str, libraries)), tool / "usr/bin/python3.13"),
        *("-S", "-E", GUEST / "compile.py", root, "usr/lib/python3.13", "usr/lib/python3/dist-packages"),
        env={"PYTHONHOME": str(tool / "usr"), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def _merge_usr_links(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
    _merge_usr(target)


def guest_sources() -> list[Path]:
    """Return the scripts that go into the device."""
    return [GUEST / name for name in sorted(os.listdir(GUEST))]

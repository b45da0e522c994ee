# SPDX-License-Identifier: BSD-2-Clause
"""The normal world's read-only root file system.

Packages are unpacked and never configured: none of their scripts runs, and no foreign program is executed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from cloister_build.errors import BuildError
from cloister_build.paths import BUILD
from cloister_build.steps.elf import unresolved_libraries
from cloister_build.store import Artifact, Store, Workshop

GUEST = BUILD / "guest"
LIB = "usr/lib/aarch64-linux-gnu"
EMPTY_FOLDERS = (
    "dev", "proc", "sys", "run", "tmp", "mnt/share", "var/lib/tee", "var/log", "root/.ssh", "lib/optee_armtz",
    "etc/dropbear",
)  # fmt: skip

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
UNWANTED_EXTENSIONS = ("_sqlite3*", "_tkinter*", "_curses*", "readline*", "_test*", "_dbm*", "_gdbm*", "xxlimited*")


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


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
    sources = [GUEST / "rcS", GUEST / "applets", GUEST / "compile.py"]
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
    for pattern in UNWANTED_EXTENSIONS:
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
    for name in EMPTY_FOLDERS:
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
    for applet in (GUEST / "applets").read_text().split():
        link = root / "usr/bin" / applet
        if not link.is_symlink() and not link.exists():
            link.symlink_to("busybox")
    if not busybox.exists():
        raise BuildError("the guest packages hold no busybox", "see build/packages.lock")
    (root / "usr/sbin/init").unlink(missing_ok=True)
    shutil.copy2(GUEST / "rcS", root / "usr/sbin/init")
    (root / "usr/sbin/init").chmod(0o755)


def _compile_python(shop: Workshop, root: Path, compiler: Artifact) -> None:
    """Compile all Python modules of the image with a CPython of the same version that runs on this machine.

    The code files are of the 'unchecked' kind, so that the device does not look at the sources' times (PEP 552).
    """
    tool = shop.tmp / "compiler"
    shutil.copytree(compiler.path / "root", tool, symlinks=True)
    _merge_usr(tool)
    # amd64's libc6 has its loader in usr/lib64, arm64's in usr/lib
    loader = min(tool.glob("usr/lib*/ld-linux-*.so.*"))
    libraries = [*tool.glob("usr/lib/*-linux-gnu")]
    shop.run(
        *(loader, "--library-path", ":".join(map(str, libraries)), tool / "usr/bin/python3.13"),
        *("-S", "-E", GUEST / "compile.py", root, "usr/lib/python3.13", "usr/lib/python3/dist-packages"),
        env={"PYTHONHOME": str(tool / "usr"), "PYTHONDONTWRITEBYTECODE": "1"},
    )

# SPDX-License-Identifier: BSD-2-Clause
"""What the benchmark puts on the device: its client in C, and onnxruntime's wheel. Both are made once and cached."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cloister_bench.errors import BenchError
from cloister_build.paths import REPO, firmware_index
from cloister_build.report import Report
from cloister_build.steps.firmware import CROSS
from cloister_build.store import Store, Workshop

GUEST = Path(__file__).parent / "guest"
CLIENT = "bench_client"
#: The device's CPython, and what its C library can load.
_TAGS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64")
_PYTHON = "313"
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


def build_client(root: Path, report: Report) -> Path:
    """The cross-compiled client.

    Raises:
        BenchError: the firmware is not built; BuildError: it does not compile.
    """
    try:
        sysroot = Path(json.loads(firmware_index().read_text())["sysroot"])
    except (OSError, ValueError, KeyError) as error:
        raise BenchError("the firmware index names no sysroot", "run: python -m cloister_build all") from error
    sources = [GUEST / name for name in ("main.c", "boundary.c", "model.c", "pair.c", "plain.c")]
    headers = [REPO / "ta" / "include", REPO / "ta" / "engine" / "engine.h"]
    headers += [GUEST / name for name in ("client.h", "model.h", "plain.h")]

    def build(shop: Workshop) -> None:
        includes = [f"-I{path}" for path in (sysroot / "include", REPO / "ta" / "include", REPO / "ta" / "engine")]
        libraries = (f"-L{sysroot / 'lib'}", "-lteec", "-ldl")
        shop.run(f"{CROSS}gcc", *_FLAGS, *includes, "-o", shop.out / CLIENT, *sources, *libraries)

    inputs = {"sysroot": sysroot.name, "cross": CROSS}
    made = Store(root, report).make("bench-client", "build the client", inputs, build, [*sources, *headers])
    return made.path / CLIENT


def onnxruntime_version() -> str:
    """The version that this environment has: the device gets the same.

    Raises:
        BenchError: it has none.
    """
    try:
        return version("onnxruntime")
    except PackageNotFoundError as error:
        raise BenchError("onnxruntime is not installed here", "run build/setup") from error


def fetch_onnxruntime(root: Path, report: Report) -> Path:
    """The directory that holds onnxruntime's package for the device; downloaded once, by pip.

    Raises:
        BuildError: pip cannot fetch it.
    """
    wanted = onnxruntime_version()

    def build(shop: Workshop) -> None:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "-q"]
        command += ["--only-binary=:all:", "--implementation", "cp", "--abi", f"cp{_PYTHON}"]
        command += ["--python-version", _PYTHON, *(f"--platform={tag}" for tag in _TAGS)]
        shop.run(
            *command,
            *("-d", shop.tmp, f"onnxruntime=={wanted}"),
            remedy="check the network and pip's index, or leave onnxruntime out: --without-onnxruntime",
        )
        (wheel,) = shop.tmp.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                # What inference needs: the package's front and its native part.
                if name == "onnxruntime/__init__.py" or name.startswith("onnxruntime/capi/"):
                    archive.extract(name, shop.out)
        shop.versions["onnxruntime"] = wanted

    store = Store(root, report)
    inputs = {"version": wanted, "python": _PYTHON, "tags": list(_TAGS)}
    return store.make("bench-onnxruntime", "fetch onnxruntime for the device", inputs, build).path


def below(directory: Path, prefix: str) -> dict[str, Path]:
    """All files below a directory, by their path behind a prefix."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder) / name
            found[f"{prefix}/{path.relative_to(directory)}"] = path
    return found

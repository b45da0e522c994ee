# SPDX-License-Identifier: BSD-2-Clause
"""What a device needs of this package: files by their path on the device, below one directory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from cloister.device.errors import DeviceError
from cloister.wire import HEADERS, header_dir, python_module

PACKAGE = Path(__file__).resolve().parents[1]

#: Modules that run on a device; they import nothing but each other, the standard library and cffi's back end.
MODULES = (
    "__init__.py",
    "backbone.py",
    "errors.py",
    "wire.py",
    "device/__init__.py",
    "device/agent.py",
    "device/frames.py",
    "device/model_runner.py",
    "device/normal_world.py",
    "device/pair_runner.py",
    "teec/*.py",
)


def device_files(engine: Path | None = None, teec: Path | None = None) -> dict[str, bytes]:
    """The files by relative path: `python/...` for PYTHONPATH, `lib/...` for the engine.

    Args:
        engine: the engine as a shared library for the device.
        teec: directory with the `_teec` extension for the device.
    """
    files: dict[str, bytes] = {}
    for pattern in MODULES:
        found = sorted(PACKAGE.glob(pattern))
        if not found:
            raise DeviceError(f"{PACKAGE / pattern} is missing", "install Cloister again")
        for path in found:
            files[f"python/cloister/{path.relative_to(PACKAGE)}"] = path.read_bytes()
    for name in HEADERS:
        files[f"python/cloister/include/{name}"] = (header_dir() / name).read_bytes()
    files["python/cloister/_wire.py"] = python_module().encode()
    if teec is not None:
        extensions = sorted(teec.glob("_teec*.so"))
        if not extensions:
            raise DeviceError(f"{teec} holds no _teec extension", "run: python -m cloister_build firmware")
        files[f"python/{extensions[0].name}"] = extensions[0].read_bytes()
    if engine is not None:
        files["lib/libcloister_engine.so"] = engine.read_bytes()
    return files


def digest(files: Mapping[str, bytes]) -> str:
    """16 characters that change with any of the files."""
    state = hashlib.sha256()
    for name, data in sorted(files.items()):
        state.update(f"{name}:{len(data)}:".encode())
        state.update(data)
    return state.hexdigest()[:16]


def agent_command(directory: str) -> str:
    """The shell command that starts the agent from staged files on the device."""
    # Code files are written beside the modules: without them each start costs an emulated CPU seconds.
    return (
        f"cd / && PYTHONPATH={directory}/python LD_LIBRARY_PATH={directory}/lib PYTHONDONTWRITEBYTECODE= "
        "exec python3 -m cloister.device.agent"
    )

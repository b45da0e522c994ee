# SPDX-License-Identifier: BSD-2-Clause
"""The engine on this machine: the TA's own C code as a native library, for tests and pure host runs.

Nothing here is protected and nothing runs in OP-TEE.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import cffi

from cloister.errors import CloisterError
from cloister.tensors import Array, TensorInfo, prepare_inputs, read_output
from cloister.wire import cffi_part, engine_header, header_dir

LIBRARY = "libcloister_engine.so"
ALIGN = 64
NO_OP = 0xFFFFFFFF


class EngineError(CloisterError):
    """The native engine is missing, or refuses a partition."""


class Runnable(Protocol):
    """What the engine needs of a compiled model."""

    @property
    def partitions(self) -> Sequence[bytes]:
        """Plain partitions in order."""

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """Inputs."""

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """Outputs."""

    @property
    def arena_size(self) -> int:
        """Bytes of arena."""


def _sources(room: str) -> Path | None:
    directory = Path(__file__).resolve().parents[2] / "ta" / room
    return directory if (directory / "Makefile").is_file() else None


def cache_dir(sources: Path) -> Path:
    """Where a native library is built: in the cache, apart for each checkout, as one would undo the other's work."""
    base = os.environ.get("CLOISTER_CACHE")
    root = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloister"
    return root / "native" / f"{sources.name}-{hashlib.sha256(bytes(sources)).hexdigest()[:12]}"


def find_library() -> Path:
    """The native engine: ``CLOISTER_ENGINE``, or the checkout's sources built (again where they changed).

    Raises:
        EngineError: there are no sources, or they do not build.
    """
    return build_library("engine", LIBRARY, "CLOISTER_ENGINE")


def build_library(room: str, library: str, override: str) -> Path:
    """A part of the TA as a native library, built by its own makefile where sources changed.

    Args:
        room: directory below ``ta``.
        library: the file that ``make native`` leaves.
        override: environment variable that names a built one.

    Raises:
        EngineError: there are no sources, or they do not build.
    """
    chosen = os.environ.get(override)
    if chosen:
        if not Path(chosen).is_file():
            raise EngineError(f"{override}={chosen} does not exist", f"set it to a built {library}")
        return Path(chosen)
    sources = _sources(room)
    if sources is None:
        raise EngineError(f"the native {library} is not installed", f"run from a checkout, or set {override} to it")
    out = cache_dir(sources)
    out.mkdir(parents=True, exist_ok=True)
    command = ["make", "-C", str(sources), f"O={out}", "native"]
    with (out / "lock").open("w") as lock:
        # Two processes that build into the same directory would read each other's half-written objects.
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            made = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise EngineError(f"cannot run make: {error}", "install make and gcc") from error
    if made.returncode:
        tail = "\n".join((made.stdout + made.stderr).splitlines()[-15:])
        raise EngineError(
            f"the native {library} does not build:\n{tail}", f"see `{' '.join(command)}`; it needs gcc and libsimde-dev"
        )
    if not (out / library).is_file():
        raise EngineError(f"`{' '.join(command)}` made no {library}", f"look at ta/{room}/Makefile")
    return out / library


@cache
def _load(path: str) -> tuple[Any, Any]:
    ffi = cffi.FFI()
    ffi.cdef(cffi_part((header_dir() / "cloister_format.h").read_text(encoding="utf-8")))
    ffi.cdef(cffi_part(engine_header().read_text(encoding="utf-8")))
    return ffi, ffi.dlopen(path)


class NativeEngine:
    """Runs compiled models with the native build of the engine."""

    def __init__(self, library: Path | None = None) -> None:
        """Loads (and builds where needed) the library.

        Raises:
            EngineError: there is none and it cannot be built.
        """
        path = library or find_library()
        self._ffi, self._lib = _load(str(path))
        self._statuses = self._ffi.typeof("enum cl_status").elements

    def check(self, partition: bytes, arena_size: int) -> None:
        """Has the engine check one plain partition.

        Raises:
            EngineError: it refuses; the message names the status and the kernel's index.
        """
        self._check(self._aligned(partition), len(partition), arena_size, "partition")

    def unlock(self, partition: bytes, password: bytes) -> bytes:
        """A plain partition with a password folded into its weights, as the TA does when it opens a resident one.

        Args:
            partition: plain.
            password: ``struct cl_password`` and what follows it (:func:`cloister.layers.pack_password`).

        Raises:
            EngineError: the engine refuses the password or the partition.
        """
        words = self._password(password)
        plain = self._aligned(partition)
        status = self._lib.cl_partition_unlock(plain, len(partition), words)
        if status:
            raise EngineError(f"the partition is refused: {self._statuses.get(status, status)}")
        return bytes(self._ffi.buffer(plain, len(partition)))

    def run(
        self,
        model: Runnable,
        inputs: Mapping[str, Any] | Sequence[Any] | Array,
        password: bytes | None = None,
    ) -> dict[str, Array]:
        """Outputs by name; inputs as :func:`cloister.tensors.prepare_inputs` takes them.

        The arena starts filled with a pattern of NaN, so that memory read before it is written shows. With a
        password (as for :meth:`unlock`) every partition is opened as the TA opens one that it streams.

        Raises:
            InputError: an input is missing or of another dtype or shape.
            EngineError: the engine refuses a partition or the password.
        """
        data = prepare_inputs(model.inputs, inputs)
        ffi = self._ffi
        words = ffi.NULL if password is None else self._password(password)
        scaled, failed = ffi.new("struct cl_scaled *"), ffi.new("uint32_t *")
        arena = self._aligned(b"\xff" * max(model.arena_size, 1))
        view = ffi.buffer(arena, max(model.arena_size, 1))
        for info, value in zip(model.inputs, data, strict=True):
            view[info.offset : info.offset + info.size] = value
        for index, plain in enumerate(model.partitions):
            partition = self._aligned(plain)
            status = self._lib.cl_partition_open(partition, len(plain), model.arena_size, words, scaled, failed)
            self._raise(status, failed[0], f"partition {index}")
            status = self._lib.cl_partition_run_scaled(partition, arena, scaled, ffi.NULL, ffi.NULL)
            if status:
                raise EngineError(f"partition {index} failed: {self._statuses.get(status, status)}")
        return {info.name: read_output(info, view[info.offset : info.offset + info.size]) for info in model.outputs}

    def _password(self, password: bytes) -> Any:
        words = self._aligned(password)
        status = self._lib.cl_password_check(words, len(password))
        if status:
            raise EngineError(f"the password is refused: {self._statuses.get(status, status)}")
        return words

    def _check(self, partition: Any, size: int, arena_size: int, what: str) -> None:
        failed = self._ffi.new("uint32_t *")
        self._raise(self._lib.cl_partition_check(partition, size, arena_size, failed), failed[0], what)

    def _raise(self, status: int, failed: int, what: str) -> None:
        if status:
            where = "header" if failed == NO_OP else f"kernel {failed}"
            raise EngineError(f"{what} is refused: {self._statuses.get(status, status)} at {where}")

    def _aligned(self, data: bytes) -> Any:
        """A copy of ``data`` at an aligned address; lives as long as what is returned."""
        ffi = self._ffi
        block = ffi.new("uint8_t[]", len(data) + ALIGN)
        start = -int(ffi.cast("uintptr_t", block)) % ALIGN
        ffi.buffer(block)[start : start + len(data)] = data
        return ffi.gc(block + start, lambda _: block)

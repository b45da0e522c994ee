# SPDX-License-Identifier: BSD-2-Clause
"""Shared memory blocks, registered or allocated."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cloister.teec.codes import SUCCESS, MemFlag, Origin
from cloister.teec.errors import ArgumentError, ClosedError, make_error
from cloister.teec.native import Handle, load

if TYPE_CHECKING:
    from cloister.teec.session import Context

#: A direction as the client sees it: "in" is read by the TA, "out" is written by it.
DIRECTIONS = {"in": int(MemFlag.INPUT), "out": int(MemFlag.OUTPUT), "inout": MemFlag.INPUT | MemFlag.OUTPUT}


def direction_flags(direction: str) -> int:
    """The ``TEEC_MEM_*`` flags of "in", "out" or "inout".

    Raises:
        ArgumentError: it is another word.
    """
    try:
        return DIRECTIONS[direction]
    except (KeyError, TypeError):
        raise ArgumentError(f"direction {direction!r}", 'use "in", "out" or "inout"') from None


def pin(buffer: Any, direction: str) -> Any:
    """cffi's ``char[]`` over the memory of ``buffer``, which cannot be resized until it is released.

    Raises:
        ArgumentError: ``buffer`` has no contiguous memory, or is read-only although the TA is to write it.
    """
    ffi, _ = load()
    direction_flags(direction)
    writable = direction != "in"
    try:
        return ffi.from_buffer("char[]", buffer, require_writable=writable)
    except (TypeError, ValueError, BufferError) as error:
        wanted = "writable, contiguous" if writable else "contiguous"
        raise ArgumentError(
            f'{type(buffer).__name__} cannot be used as "{direction}" memory: {error}',
            f"pass a {wanted} buffer, such as a bytearray, an mmap or numpy.ascontiguousarray(x)",
        ) from error


class SharedMemory:
    """A block of memory that a context shares with the TEE.

    Keep one for as long as it is of use: to refer to it costs nothing, whereas a temporary memory is registered
    again at each call.

    Made by :meth:`register` or :meth:`allocate`; close it, or use it as a context manager. A registered block is
    the caller's own buffer, which stays locked against resizing until close. An allocated block lives until it
    is closed *and* the last memoryview of it is gone, so that no view ever points to memory that was given back.

    >>> with Context() as context, context.allocate(4096) as block:      # doctest: +SKIP
    ...     block.view[:5] = b"hello"

    Attributes:
        size: bytes.
        direction: "in", "out" or "inout".
    """

    def __init__(
        self, context: Context, native: Any, direction: str, exporter: Any, let_go: Callable[[], None]
    ) -> None:
        _, lib = load()
        self.size: int = int(native.size)
        self.direction = direction
        self._native = native
        # In a box, so that closing can empty it: this object then no longer counts as a user of the memory.
        self._exporter = [exporter]
        self._read_only = False

        def free() -> None:
            lib.TEEC_ReleaseSharedMemory(native)
            let_go()

        try:
            self._handle = Handle(f"shared memory of {self.size} bytes", free, context.handle, self._exporter.clear)
        except ClosedError:
            free()
            raise
        weakref.finalize(self, self._handle.close)

    @classmethod
    def register(cls, context: Context, buffer: Any, direction: str = "inout") -> SharedMemory:
        """Share an existing buffer, without a copy where the TEE can map it (OP-TEE: any writable memory).

        Args:
            context: to share it in.
            buffer: anything with contiguous memory of at least one byte: bytearray, numpy array, mmap.
            direction: what the TA may do with it; a read-only buffer, such as bytes, can only be "in", and
                libteec then copies it at each call.

        Raises:
            ArgumentError: the buffer is empty, not contiguous, or read-only and not for "in".
            TeecError: the TEE refused.
        """
        ffi, lib = load()
        data = pin(buffer, direction)
        try:
            if not len(data):
                raise ArgumentError("an empty buffer cannot be registered", "pass at least one byte")
            native = ffi.new("TEEC_SharedMemory *")
            native.buffer, native.size, native.flags = data, len(data), direction_flags(direction)
            # An export of its own for the views: they may outlive the registration.
            exporter = ffi.buffer(pin(buffer, direction))
            with context.handle.use():
                code = lib.TEEC_RegisterSharedMemory(context.native, native)
                if code != SUCCESS:
                    raise make_error(code, Origin.API, f"TEEC_RegisterSharedMemory({len(data)} bytes)")
                block = cls(context, native, direction, exporter, lambda: ffi.release(data))
                block._read_only = memoryview(buffer).readonly  # cffi's own buffers are always writable
                return block
        except BaseException:
            ffi.release(data)
            raise

    @classmethod
    def allocate(cls, context: Context, size: int, direction: str = "inout") -> SharedMemory:
        """Let the implementation allocate ``size`` bytes of memory that it can share without a copy.

        Raises:
            ArgumentError: the size is not at least 1.
            TeecError: the TEE refused, :class:`OutOfMemory` above all.
        """
        ffi, lib = load()
        flags = direction_flags(direction)
        if size < 1:
            raise ArgumentError(f"shared memory of {size} bytes", "ask for at least one byte")
        native = ffi.new("TEEC_SharedMemory *")
        native.size, native.flags = size, flags
        with context.handle.use():
            code = lib.TEEC_AllocateSharedMemory(context.native, native)
            if code != SUCCESS:
                raise make_error(code, Origin.API, f"TEEC_AllocateSharedMemory({size} bytes)")
            exporter = ffi.buffer(native.buffer, size)
            block = cls(context, native, direction, exporter, lambda: None)
            # Every memoryview and every array on top of one keeps the exporter alive, and so the memory.
            block._handle.hold()
            weakref.finalize(exporter, block._handle.drop).atexit = False
            return block

    @property
    def view(self) -> memoryview:
        """The block's bytes, without a copy; writing to it writes to what the TA sees.

        Raises:
            ClosedError: the block was closed.
        """
        exporter: Any = next(iter(self._exporter), None)
        self._handle.check()
        view = memoryview(exporter)
        return view.toreadonly() if self._read_only else view

    @property
    def handle(self) -> Handle:
        """The native object's life; for the bridge itself."""
        return self._handle

    @property
    def native(self) -> Any:
        """``TEEC_SharedMemory *``; for the bridge itself."""
        return self._native

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its context was."""
        return self._handle.closed

    def close(self) -> None:
        """Give the block back; again: nothing."""
        self._handle.close()

    def __len__(self) -> int:
        return self.size

    def __enter__(self) -> SharedMemory:
        self._handle.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

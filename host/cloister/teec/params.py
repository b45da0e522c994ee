# SPDX-License-Identifier: BSD-2-Clause
"""The parameters of an operation: values, temporary memory, and registered memory whole or in part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from cloister.teec.codes import MemFlag, ParamType
from cloister.teec.errors import ArgumentError
from cloister.teec.memory import SharedMemory, direction_flags, pin
from cloister.teec.native import load

#: A plain number: arithmetic on enumerations costs thousands of instructions in each call.
OUTPUT = int(MemFlag.OUTPUT)

#: Undoes one step of preparing a parameter.
Undo = Callable[[], None]


class ValuePair(NamedTuple):
    """The two 32-bit numbers that a TA returned."""

    a: int
    b: int


class Parameter:
    """Base of the parameters; the bridge calls :meth:`prepare` before and :meth:`result` after each call."""

    direction: str

    def prepare(self, slot: Any, undo: list[Undo]) -> int:
        """Fill ``slot`` (``TEEC_Parameter *``), append to ``undo`` what ends the call, return the parameter's type."""
        raise NotImplementedError

    def result(self, slot: Any) -> Any:
        """What the TA returned in this parameter, or None for an input."""
        raise NotImplementedError

    def capacity(self) -> int:
        """Bytes that the TA may write; 0 for a parameter that is no output memory."""
        return 0

    def size_after(self, slot: Any) -> int:
        """The size that the TA set for an output memory."""
        del slot  # a value has none
        return 0


class Value(Parameter):
    """Two unsigned 32-bit numbers.

    Args:
        a: first number, 0 to 2**32 - 1.
        b: second number.
        direction: "in", "out" or "inout"; after a call with the latter two, ``a`` and ``b`` are the TA's.

    Raises:
        ArgumentError: a number that does not fit, or another direction.
    """

    def __init__(self, a: int = 0, b: int = 0, direction: str = "in") -> None:
        for name, number in (("a", a), ("b", b)):
            if not 0 <= number <= 0xFFFFFFFF:
                raise ArgumentError(f"value {name} = {number}", "values are unsigned numbers of 32 bits")
        self.a, self.b, self.direction = int(a), int(b), direction
        self._flags = direction_flags(direction)
        self._kind = int(ParamType.VALUE_INPUT) - int(MemFlag.INPUT) + self._flags

    def prepare(self, slot: Any, undo: list[Undo]) -> int:
        """See :class:`Parameter`."""
        del undo  # nothing is taken
        value = slot.value
        value.a, value.b = self.a, self.b
        return self._kind

    def result(self, slot: Any) -> ValuePair | None:
        """The pair of numbers that the TA returned."""
        if not self._flags & OUTPUT:
            return None
        value = slot.value
        self.a, self.b = value.a, value.b
        return ValuePair(self.a, self.b)

    def __repr__(self) -> str:
        return f"Value({self.a:#x}, {self.b:#x}, {self.direction!r})"


class TempMemory(Parameter):
    """Memory that is shared for the length of one call.

    Args:
        buffer: contiguous memory (bytes only for "in"); a number of bytes to make a zeroed bytearray of; or
            None for a null reference, which some TAs take as the question for a size.
        direction: "in", "out" or "inout".

    Attributes:
        updated_size: after a call, the size that the TA set for an output, in bytes; more than the buffer's
            where it was too short.

    Raises:
        ArgumentError: at the call: the buffer is not contiguous, or read-only and not for "in".
    """

    def __init__(self, buffer: Any, direction: str = "in") -> None:
        if isinstance(buffer, int) and buffer < 0:
            raise ArgumentError(f"a buffer of {buffer} bytes", "give its size, or the buffer itself")
        self.buffer: Any = bytearray(buffer) if isinstance(buffer, int) else buffer
        self.direction = direction
        self.updated_size = 0
        self._capacity = 0
        self._flags = direction_flags(direction)
        self._kind = int(ParamType.MEMREF_TEMP_INPUT) - int(MemFlag.INPUT) + self._flags

    def prepare(self, slot: Any, undo: list[Undo]) -> int:
        """See :class:`Parameter`."""
        ffi, _ = load()
        kind = self._kind
        if self.buffer is None:
            slot.tmpref.buffer, slot.tmpref.size = ffi.NULL, 0
            return kind
        data = pin(self.buffer, self.direction)
        # An empty buffer still needs an address of its own: a null one means "no memory" to the TA.
        memory = data if len(data) else ffi.new("char[8]")
        undo.append(lambda: ffi.release(memory))
        slot.tmpref.buffer, slot.tmpref.size = memory, len(data)
        self._capacity = len(data)
        return kind

    def result(self, slot: Any) -> memoryview | None:
        """The part of the buffer that the TA wrote."""
        if not self._flags & OUTPUT:
            return None
        self.updated_size = int(slot.tmpref.size)
        if self.buffer is None:
            return memoryview(b"")
        ffi, _ = load()
        # Through cffi, for arrays of types or shapes that memoryview.cast refuses.
        return memoryview(ffi.buffer(pin(self.buffer, self.direction)))[: self.updated_size]

    def capacity(self) -> int:
        """See :class:`Parameter`."""
        return self._capacity if self._flags & OUTPUT else 0

    def size_after(self, slot: Any) -> int:
        """See :class:`Parameter`."""
        return int(slot.tmpref.size) if self._flags & OUTPUT else 0


class PartialMemory(Parameter):
    """A part of a shared memory block.

    Args:
        shm: the block.
        offset: of the part's first byte.
        size: bytes of the part.
        direction: "in", "out" or "inout", no more than the block's own; None for the block's own.

    Attributes:
        updated_size: as of :class:`TempMemory`.

    Raises:
        ArgumentError: the part is not inside the block, or the direction is more than the block allows.
    """

    def __init__(self, shm: SharedMemory, offset: int, size: int, direction: str | None = None) -> None:
        if offset < 0 or size < 0 or offset + size > shm.size:
            raise ArgumentError(f"bytes {offset} to {offset + size} of a shared memory of {shm.size} bytes")
        self.shm, self.offset, self.size = shm, offset, size
        self.direction = shm.direction if direction is None else direction
        self.updated_size = 0
        self._flags = direction_flags(self.direction)
        if self._flags & ~direction_flags(shm.direction):
            raise ArgumentError(
                f'a shared memory made for "{shm.direction}" cannot be used as "{self.direction}"',
                "register or allocate it with the wider direction",
            )
        self._kind = int(ParamType.MEMREF_PARTIAL_INPUT) - int(MemFlag.INPUT) + self._flags

    def prepare(self, slot: Any, undo: list[Undo]) -> int:
        """See :class:`Parameter`."""
        handle = self.shm.handle
        handle.hold()
        undo.append(handle.drop)
        memref = slot.memref
        memref.parent, memref.size, memref.offset = self.shm.native, self.size, self.offset
        return self._kind

    def result(self, slot: Any) -> memoryview | None:
        """The part of the block that the TA wrote, without a copy."""
        if not self._flags & OUTPUT:
            return None
        self.updated_size = int(slot.memref.size)
        return self.shm.view[self.offset : self.offset + min(self.size, self.updated_size)]

    def capacity(self) -> int:
        """See :class:`Parameter`."""
        return self.size if self._flags & OUTPUT else 0

    def size_after(self, slot: Any) -> int:
        """See :class:`Parameter`."""
        return int(slot.memref.size) if self._flags & OUTPUT else 0


class RegisteredMemory(PartialMemory):
    """A whole shared memory block (``TEEC_MEMREF_WHOLE``).

    Args:
        shm: the block.
        direction: None, or the block's own; a narrower one is passed as a partial reference to all of it, which
            is how the specification lets a client narrow it.
    """

    def __init__(self, shm: SharedMemory, direction: str | None = None) -> None:
        super().__init__(shm, 0, shm.size, direction)
        if self.direction == shm.direction:
            self._kind = int(ParamType.MEMREF_WHOLE)

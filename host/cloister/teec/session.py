# SPDX-License-Identifier: BSD-2-Clause
"""Contexts and sessions."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any
from uuid import UUID

from cloister.teec.codes import SUCCESS, Login, Origin
from cloister.teec.errors import ArgumentError, ClosedError, make_error
from cloister.teec.memory import SharedMemory
from cloister.teec.native import Handle, load
from cloister.teec.operation import Operation
from cloister.teec.params import Parameter


class Context:
    """A connection to a TEE.

    Closing it closes its sessions and gives its shared memory back first; so does the end of a with block, and so
    does the garbage collector.

    >>> with Context() as context, context.open_session(uuid) as session:   # doctest: +SKIP
    ...     (total,) = session.invoke(1, Value(40, 2, "inout"))

    Args:
        name: of the TEE, or None for the default one. libteec knows the default only.

    Raises:
        ExtensionMissingError: the compiled part or libteec is not installed.
        ItemNotFound: there is no such TEE.
    """

    def __init__(self, name: str | None = None) -> None:
        ffi, lib = load()
        self.name = name
        native = ffi.new("TEEC_Context *")
        code = lib.TEEC_InitializeContext(ffi.NULL if name is None else name.encode(), native)
        if code != SUCCESS:
            raise make_error(code, Origin.API, f"TEEC_InitializeContext({name or ''})")
        self._native = native
        self._handle = Handle("context", lambda: lib.TEEC_FinalizeContext(native))
        weakref.finalize(self, self._handle.close)

    def open_session(
        self,
        uuid: UUID | str,
        *params: Parameter | SharedMemory | Operation | None,
        login: Login = Login.PUBLIC,
        group: int | None = None,
    ) -> Session:
        """Open a session with a TA, which is loaded if it is not yet.

        Args:
            uuid: of the TA.
            params: as of :meth:`Session.invoke`; the TA's answer is in :attr:`Session.opened`.
            login: what the TA is told about this client.
            group: the group's number, for ``Login.GROUP`` and ``Login.GROUP_APPLICATION``.

        Raises:
            ArgumentError: no UUID, wrong parameters, or a group missing or too much.
            ItemNotFound: there is no TA of this UUID.
            Security: the TA's file is not signed for this TEE.
            TeecError: any other answer of the TEE or of the TA.
        """
        return Session(self, uuid, as_operation(params), login, group)

    def register(self, buffer: Any, direction: str = "inout") -> SharedMemory:
        """:meth:`SharedMemory.register` in this context."""
        return SharedMemory.register(self, buffer, direction)

    def allocate(self, size: int, direction: str = "inout") -> SharedMemory:
        """:meth:`SharedMemory.allocate` in this context."""
        return SharedMemory.allocate(self, size, direction)

    @property
    def handle(self) -> Handle:
        """The native object's life; for the bridge itself."""
        return self._handle

    @property
    def native(self) -> Any:
        """``TEEC_Context *``; for the bridge itself."""
        return self._native

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._handle.closed

    def close(self) -> None:
        """Close sessions, shared memory and connection, in this order; again: nothing.

        What a call of another thread, or a memoryview of an allocated block, still uses is freed when that ends.
        """
        self._handle.close()

    def __enter__(self) -> Context:
        self._handle.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session:
    """A session with a TA; made by :meth:`Context.open_session`.

    Attributes:
        uuid: of the TA.
        opened: what the TA returned in the parameters of opening.
    """

    def __init__(
        self, context: Context, uuid: UUID | str, operation: Operation, login: Login, group: int | None
    ) -> None:
        ffi, lib = load()
        try:
            self.uuid = uuid if isinstance(uuid, UUID) else UUID(uuid)
        except (ValueError, AttributeError, TypeError):
            raise ArgumentError(f"{uuid!r} is no UUID", "write it as 8-4-4-4-12 hexadecimal digits") from None
        wants_group = login in (Login.GROUP, Login.GROUP_APPLICATION)
        if wants_group != (group is not None):
            raise ArgumentError(f"login {Login(login).name} with group {group}", "name a group for a group login only")
        self._context = context  # the garbage collector must not close it before this session
        native = self._native = ffi.new("TEEC_Session *")
        fields = self.uuid.fields[:3]
        target = ffi.new("TEEC_UUID *", [*fields, list(self.uuid.bytes[8:])])
        data = ffi.new("uint32_t *", group) if group is not None else ffi.NULL
        with context.handle.use():
            self.opened = operation.run(
                lambda: f"TEEC_OpenSession({self.uuid})",
                self.uuid,
                lambda op, origin: lib.TEEC_OpenSession(context.native, native, target, login, data, op, origin),
            )
            running: set[Operation] = set()
            try:
                self._handle = Handle(
                    f"session with {self.uuid}",
                    lambda: lib.TEEC_CloseSession(native),
                    context.handle,
                    lambda: cancel_all(running),
                )
            except ClosedError:
                lib.TEEC_CloseSession(native)
                raise
        self._running = running
        weakref.finalize(self, self._handle.close)

    def invoke(self, command: int, *params: Parameter | SharedMemory | Operation | None) -> tuple[Any, ...]:
        """Call the TA and wait for its answer; other Python threads run meanwhile.

        Args:
            command: the TA's command number, 32 bits.
            params: up to four parameters (None leaves a place empty), or one :class:`Operation`.

        Returns:
            One item for each parameter: a :class:`ValuePair` for a value that comes back, a memoryview of the
            bytes that the TA wrote (of the caller's own memory, no copy), None for an input.

        Raises:
            ArgumentError: wrong parameters.
            ClosedError: the session or a shared memory was closed.
            ShortBuffer: with the sizes that the TA asked for in ``required``.
            TeecError: any other answer, by the names that GlobalPlatform or :func:`register_ta_errors` gave it.
        """
        _, lib = load()
        if not 0 <= command <= 0xFFFFFFFF:
            raise ArgumentError(f"command {command}", "commands are unsigned numbers of 32 bits")
        operation = as_operation(params)
        handle, native = self._handle, self._native
        handle.hold()
        try:
            self._running.add(operation)
            return operation.run(
                lambda: f"TEEC_InvokeCommand({self.uuid}, command {command})",
                self.uuid,
                lambda op, origin: lib.TEEC_InvokeCommand(native, command, op, origin),
            )
        finally:
            self._running.discard(operation)
            handle.drop()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its context was."""
        return self._handle.closed

    def close(self) -> None:
        """Close the session; again: nothing.

        A call that another thread is making is asked to cancel, and the session closed when it returns.
        """
        self._handle.close()

    def __enter__(self) -> Session:
        self._handle.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def as_operation(params: tuple[Parameter | SharedMemory | Operation | None, ...]) -> Operation:
    """The one operation among ``params``, or a new one of them.

    Raises:
        ArgumentError: an operation beside other parameters.
    """
    plain = [each for each in params if not isinstance(each, Operation)]
    operations = [each for each in params if isinstance(each, Operation)]
    if operations and len(params) > 1:
        raise ArgumentError("an Operation beside other parameters", "put the parameters into the Operation")
    return operations[0] if operations else Operation(*plain)


def cancel_all(operations: set[Operation]) -> None:
    """Ask for the cancellation of calls that other threads are making."""
    for operation in list(operations):
        operation.cancel()

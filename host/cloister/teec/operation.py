# SPDX-License-Identifier: BSD-2-Clause
"""One operation: up to four parameters and the right to cancel them while the TEE works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

from cloister.teec.codes import PAYLOAD_REF_COUNT, SUCCESS, Code, Origin
from cloister.teec.errors import ArgumentError, make_error
from cloister.teec.memory import SharedMemory
from cloister.teec.native import load
from cloister.teec.params import Parameter, RegisteredMemory, Undo

#: Seconds after which a request for cancellation is repeated first while :meth:`Operation.cancel` waits; then after
#: twice as many, and so on. On a slow machine a call that was cancelled needs some time to be seen to have ended, and
#: a request that OP-TEE gets behind its end cancels the session's next call.
CANCEL_INTERVAL = 0.1


class Operation:
    """The parameters of one call, kept as an object so that another thread can cancel the call.

    An operation may be used again after its call has returned, not during it.

    Args:
        params: up to four of :class:`Value`, :class:`TempMemory`, :class:`RegisteredMemory`,
            :class:`PartialMemory`, :class:`SharedMemory` (its whole) or None (no parameter in this place).

    Raises:
        ArgumentError: more than four parameters, or something else among them.

    >>> operation = Operation(Value(5000))                                # doctest: +SKIP
    >>> threading.Timer(1.0, operation.cancel).start()                    # doctest: +SKIP
    >>> session.invoke(9, operation)                                      # doctest: +SKIP
    Traceback (most recent call last):
    cloister.teec.errors.Cancel: ...
    """

    def __init__(self, *params: Parameter | SharedMemory | None) -> None:
        if len(params) > PAYLOAD_REF_COUNT:
            raise ArgumentError(f"{len(params)} parameters", f"an operation takes at most {PAYLOAD_REF_COUNT}")
        for param in params:
            if param is not None and not isinstance(param, Parameter | SharedMemory):
                raise ArgumentError(
                    f"parameter {param!r}", "wrap numbers in Value(a, b) and buffers in TempMemory(buffer, direction)"
                )
        self.params: tuple[Parameter | None, ...] = tuple(
            RegisteredMemory(param) if isinstance(param, SharedMemory) else param for param in params
        )
        self._lock = threading.RLock()  # re-entrant: see Handle
        self._running: Any = None
        self._busy = False
        self._cancelled = False
        self._ended = threading.Event()

    def cancel(self, wait: float = 0.0) -> bool:
        """Ask the TEE to cancel the call that another thread is making with this operation.

        Whether the call ends early is the TA's choice: it must unmask cancellation. If no call was made yet, the
        first one raises :class:`Cancel`; after the last one, nothing happens. libteec cannot cancel the opening
        of a session. OP-TEE keeps a request that reaches it just behind the call's end, and cancels the session's
        next call by it; so whoever goes on with a session after this may have to repeat one call.

        Args:
            wait: seconds to wait for the end of the call, the request being repeated meanwhile. A single request
                that arrives just before libteec has taken the call is lost, so wait for the end to be sure.

        Returns:
            Whether no call is running any more.
        """
        _, lib = load()
        remaining, pause = wait, CANCEL_INTERVAL
        while True:
            with self._lock:
                if not self._busy:
                    self._cancelled = not self._ended.is_set()
                    return True
                # Under the lock, so that neither operation nor session can go away meanwhile.
                if self._running is not None:
                    lib.TEEC_RequestCancellation(self._running)
                else:
                    self._cancelled = True
            if remaining <= 0:
                return False
            if self._ended.wait(min(pause, remaining)):
                return True
            remaining -= pause
            pause *= 2

    def run(self, where: Callable[[], str], uuid: UUID, call: Callable[[Any, Any], int]) -> tuple[Any, ...]:
        """Make a call with the parameters; for :class:`Session` and :class:`Context`.

        Args:
            where: gives the call's name, for the message of an error.
            uuid: of the TA, for the names of its errors.
            call: gets ``TEEC_Operation *`` and ``uint32_t *`` for the origin, and returns the code.

        Returns:
            One item for each parameter: a :class:`ValuePair`, a memoryview of what was written, or None.

        Raises:
            ArgumentError: a call is running with this operation.
            Cancel: it was cancelled before it began, or while it ran.
            TeecError: the call's code, as an exception.
        """
        ffi, _ = load()
        with self._lock:
            if self._busy:
                raise ArgumentError("the operation is in use by another call", "make one Operation for each call")
            self._busy = True
            self._ended.clear()
        undo: list[Undo] = []
        try:
            native = ffi.new("TEEC_Operation *")
            origin = ffi.new("uint32_t *")
            kinds = 0
            for index, param in enumerate(self.params):
                if param is not None:
                    kinds |= param.prepare(native.params[index], undo) << 4 * index
            native.paramTypes = kinds
            with self._lock:
                if self._cancelled:
                    raise make_error(Code.CANCEL, Origin.API, f"{where()}, cancelled before it began")
                self._running = native
            code = call(native, origin)
            if code != SUCCESS:
                raise make_error(code, origin[0], where(), uuid=uuid, required=self._required(code, native))
            return tuple(
                None if param is None else param.result(native.params[index]) for index, param in enumerate(self.params)
            )
        finally:
            with self._lock:
                self._running, self._busy, self._cancelled = None, False, False
                self._ended.set()
            for step in reversed(undo):
                step()

    def _required(self, code: int, native: Any) -> dict[int, int]:
        if code != Code.SHORT_BUFFER:
            return {}
        sizes = {index: param.size_after(native.params[index]) for index, param in enumerate(self.params) if param}
        return {index: size for index, size in sizes.items() if size > self._capacity(index)}

    def _capacity(self, index: int) -> int:
        param = self.params[index]
        return param.capacity() if param else 0

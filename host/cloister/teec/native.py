# SPDX-License-Identifier: BSD-2-Clause
"""The compiled extension, loaded when first needed, and the life of the native objects behind it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from cloister.teec.errors import ClosedError, ExtensionMissingError


@cache
def load() -> tuple[Any, Any]:
    """The extension's ``ffi`` and ``lib``: inside this package where it was built there, else at the top level.

    Raises:
        ExtensionMissingError: it is not installed, or libteec or ``_cffi_backend`` is not.
    """
    failures: list[str] = []
    for name in ("cloister.teec._teec", "_teec"):
        try:
            module = import_module(name)
        except ImportError as error:
            if not (isinstance(error, ModuleNotFoundError) and error.name == name):
                failures.append(f"{name}: {error}")
            continue
        return module.ffi, module.lib
    if failures:
        raise ExtensionMissingError(
            "the bridge's compiled part cannot be loaded: " + "; ".join(failures),
            "install libteec (Debian: libteec2) and cffi's backend (python3-cffi-backend); if it was built for "
            "another machine or library, build it again here: python3 -m cloister.teec.build_teec",
        )
    raise ExtensionMissingError(
        "the bridge's compiled part (_teec) is not installed: TAs can be called only on a device with libteec",
        "on the device, install optee-client-dev, libpython3-dev, python3-cffi and a C compiler, then run "
        "python3 -m cloister.teec.build_teec; on a host, use a device (cloister device start)",
    )


class Handle:
    """One native object: a context, a session or a shared memory block.

    It is freed once, after it was closed, after all of its children were freed, and when nothing uses it any
    more: the specification leaves undefined what happens to a running operation or a mapped buffer otherwise.
    Closing a handle closes its children first, the youngest first. A process that was forked does not free what
    its parent opened.

    Args:
        what: for messages, such as "session with <uuid>".
        free: releases the native object; called once, without any lock held.
        parent: the object that must outlive this one.
        closing: called when it is closed, before it is freed; to hurry what still uses it.
    """

    def __init__(
        self,
        what: str,
        free: Callable[[], None],
        parent: Handle | None = None,
        closing: Callable[[], None] | None = None,
    ) -> None:
        self.what = what
        self._free: Callable[[], None] | None = free
        self._closing = closing
        self._parent = parent
        # Re-entrant: the garbage collector may run another handle's finaliser inside any section below.
        self._lock: AbstractContextManager[bool] = parent._lock if parent else threading.RLock()
        self._children: dict[int, Handle] = {}
        self._uses = 0
        self._closed = False
        self._freed = False
        self._pid = os.getpid()
        if parent:
            parent._adopt(self)

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the process that this one was forked from."""
        return self._closed or self._pid != os.getpid()

    @property
    def freed(self) -> bool:
        """Whether the native object is gone."""
        return self._freed

    def check(self) -> None:
        """Refuse use after close.

        Raises:
            ClosedError: it was closed, or this process is a fork of the one that opened it.
        """
        if self._pid != os.getpid():
            raise ClosedError(f"{self.what} belongs to the parent process", "open a context of its own after a fork")
        if self._closed:
            raise ClosedError(f"{self.what} is closed", "open a new one, or use it inside its with block")

    def close(self) -> None:
        """Free it, or see that it is freed as soon as its last use ends; again: nothing."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            children = list(reversed(self._children.values()))
        for child in children:
            child.close()
        if self._closing:
            self._closing()
        self._settle()

    def hold(self) -> None:
        """Keep it from being freed until :meth:`drop`; it may be closed meanwhile."""
        with self._lock:
            self.check()
            self._uses += 1

    def drop(self) -> None:
        """Undo one :meth:`hold`, and free it if that was the last and it was closed."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._uses -= 1
        self._settle()

    @contextmanager
    def use(self) -> Iterator[None]:
        """:meth:`hold` it for the length of a with block."""
        self.hold()
        try:
            yield
        finally:
            self.drop()

    def _adopt(self, child: Handle) -> None:
        with self._lock:
            self.check()
            self._children[id(child)] = child

    def _settle(self) -> None:
        with self._lock:
            if self._freed or not self._closed or self._uses or self._children:
                return
            self._freed = True
            free, self._free = self._free, None
        try:
            if free:
                free()
        finally:
            if self._parent:
                with self._lock:
                    self._parent._children.pop(id(self), None)
                self._parent._settle()

# SPDX-License-Identifier: BSD-2-Clause
"""Exceptions for the return codes of the GlobalPlatform TEE Client API; importable where no libteec exists."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any
from uuid import UUID

from cloister.errors import CloisterError
from cloister.teec.codes import Code, Origin, code_name, origin_of


class ArgumentError(CloisterError, ValueError):
    """An argument that the bridge refuses before anything reaches the TEE."""


class ClosedError(CloisterError, RuntimeError):
    """Use of a context, a session or a shared memory after it was closed."""


class ExtensionMissingError(CloisterError, ImportError):
    """The compiled part of the bridge (``_teec``) or libteec is not installed."""


class TeecError(CloisterError):
    """A TEE Client API function returned something other than ``TEEC_SUCCESS``.

    Attributes:
        code: the 32-bit return code.
        name: GlobalPlatform's name of it (``ITEM_NOT_FOUND``), the name that the application registered for
            it, or its hexadecimal digits.
        origin: the layer that returned it.
        where: the function, and what it was called on.
    """

    #: The code that the class stands for; None for a class of several codes.
    CODE: int | None = None

    def __init__(
        self,
        code: int | None = None,
        origin: int = Origin.UNKNOWN,
        where: str = "",
        *,
        name: str = "",
        remedy: str = "",
    ) -> None:
        number = code if code is not None else self.CODE if self.CODE is not None else Code.GENERIC
        self.code: int = int(number)
        self.origin: Origin = origin_of(origin)
        self.name: str = name or code_name(self.code)
        self.where: str = where
        shown = self.name if self.name.startswith("0x") else f"{self.name} (0x{self.code:08x})"
        super().__init__(f"{where + ': ' if where else ''}{shown}, origin {self.origin.name}", remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        """What pickle and copy make it from again: another process may raise what this one met."""
        rebuild = partial(type(self), name=self.name, remedy=self.remedy)
        return rebuild, (self.code, int(self.origin), self.where), dict(self.__dict__)


class TaError(TeecError):
    """A code that a trusted application defines itself."""


class Generic(TeecError):
    """Non-specific cause."""

    CODE = Code.GENERIC


class AccessDenied(TeecError):
    """Access privileges are not sufficient."""

    CODE = Code.ACCESS_DENIED


class Cancel(TeecError):
    """The operation was cancelled."""

    CODE = Code.CANCEL


class AccessConflict(TeecError):
    """Concurrent accesses conflicted."""

    CODE = Code.ACCESS_CONFLICT


class ExcessData(TeecError):
    """Too much data for the requested operation was passed."""

    CODE = Code.EXCESS_DATA


class BadFormat(TeecError):
    """Input data was of invalid format."""

    CODE = Code.BAD_FORMAT


class BadParameters(TeecError):
    """Input parameters were invalid."""

    CODE = Code.BAD_PARAMETERS


class BadState(TeecError):
    """The operation is not valid in the current state."""

    CODE = Code.BAD_STATE


class ItemNotFound(TeecError):
    """The requested item (a TEE, a trusted application, an object) does not exist."""

    CODE = Code.ITEM_NOT_FOUND


class NotImplementedInTee(TeecError):
    """The requested operation should exist but is not yet implemented."""

    CODE = Code.NOT_IMPLEMENTED


class NotSupported(TeecError):
    """The requested operation is valid but not supported here."""

    CODE = Code.NOT_SUPPORTED


class NoData(TeecError):
    """Expected data was missing."""

    CODE = Code.NO_DATA


class OutOfMemory(TeecError):
    """The TEE, or the shared memory, ran out of resources."""

    CODE = Code.OUT_OF_MEMORY


class Busy(TeecError):
    """The TEE or the trusted application is busy with something else."""

    CODE = Code.BUSY


class Communication(TeecError):
    """Communication with a remote party failed."""

    CODE = Code.COMMUNICATION


class Security(TeecError):
    """A security fault was detected, a trusted application with a wrong signature among them."""

    CODE = Code.SECURITY


class ShortBuffer(TeecError):
    """An output buffer was too small.

    Attributes:
        required: by index of the parameter, the bytes that the trusted application asked for, where they
            are more than the buffer had.
    """

    CODE = Code.SHORT_BUFFER

    def __init__(
        self,
        code: int | None = None,
        origin: int = Origin.UNKNOWN,
        where: str = "",
        *,
        name: str = "",
        remedy: str = "",
        required: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.required: dict[int, int] = dict(required)
        if self.required and not remedy:
            needs = ", ".join(f"{size} bytes for parameter {index}" for index, size in self.required.items())
            remedy = f"pass {needs}"
        super().__init__(code, origin, where, name=name, remedy=remedy)


class ExternalCancel(TeecError):
    """An external event aborted an operation of the trusted user interface."""

    CODE = Code.EXTERNAL_CANCEL


class TargetDead(TeecError):
    """The trusted application has panicked."""

    CODE = Code.TARGET_DEAD


class CorruptObject(TeecError):
    """A stored object is corrupt."""

    CODE = Code.CORRUPT_OBJECT


class CorruptObject2(CorruptObject):
    """A stored object in the second storage is corrupt."""

    CODE = Code.CORRUPT_OBJECT_2


class StorageNotAvailable(TeecError):
    """The storage of an object is not accessible now."""

    CODE = Code.STORAGE_NOT_AVAILABLE


class StorageNotAvailable2(StorageNotAvailable):
    """The second storage is not accessible now."""

    CODE = Code.STORAGE_NOT_AVAILABLE_2


class UnsupportedVersion(TeecError):
    """The version is not supported."""

    CODE = Code.UNSUPPORTED_VERSION


class CiphertextInvalid(TeecError):
    """The ciphertext is incorrect."""

    CODE = Code.CIPHERTEXT_INVALID


class Timeout(TeecError):
    """The operation took too long."""

    CODE = Code.TIMEOUT


class Overflow(TeecError):
    """A number does not fit."""

    CODE = Code.OVERFLOW


class StorageNoSpace(TeecError):
    """Secure storage is full."""

    CODE = Code.STORAGE_NO_SPACE


class MacInvalid(TeecError):
    """A message authentication code or an authentication tag is wrong."""

    CODE = Code.MAC_INVALID


class SignatureInvalid(TeecError):
    """A signature is wrong."""

    CODE = Code.SIGNATURE_INVALID


class TimeNotSet(TeecError):
    """The persistent time of the trusted application was never set."""

    CODE = Code.TIME_NOT_SET


class TimeNeedsReset(TeecError):
    """The persistent time of the trusted application was tampered with."""

    CODE = Code.TIME_NEEDS_RESET


def _subclasses(cls: type[TeecError]) -> list[type[TeecError]]:
    return [each for direct in cls.__subclasses__() for each in [direct, *_subclasses(direct)]]


#: The exception class of each code that GlobalPlatform names.
STANDARD_ERRORS: dict[int, type[TeecError]] = {cls.CODE: cls for cls in _subclasses(TeecError) if cls.CODE is not None}

_REMEDIES: dict[tuple[str, int], str] = {
    ("TEEC_InitializeContext", Code.ITEM_NOT_FOUND): (
        "see that /dev/tee0 exists (kernel modules tee and optee) and that this user may read and write it"
    ),
    ("TEEC_OpenSession", Code.ITEM_NOT_FOUND): (
        "install the trusted application as <uuid>.ta in the directory that tee-supplicant reads "
        "(/lib/optee_armtz) and see that tee-supplicant runs"
    ),
    ("TEEC_OpenSession", Code.SECURITY): "sign the trusted application with the key that this OP-TEE was built with",
    ("TEEC_OpenSession", Code.OUT_OF_MEMORY): (
        "close other sessions, or give the trusted application a smaller heap and stack"
    ),
    ("TEEC_OpenSession", Code.BUSY): "close the other session of this single-session trusted application",
    ("TEEC_InvokeCommand", Code.TARGET_DEAD): (
        "the trusted application panicked: close this session, open a new one, and read the secure world's log"
    ),
}

TaErrors = Mapping[int, "str | type[TeecError]"]

_ta_errors: dict[UUID, dict[int, str | type[TeecError]]] = {}


def register_ta_errors(uuid: UUID | str, errors: TaErrors) -> None:
    """Name the codes that one trusted application returns.

    Args:
        uuid: of the trusted application.
        errors: by code, a name (the exception is then a :class:`TaError` with this ``name``) or a subclass
            of :class:`TeecError` to raise. A code may be one of GlobalPlatform's, which it then replaces for
            this trusted application. Later calls add to earlier ones.

    Raises:
        ArgumentError: a code outside 32 bits or 0, or a class that is no :class:`TeecError`.

    >>> register_ta_errors("00000000-0000-0000-0000-000000000001", {0x80000001: "WRONG_KEY"})
    >>> make_error(0x80000001, 4, "", uuid=UUID(int=1)).name
    'WRONG_KEY'
    """
    for code, entry in errors.items():
        if not 0 < code <= 0xFFFFFFFF:
            raise ArgumentError(f"error code {code} is no 32-bit number other than 0", "give the code the TA returns")
        if not (isinstance(entry, str) or (isinstance(entry, type) and issubclass(entry, TeecError))):
            raise ArgumentError(f"{entry!r} for code 0x{code:08x}", "give a name or a subclass of TeecError")
    _ta_errors.setdefault(UUID(str(uuid)), {}).update(errors)


def make_error(
    code: int,
    origin: int,
    where: str,
    *,
    uuid: UUID | None = None,
    required: Mapping[int, int] = MappingProxyType({}),
) -> TeecError:
    """The exception for a return code: the TA's own meaning first, then GlobalPlatform's, then the bare number.

    Args:
        code: what the function returned.
        origin: the number of ``TEEC_ORIGIN_*`` that came with it.
        where: the function's name, and in brackets what it was called on.
        uuid: of the trusted application, for the codes of :func:`register_ta_errors`; these are looked up
            only where the application itself answered.
        required: for SHORT_BUFFER, the sizes asked for by index of parameter.
    """
    entry = _ta_errors.get(uuid, {}).get(code) if uuid and origin == Origin.TRUSTED_APP else None
    name = entry if isinstance(entry, str) else ""
    cls: type[TeecError]
    if isinstance(entry, type):
        cls, name = entry, "" if code in STANDARD_ERRORS else entry.__name__
    elif name:
        cls = TaError
    else:
        cls = STANDARD_ERRORS.get(code, TaError if origin == Origin.TRUSTED_APP else TeecError)
    if issubclass(cls, ShortBuffer):
        return cls(code, origin, where, name=name, required=required)
    remedy = _REMEDIES.get((where.partition("(")[0].strip(), code), "")
    return cls(code, origin, where, name=name, remedy=remedy)

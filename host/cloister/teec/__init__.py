# SPDX-License-Identifier: BSD-2-Clause
"""A bridge to the GlobalPlatform TEE Client API v1.0 (libteec), for any trusted application.

>>> from cloister.teec import Context, TempMemory, Value                   # doctest: +SKIP
>>> with Context() as context:                                            # doctest: +SKIP
...     with context.open_session("cb3e5ba0-adf1-11e0-998b-0002a5d5c51b") as session:
...         _, digest = session.invoke(2, TempMemory(b"abc"), TempMemory(32, "out"))

Importing it needs no libteec: the errors and codes serve a host too. The first :class:`Context` loads the compiled
extension; where that is missing, :class:`ExtensionMissingError` says what to install.
"""

from __future__ import annotations

from cloister.teec.codes import Code, Login, Origin, code_name
from cloister.teec.errors import (
    AccessConflict,
    AccessDenied,
    ArgumentError,
    BadFormat,
    BadParameters,
    BadState,
    Busy,
    Cancel,
    CiphertextInvalid,
    ClosedError,
    Communication,
    CorruptObject,
    CorruptObject2,
    ExcessData,
    ExtensionMissingError,
    ExternalCancel,
    Generic,
    ItemNotFound,
    MacInvalid,
    NoData,
    NotImplementedInTee,
    NotSupported,
    OutOfMemory,
    Overflow,
    Security,
    ShortBuffer,
    SignatureInvalid,
    StorageNoSpace,
    StorageNotAvailable,
    StorageNotAvailable2,
    TaError,
    TargetDead,
    TeecError,
    TimeNeedsReset,
    TimeNotSet,
    Timeout,
    UnsupportedVersion,
    make_error,
    register_ta_errors,
)
from cloister.teec.memory import SharedMemory
from cloister.teec.operation import Operation
from cloister.teec.params import Parameter, PartialMemory, RegisteredMemory, TempMemory, Value, ValuePair
from cloister.teec.session import Context, Session

__all__ = [
    "AccessConflict",
    "AccessDenied",
    "ArgumentError",
    "BadFormat",
    "BadParameters",
    "BadState",
    "Busy",
    "Cancel",
    "CiphertextInvalid",
    "ClosedError",
    "Code",
    "Communication",
    "Context",
    "CorruptObject",
    "CorruptObject2",
    "ExcessData",
    "ExtensionMissingError",
    "ExternalCancel",
    "Generic",
    "ItemNotFound",
    "Login",
    "MacInvalid",
    "NoData",
    "NotImplementedInTee",
    "NotSupported",
    "Operation",
    "Origin",
    "OutOfMemory",
    "Overflow",
    "Parameter",
    "PartialMemory",
    "RegisteredMemory",
    "Security",
    "Session",
    "SharedMemory",
    "ShortBuffer",
    "SignatureInvalid",
    "StorageNoSpace",
    "StorageNotAvailable",
    "StorageNotAvailable2",
    "TaError",
    "TargetDead",
    "TeecError",
    "TempMemory",
    "TimeNeedsReset",
    "TimeNotSet",
    "Timeout",
    "UnsupportedVersion",
    "Value",
    "ValuePair",
    "code_name",
    "make_error",
    "register_ta_errors",
]

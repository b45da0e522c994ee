# SPDX-License-Identifier: BSD-2-Clause
"""The numbers of the GlobalPlatform TEE Client API v1.0, in pure Python.

They are written here so that a host without libteec can name a code that a device reported; a test holds
each of them against ``tee_client_api.h`` through the compiled extension.

Source: GlobalPlatform TEE Client API Specification v1.0 (GPD_SPE_007), sections 4.4 and 4.5; the codes
marked "internal" are of the TEE Internal Core API (GPD_SPE_010), which a trusted application may pass on.
"""

from __future__ import annotations

from enum import IntEnum

#: Parameters of one operation (``TEEC_CONFIG_PAYLOAD_REF_COUNT``).
PAYLOAD_REF_COUNT = 4

SUCCESS = 0


class Code(IntEnum):
    """Return codes that have a name in GlobalPlatform's specifications."""

    SUCCESS = 0x00000000
    GENERIC = 0xFFFF0000
    ACCESS_DENIED = 0xFFFF0001
    CANCEL = 0xFFFF0002
    ACCESS_CONFLICT = 0xFFFF0003
    EXCESS_DATA = 0xFFFF0004
    BAD_FORMAT = 0xFFFF0005
    BAD_PARAMETERS = 0xFFFF0006
    BAD_STATE = 0xFFFF0007
    ITEM_NOT_FOUND = 0xFFFF0008
    NOT_IMPLEMENTED = 0xFFFF0009
    NOT_SUPPORTED = 0xFFFF000A
    NO_DATA = 0xFFFF000B
    OUT_OF_MEMORY = 0xFFFF000C
    BUSY = 0xFFFF000D
    COMMUNICATION = 0xFFFF000E
    SECURITY = 0xFFFF000F
    SHORT_BUFFER = 0xFFFF0010
    EXTERNAL_CANCEL = 0xFFFF0011
    TARGET_DEAD = 0xFFFF3024
    # internal
    CORRUPT_OBJECT = 0xF0100001
    CORRUPT_OBJECT_2 = 0xF0100002
    STORAGE_NOT_AVAILABLE = 0xF0100003
    STORAGE_NOT_AVAILABLE_2 = 0xF0100004
    UNSUPPORTED_VERSION = 0xF0100005
    CIPHERTEXT_INVALID = 0xF0100006
    TIMEOUT = 0xFFFF3001
    OVERFLOW = 0xFFFF300F
    STORAGE_NO_SPACE = 0xFFFF3041
    MAC_INVALID = 0xFFFF3071
    SIGNATURE_INVALID = 0xFFFF3072
    TIME_NOT_SET = 0xFFFF5000
    TIME_NEEDS_RESET = 0xFFFF5001


class Origin(IntEnum):
    """Where in the stack a code arose (``TEEC_ORIGIN_*``)."""

    UNKNOWN = 0
    API = 1
    COMMS = 2
    TEE = 3
    TRUSTED_APP = 4


class Login(IntEnum):
    """What a session tells the TA about its client (``TEEC_LOGIN_*``)."""

    PUBLIC = 0
    USER = 1
    GROUP = 2
    APPLICATION = 4
    USER_APPLICATION = 5
    GROUP_APPLICATION = 6


class ParamType(IntEnum):
    """Types of one operation parameter."""

    NONE = 0x0
    VALUE_INPUT = 0x1
    VALUE_OUTPUT = 0x2
    VALUE_INOUT = 0x3
    MEMREF_TEMP_INPUT = 0x5
    MEMREF_TEMP_OUTPUT = 0x6
    MEMREF_TEMP_INOUT = 0x7
    MEMREF_WHOLE = 0xC
    MEMREF_PARTIAL_INPUT = 0xD
    MEMREF_PARTIAL_OUTPUT = 0xE
    MEMREF_PARTIAL_INOUT = 0xF


class MemFlag(IntEnum):
    """Direction flags of shared memory."""

    INPUT = 1
    OUTPUT = 2


#: Codes that the client header of every GlobalPlatform implementation must define, by their header name.
CLIENT_CODES = {
    "TEEC_SUCCESS": Code.SUCCESS,
    **{f"TEEC_ERROR_{code.name}": code for code in Code if Code.GENERIC <= code <= Code.SHORT_BUFFER},
}

#: Codes that a client header may define (OP-TEE's does), by their header name.
OPTIONAL_CODES = {
    "TEEC_ERROR_EXTERNAL_CANCEL": Code.EXTERNAL_CANCEL,
    "TEEC_ERROR_TARGET_DEAD": Code.TARGET_DEAD,
    "TEEC_ERROR_STORAGE_NOT_AVAILABLE": Code.STORAGE_NOT_AVAILABLE,
    "TEEC_ERROR_STORAGE_NO_SPACE": Code.STORAGE_NO_SPACE,
    "TEE_ERROR_OVERFLOW": Code.OVERFLOW,
    "TEE_ERROR_MAC_INVALID": Code.MAC_INVALID,
    "TEE_ERROR_SIGNATURE_INVALID": Code.SIGNATURE_INVALID,
    "TEE_ERROR_TIME_NOT_SET": Code.TIME_NOT_SET,
    "TEE_ERROR_TIME_NEEDS_RESET": Code.TIME_NEEDS_RESET,
}

#: Everything else of the client header, by its header name.
CLIENT_CONSTANTS = {
    **{f"TEEC_ORIGIN_{origin.name}": int(origin) for origin in Origin if origin},
    **{f"TEEC_LOGIN_{login.name}": int(login) for login in Login},
    **{f"TEEC_{kind.name}": int(kind) for kind in ParamType},
    **{f"TEEC_MEM_{flag.name}": int(flag) for flag in MemFlag},
    "TEEC_CONFIG_PAYLOAD_REF_COUNT": PAYLOAD_REF_COUNT,
}


def code_name(code: int) -> str:
    """GlobalPlatform's name of ``code`` without its prefix, or its eight hexadecimal digits.

    >>> code_name(0xFFFF0008), code_name(0x80001234)
    ('ITEM_NOT_FOUND', '0x80001234')
    """
    try:
        return Code(code).name
    except ValueError:
        return f"0x{code:08x}"


def origin_of(value: int) -> Origin:
    """The origin with this number; ``Origin.UNKNOWN`` for one that the specification does not define."""
    try:
        return Origin(value)
    except ValueError:
        return Origin.UNKNOWN

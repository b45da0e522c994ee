# SPDX-License-Identifier: BSD-2-Clause
"""AEGIS-128L (draft-irtf-cfrg-aegis-aead) by the TA's own code, ``ta/aead``, built for this machine."""

from __future__ import annotations

import hmac
from functools import cache
from typing import Any

import cffi
from cryptography.exceptions import InvalidTag

from cloister.native import build_library
from cloister.wire import cffi_part, header_dir

LIBRARY = "libcloister_aead.so"
KEY_SIZE = NONCE_SIZE = TAG_SIZE = 16


@cache
def _load() -> tuple[Any, Any]:
    ffi = cffi.FFI()
    ffi.cdef(cffi_part((header_dir().parent / "aead" / "aead.h").read_text(encoding="utf-8")))
    path = build_library("aead", LIBRARY, "CLOISTER_AEAD")
    return ffi, ffi.dlopen(str(path))


class Aegis128L:
    """Seals and opens with a tag of 16 bytes; of the same shape as the AEADs of ``cryptography``."""

    def __init__(self, key: bytes, *, portable: bool = False) -> None:
        """Takes a key of 16 bytes.

        Args:
            key: secret.
            portable: use the code without AES instructions, for tests; it is used anyway where there are none.

        Raises:
            EngineError: the library is missing and cannot be built.
            ValueError: the key is of another size.
        """
        if len(key) != KEY_SIZE:
            raise ValueError(f"the key has {len(key)} bytes, AEGIS-128L takes {KEY_SIZE}")
        self._ffi, self._lib = _load()
        self._key = key
        self._prefix = "cl_aegis128l_" if self._lib.cl_aegis128l_usable() and not portable else "cl_aegis128l_portable_"

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Ciphertext and tag."""
        out, tag = self._transform("seal", nonce, data, associated_data or b"")
        return out + tag

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Plain text.

        Raises:
            InvalidTag: the tag is wrong.
        """
        if len(data) < TAG_SIZE:
            raise InvalidTag
        out, tag = self._transform("open", nonce, data[:-TAG_SIZE], associated_data or b"")
        if not hmac.compare_digest(tag, data[-TAG_SIZE:]):
            raise InvalidTag
        return out

    def _transform(self, what: str, nonce: bytes, data: bytes, aad: bytes) -> tuple[bytes, bytes]:
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"the nonce has {len(nonce)} bytes, AEGIS-128L takes {NONCE_SIZE}")
        ffi = self._ffi
        context, tag = ffi.new("struct cl_aegis128l *"), ffi.new("uint8_t[]", TAG_SIZE)
        out = bytearray(len(data))
        self._call("start", context, self._key, nonce, aad, len(aad))
        self._call(what, context, ffi.from_buffer(data), ffi.from_buffer("uint8_t[]", out), len(data))
        self._call("tag", context, tag)
        ffi.buffer(context)[:] = bytes(ffi.sizeof("struct cl_aegis128l"))
        return bytes(out), bytes(ffi.buffer(tag))

    def _call(self, name: str, *arguments: Any) -> None:
        getattr(self._lib, self._prefix + name)(*arguments)

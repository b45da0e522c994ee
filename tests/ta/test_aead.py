# SPDX-License-Identifier: BSD-2-Clause
"""The TA's own ciphers: their C tests under the sanitizers, and ChaCha20 against ``cryptography``."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

import cffi
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cloister.native import build_library
from cloister.seal.aegis import LIBRARY, Aegis128L
from cloister.wire import cffi_part

ROOT = Path(__file__).parents[2]
AEAD = ROOT / "ta/aead"


def make(target: str, out: Path) -> str:
    result = subprocess.run(
        ["make", "-C", str(AEAD), f"O={out}", target], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_vectors_lengths_and_pieces_under_the_sanitizers(tmp_path: Path) -> None:
    assert make("test", tmp_path).count(": passed") == 3


@pytest.fixture(scope="module")
def library() -> tuple[Any, Any]:
    ffi = cffi.FFI()
    ffi.cdef(cffi_part((AEAD / "aead.h").read_text()))
    return ffi, ffi.dlopen(str(build_library("aead", LIBRARY, "CLOISTER_AEAD")))


def chacha(library: tuple[Any, Any], what: str, key: bytes, nonce: bytes, aad: bytes, data: bytes) -> bytes:
    ffi, lib = library
    context, tag, out = ffi.new("struct cl_chacha20_poly1305 *"), ffi.new("uint8_t[16]"), bytearray(len(data))
    lib.cl_chacha20_poly1305_start(context, key, nonce, aad, len(aad))
    getattr(lib, f"cl_chacha20_poly1305_{what}")(context, data, ffi.from_buffer("uint8_t[]", out), len(data))
    lib.cl_chacha20_poly1305_tag(context, tag)
    return bytes(out) + bytes(ffi.buffer(tag))


def test_chacha20_poly1305_is_that_of_another_library(library: tuple[Any, Any]) -> None:
    for size in [*range(301), 511, 512, 513, 1023, 4096, 65537]:
        key, nonce, aad, plain = os.urandom(32), os.urandom(12), os.urandom(size % 37), os.urandom(size)
        theirs = ChaCha20Poly1305(key).encrypt(nonce, plain, aad)
        assert chacha(library, "seal", key, nonce, aad, plain) == theirs
        assert chacha(library, "open", key, nonce, aad, theirs[:-16]) == plain + theirs[-16:]


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_poly1305_reduces_extreme_sums(library: tuple[Any, Any], byte: int) -> None:
    """Blocks of ones carry furthest. The message is chosen so that Poly1305 sees them."""
    for seed in range(300):
        key = random.Random(seed).randbytes(32)
        stream = ChaCha20Poly1305(key).encrypt(bytes(12), bytes(272), None)[:-16]
        plain = bytes(b ^ byte for b in stream)
        theirs = ChaCha20Poly1305(key).encrypt(bytes(12), plain, b"\xff" * 32)
        assert set(theirs[:-16]) == {byte}
        assert chacha(library, "seal", key, bytes(12), b"\xff" * 32, plain) == theirs


def test_aegis_with_and_without_instructions_agree() -> None:
    for size in [*range(301), 4096, 10000]:
        key, nonce, aad, plain = os.urandom(16), os.urandom(16), os.urandom(size % 67), os.urandom(size)
        portable, fast = Aegis128L(key, portable=True), Aegis128L(key)
        sealed = portable.encrypt(nonce, plain, aad)
        assert fast.encrypt(nonce, plain, aad) == sealed
        assert fast.decrypt(nonce, sealed, aad) == portable.decrypt(nonce, sealed, aad) == plain


@pytest.mark.parametrize("portable", [False, True])
def test_aegis_refuses_what_was_changed(portable: bool) -> None:
    key, nonce, aad, plain = os.urandom(16), os.urandom(16), os.urandom(40), os.urandom(100)
    cipher = Aegis128L(key, portable=portable)
    sealed = cipher.encrypt(nonce, plain, aad)

    def flip(data: bytes, index: int) -> bytes:
        return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]

    wrong = [(nonce, flip(sealed, i), aad) for i in (0, 31, 32, 99, 100, 115)]
    wrong += [(flip(nonce, 15), sealed, aad), (nonce, sealed, flip(aad, 39)), (nonce, sealed, aad[:-1])]
    wrong += [(nonce, sealed[:-1], aad), (nonce, sealed[:15], aad), (nonce, b"", aad)]
    for arguments in wrong:
        with pytest.raises(InvalidTag):
            cipher.decrypt(*arguments)
    with pytest.raises(ValueError, match="15 bytes"):
        Aegis128L(key[:-1])
    with pytest.raises(ValueError, match="12 bytes"):
        cipher.encrypt(nonce[:12], plain, aad)

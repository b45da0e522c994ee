# SPDX-License-Identifier: BSD-2-Clause
"""The cipher suites that partitions are sealed with, and which of them devices have.

Suites and the derivation of their keys: ``ta/include/cloister_format.h``. AES-256-GCM (NIST SP 800-38D) and
ChaCha20-Poly1305 (RFC 8439) come from ``cryptography``; AEGIS-128L (draft-irtf-cfrg-aegis-aead) is the TA's own code,
built for this machine: no package of it is as widely kept, and what opens partitions is what sealed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.seal.aegis import Aegis128L
from cloister.seal.errors import CipherError
from cloister.wire import C

KEY_DOMAIN = b"cloister suite v1"

#: Suites by the names that users know, the fastest on a device first.
SUITES: dict[str, int] = {
    "aegis-128l": C.CL_SUITE_AEGIS_128L,
    "chacha20-poly1305": C.CL_SUITE_CHACHA20_POLY1305,
    "aes-256-gcm": C.CL_SUITE_AES_256_GCM,
}

#: What every device opens fast, with and without AES instructions: taken where nothing is known of the devices.
DEFAULT = "chacha20-poly1305"
AUTO = "auto"

#: Bytes of nonce and key.
SIZES = {"aegis-128l": (16, 16), "chacha20-poly1305": (12, 32), "aes-256-gcm": (12, 32)}


class Cipher(Protocol):
    """An AEAD as ``cryptography`` has them; the sealed data ends with a tag of 16 bytes."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Seal."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Open.

        Raises:
            cryptography.exceptions.InvalidTag: the tag is wrong.
        """


def suite_name(suite: int) -> str:
    """The name of a number of ``enum cl_suite``.

    Raises:
        CipherError: this program does not know it.
    """
    for name, number in SUITES.items():
        if number == suite:
            return name
    raise CipherError(f"cipher suite {suite} is not known here", "update Cloister")


def suites_of(mask: int) -> list[str]:
    """The names of the suites in a device's bit mask, the fastest first; those unknown here are left out."""
    return [name for name, number in SUITES.items() if mask >> number & 1]


def choose(cipher: str, devices: Iterable[Sequence[str]] = ()) -> str:
    """The suite to seal with.

    Args:
        cipher: a name of :data:`SUITES`, or "auto": the fastest that all devices have.
        devices: names of the suites of each device on which the model shall run; none: :data:`DEFAULT` is taken.

    Raises:
        CipherError: the name is none, or a device lacks the suite.
    """
    known = [list(suites) for suites in devices]
    if cipher == AUTO:
        if not known:
            return DEFAULT
        for name in SUITES:
            if all(name in suites for suites in known):
                return name
        raise CipherError("the devices have no cipher suite in common", "compile a bundle for each of them")
    if cipher not in SUITES:
        raise CipherError(f"cipher {cipher!r} is not one of {', '.join([AUTO, *SUITES])}", "choose one of them")
    for suites in known:
        if cipher not in suites:
            raise CipherError(
                f"a device does not have {cipher}, but {', '.join(suites) or 'nothing'}",
                "leave the choice to --cipher auto, or name one that all devices have",
            )
    return cipher


def derive_key(suite: str, content_key: bytes) -> bytes:
    """The suite's own key of a content key of 32 bytes (HKDF-SHA256, RFC 5869; AES-256-GCM takes it as it is)."""
    if suite == "aes-256-gcm":
        return content_key
    info = KEY_DOMAIN + SUITES[suite].to_bytes(4, "little")
    return HKDF(SHA256(), 32, None, info).derive(content_key)[: SIZES[suite][1]]


def cipher_of(suite: str, content_key: bytes) -> Cipher:
    """The AEAD of a suite under a content key.

    Raises:
        EngineError: the native library for AEGIS-128L cannot be built.
    """
    key = derive_key(suite, content_key)
    if suite == "aes-256-gcm":
        return AESGCM(key)
    if suite == "chacha20-poly1305":
        return ChaCha20Poly1305(key)
    return Aegis128L(key)


def nonce_size(suite: str) -> int:
    """Bytes of the suite's nonce."""
    return SIZES[suite][0]


__all__ = ["AUTO", "DEFAULT", "SUITES", "Cipher", "InvalidTag", "choose", "cipher_of", "suite_name", "suites_of"]

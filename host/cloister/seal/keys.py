# SPDX-License-Identifier: BSD-2-Clause
"""The vendor's signing key (Ed25519, RFC 8032).

The private half signs manifests and licences on the vendor's machine; the public half is built into the TA.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloister.seal.errors import KeyFileError, SignatureError
from cloister.seal.files import read_file, write_aside

PRIVATE_NAME = "vendor.key"
PUBLIC_NAME = "vendor.pub"
#: Of the notes beside content keys that tell which channels are locked.
LOCK_SUFFIX = ".lock"
#: Of the notes that tell which lock it is.
LOCK_NAME_SUFFIX = ".lock-name"
DAMAGED_NOTE = "restore it from your backup, or delete it"


def default_key_dir() -> Path:
    """Where this user's keys live: ``$CLOISTER_KEYS``, or ``cloister/keys`` in the user's data directory."""
    if override := os.environ.get("CLOISTER_KEYS"):
        return Path(override)
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "cloister" / "keys"


def raw_public(key: Ed25519PublicKey) -> bytes:
    """The 32 bytes of a public key (RFC 8032, section 5.1.5)."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def verify(public_key: bytes, signature: bytes, message: bytes, what: str) -> None:
    """Check a signature.

    Raises:
        SignatureError: it is not the vendor's; ``what`` names the signed thing.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        raise SignatureError(
            f"the signature of {what} does not belong to vendor key {public_key.hex()[:16]}",
            "use the key that made it, or make it again with this key",
        ) from None


@dataclass(frozen=True)
class VendorKey:
    """The vendor's key pair, kept as PKCS#8 PEM that only its owner can read."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> VendorKey:
        """A new random key pair."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, directory: Path | None = None) -> VendorKey:
        """The key in ``directory`` (default: :func:`default_key_dir`).

        Raises:
            KeyFileError: no key is there, it is not an Ed25519 key, or others may read it.
        """
        path = (directory or default_key_dir()) / PRIVATE_NAME
        if not path.is_file():
            raise KeyFileError(f"no vendor key at {path}", "make one with: cloister keys new")
        if path.stat().st_mode & 0o077:
            raise KeyFileError(f"vendor key {path} can be read by others", f"chmod 600 {path}")
        try:
            key = serialization.load_pem_private_key(read_file(path, "vendor key", 1 << 16), password=None)
        except (ValueError, TypeError) as error:
            raise KeyFileError(f"{path} is not a private key in PEM form", "restore it from your backup") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"{path} is not an Ed25519 key", "restore it from your backup")
        return cls(key)

    @classmethod
    def load_or_generate(cls, directory: Path | None = None) -> VendorKey:
        """The key in ``directory``, made there first if there is none."""
        directory = directory or default_key_dir()
        if not (directory / PRIVATE_NAME).exists():
            try:
                cls.generate().save(directory)
            except KeyFileError:
                if not (directory / PRIVATE_NAME).exists():
                    raise  # else another process was faster: its key is the one
        return cls.load(directory)

    def save(self, directory: Path) -> None:
        """Write ``vendor.key`` (mode 0600) and ``vendor.pub`` (64 hexadecimal digits) into ``directory``.

        Raises:
            KeyFileError: a key is there already; keys are never overwritten.
        """
        path = directory / PRIVATE_NAME
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            write_aside(path, pem, 0o600, replace=False)
        except FileExistsError:
            raise KeyFileError(f"{path} exists; bundles signed with it would be lost", "move it away first") from None
        write_aside(directory / PUBLIC_NAME, self.public.hex().encode() + b"\n")

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes; the TA is built with it."""
        return raw_public(self.private.public_key())

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return self.private.sign(message)


def content_key_path(key_id: bytes, directory: Path | None = None) -> Path:
    """Where the content key of that id (16 bytes) is kept: with the vendor's keys, never beside what ships."""
    return (directory or default_key_dir()) / "content" / f"{key_id.hex()}.key"


def save_content_key(key_id: bytes, content_key: bytes, directory: Path | None = None) -> Path:
    """Keep a content key (32 bytes) for the licences to come; returns the file, which only its owner can read."""
    path = content_key_path(key_id, directory)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_aside(path, content_key.hex().encode() + b"\n", 0o600)
    return path


def load_content_key(key_id: bytes, directory: Path | None = None) -> bytes:
    """The content key of that id (32 bytes).

    Raises:
        KeyFileError: it is not kept here, or the file is damaged.
    """
    path = content_key_path(key_id, directory)
    if not path.is_file():
        raise KeyFileError(
            f"the content key {key_id.hex()} of this bundle is not in {path.parent}",
            "issue licences where the bundle was compiled, or set CLOISTER_KEYS to a copy of its keys",
        )
    return _hexadecimal(path, "content key", "restore it from your backup")


def save_lock(key_id: bytes, digest: bytes, directory: Path | None = None) -> None:
    """Note beside a content key how what it seals is locked (``Password.lock_digest``, 32 bytes)."""
    write_aside(content_key_path(key_id, directory).with_suffix(LOCK_SUFFIX), digest.hex().encode() + b"\n", 0o600)


def load_lock(key_id: bytes, directory: Path | None = None) -> bytes | None:
    """What :func:`save_lock` noted (32 bytes); None where nothing was.

    Raises:
        KeyFileError: the file is damaged.
    """
    path = content_key_path(key_id, directory).with_suffix(LOCK_SUFFIX)
    return _hexadecimal(path, "note of a lock", DAMAGED_NOTE) if path.is_file() else None


def save_lock_name(key_id: bytes, lock_id: str, directory: Path | None = None) -> None:
    """Note beside a content key the name of the lock of what it seals (``Password.lock_id``)."""
    write_aside(content_key_path(key_id, directory).with_suffix(LOCK_NAME_SUFFIX), f"{lock_id}\n".encode(), 0o600)


def load_lock_name(key_id: bytes, directory: Path | None = None) -> str:
    """What :func:`save_lock_name` noted; "" where nothing was.

    Raises:
        KeyFileError: the file is damaged.
    """
    path = content_key_path(key_id, directory).with_suffix(LOCK_NAME_SUFFIX)
    return _hexadecimal(path, "note of a lock's name", DAMAGED_NOTE, 16).hex() if path.is_file() else ""


def _hexadecimal(path: Path, what: str, remedy: str, size: int = 32) -> bytes:
    """``size`` bytes that stand in a file as hexadecimal digits."""
    try:
        found = bytes.fromhex(read_file(path, what, 1 << 10).decode("ascii"))
    except ValueError as error:
        raise KeyFileError(f"{path} is no {what}", remedy) from error
    if len(found) != size:
        raise KeyFileError(f"{path} has {len(found)} bytes instead of {size}", remedy)
    return found

# SPDX-License-Identifier: BSD-2-Clause
"""The user's key that signs trusted applications. OP-TEE trusts it, and never the public default key."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cloister_build.errors import BuildError
from cloister_build.paths import keys_dir

KEY_BITS = 3072


def ta_sign_key() -> Path:
    """Return the file of the TA signing key (PEM, RSA); makes one at first use, readable by its owner only."""
    folder = keys_dir()
    path = folder / "ta_sign.pem"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    aside = folder / f".ta_sign.{os.getpid()}"
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
    try:
        # link, not rename: a key that another build made meanwhile is kept
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()
    return path


def public_digest(path: Path) -> str:
    """Return the hash of the public half: what OP-TEE is built with."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as err:
        raise BuildError(f"{path} is no RSA key in PEM form", "delete it to have a new one made") from err
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


def vendor_public_key() -> str | None:
    """Return the vendor's public key in hex (32 bytes), or None when the host package has made none yet."""
    path = keys_dir() / "vendor.pub"
    if not path.exists():
        return None
    text = path.read_text().strip().lower()
    if len(text) != 64 or any(c not in "0123456789abcdef" for c in text):
        raise BuildError(f"{path} does not hold 32 bytes in hex", "restore it, or delete vendor.key and vendor.pub")
    return text

# SPDX-License-Identifier: BSD-2-Clause
"""The licence: what lets one device run one bundle. Content key and limits, sealed to the device's public key.

HPKE (RFC 9180) base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; signed by the vendor (Ed25519).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from cloister.layers import check_layers, pack_password
from cloister.password import Password
from cloister.seal.bundle import Bundle, content_key_id
from cloister.seal.errors import LicenceError
from cloister.seal.files import read_file, write_aside
from cloister.seal.keys import VendorKey, verify
from cloister.wire import C, ffi, new, pack, unpack

#: What licence files begin with.
MAGIC = C.CL_MAGIC_LICENCE.to_bytes(4, "little")

LICENCE_DOMAIN = b"cloister licence v1"
#: With a password: what is signed is the licence's digest.
LONG_LICENCE_DOMAIN = b"cloister licence v2"
OUTPUTS = {"label": C.CL_OUTPUT_LABEL, "top-k": C.CL_OUTPUT_TOP_K, "full": C.CL_OUTPUT_FULL}
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def device_id(public_key: bytes) -> bytes:
    """The 32 bytes that name a device: SHA-256 of its X25519 public key."""
    return hashlib.sha256(public_key).digest()


@dataclass(frozen=True)
class Licence:
    """A licence as it lies in the file; the secret part is readable by the device alone."""

    data: bytes

    def __post_init__(self) -> None:
        """Check sizes and version.

        Raises:
            LicenceError: this is no whole licence.
        """
        size = ffi.sizeof("struct cl_licence") + C.CL_SIGNATURE_SIZE
        if self.data[:4] != MAGIC:
            raise LicenceError("this is not a Cloister licence", "give a file that 'cloister licence' wrote")
        whole = size if len(self.data) < size else self.header.total_size
        if len(self.data) != whole or whole < size:
            raise LicenceError(f"the licence has {len(self.data)} bytes, {whole} are right", "copy it again")
        if self.header.version != C.CL_FORMAT_VERSION:
            raise LicenceError(
                f"the licence has format version {self.header.version}, this program knows {C.CL_FORMAT_VERSION}",
                "issue it again",
            )

    @property
    def header(self) -> Any:
        """``struct cl_licence``."""
        return unpack("struct cl_licence", self.data)

    @property
    def device_id(self) -> bytes:
        """The device that it is for (32 bytes)."""
        return bytes(self.header.device_id)

    @property
    def model_id(self) -> bytes:
        """The model that it is for (16 bytes)."""
        return bytes(self.header.model_id)

    @property
    def licence_id(self) -> bytes:
        """16 random bytes; the device keeps its counters under this name."""
        return bytes(self.header.licence_id)

    @property
    def has_password(self) -> bool:
        """It carries a password; which, and what it says, is sealed."""
        return len(self.data) > int(ffi.sizeof("struct cl_licence") + C.CL_SIGNATURE_SIZE)

    def check_signature(self, vendor: bytes) -> None:
        """Check that ``vendor`` (public key, 32 bytes) signed the licence.

        Raises:
            SignatureError: it did not.
        """
        size = C.CL_SIGNATURE_SIZE
        verify(vendor, self.data[-size:], signed_message(self.data[:-size]), "the licence")

    def save(self, path: Path | str) -> None:
        """Write the licence file, aside first."""
        write_aside(Path(path), self.data)

    @classmethod
    def load(cls, path: Path | str) -> Licence:
        """Read a licence file.

        Raises:
            CloisterError: it cannot be read; LicenceError: it is no whole licence.
        """
        data = read_file(Path(path), "licence", 1 << 17)
        try:
            return cls(data)
        except LicenceError as error:
            raise LicenceError(f"{path}: {error.message}", error.remedy) from error


def signed_message(unsigned: bytes) -> bytes:
    """What the vendor signs of a licence without its signature."""
    if len(unsigned) == ffi.sizeof("struct cl_licence"):
        return LICENCE_DOMAIN + unsigned
    return LONG_LICENCE_DOMAIN + hashlib.sha256(unsigned).digest()


def issue_licence(
    bundle: Bundle,
    content_key: bytes,
    device_public_key: bytes,
    vendor: VendorKey,
    *,
    output: str = "label",
    top_k: int = 0,
    queries: int = 0,
    rate_per_minute: int = 0,
    min_version: int | None = None,
    max_version: int | None = None,
    password: Password | None = None,
) -> Licence:
    """Let one device run one bundle.

    Args:
        bundle: what it opens.
        content_key: 32 secret bytes, as :func:`cloister.seal.seal_bundle` gave them.
        device_public_key: 32 bytes, X25519, as ``cloister provision`` fetched them.
        vendor: signs the licence.
        output: most that an answer may reveal: ``label``, ``top-k`` or ``full``.
        top_k: with ``top-k``, the most entries of an answer.
        queries: answers that it pays for; 0 for no limit.
        rate_per_minute: answers in a minute; 0 for no limit.
        min_version: lowest model version that it opens (default: the bundle's).
        max_version: highest model version that it opens (default: the bundle's).
        password: what a locked model needs to answer as its owner's did; readable by the device alone.

    Raises:
        LicenceError: an argument is out of range, or the content key is not the bundle's.
        PasswordError: the password names a layer or channel that the bundle has not, or is too long for a licence.
    """
    if output not in OUTPUTS:
        raise LicenceError(f"output {output!r} is not one of {', '.join(OUTPUTS)}", "choose one of them")
    if (output == "top-k") != (top_k > 0) or top_k >= 1 << 32:
        raise LicenceError(
            f"top-k {top_k} does not fit output {output!r}", "give --top-k with --output top-k, and only then"
        )
    if not 0 <= queries < 1 << 64 or not 0 <= rate_per_minute < 1 << 32:
        raise LicenceError(f"limits out of range: {queries} queries, {rate_per_minute} a minute", "use 0 for none")
    if len(device_public_key) != C.CL_KEY_SIZE:
        raise LicenceError(
            f"the device's key has {len(device_public_key)} bytes instead of {C.CL_KEY_SIZE}",
            "fetch it again with: cloister provision",
        )
    low = bundle.version if min_version is None else min_version
    high = bundle.version if max_version is None else max_version
    if not 1 <= low <= high < 1 << 32:
        raise LicenceError(f"versions {low} to {high} are no range", "give min-version <= max-version, from 1")
    if content_key_id(content_key) != bytes(bundle.header.content_key_id):
        raise LicenceError(
            f"this content key is not the one of bundle {bundle.name!r}",
            "use the key that was kept when the bundle was compiled",
        )

    locks = b""
    if password is not None:
        layers = bundle.layers(content_key)
        check_layers(password, layers, bundle.name)
        locks = pack_password(password, layers)

    secret = new(
        "struct cl_licence_secret",
        content_key=list(content_key),
        query_limit=queries,
        rate_per_minute=rate_per_minute,
        output=OUTPUTS[output],
        top_k=top_k,
        min_model_version=low,
        max_model_version=high,
        password_size=len(locks),
    )
    size = ffi.sizeof("struct cl_licence")
    licence = new(
        "struct cl_licence",
        magic=C.CL_MAGIC_LICENCE,
        version=C.CL_FORMAT_VERSION,
        header_size=size,
        total_size=size + len(locks) + C.CL_SIGNATURE_SIZE,
        sealed_size=ffi.sizeof("struct cl_licence_secret") + len(locks) + C.CL_TAG_SIZE,
        licence_id=list(os.urandom(C.CL_ID_SIZE)),
        model_id=list(bundle.model_id),
        device_id=list(device_id(device_public_key)),
    )
    clear = pack(licence)[: ffi.offsetof("struct cl_licence", "enc")]
    try:
        receiver = X25519PublicKey.from_public_bytes(device_public_key)
        sealed = SUITE.encrypt(pack(secret) + locks, receiver, LICENCE_DOMAIN + clear)
    except ValueError as error:
        # RFC 9180, section 7.1.4: a point of low order, with which anybody could open what is sealed
        raise LicenceError(
            f"the device's key {device_public_key.hex()} is no key to seal to",
            "do not trust where it came from; fetch it again with: cloister provision",
        ) from error
    unsigned = clear + sealed  # SUITE's output is the encapsulated key, then the ciphertext: the order of the structure
    return Licence(unsigned + vendor.sign(signed_message(unsigned)))

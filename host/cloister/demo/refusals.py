# SPDX-License-Identifier: BSD-2-Clause
"""Four attempts that the TA must refuse, each with an error of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.seal import Bundle, Licence, VendorKey, issue_licence, seal_bundle
from cloister.seal.bundle import Sealable
from cloister.wire import C, ffi


@dataclass(frozen=True)
class Attempt:
    """What an attacker hands to the TA, and the result code that it must answer with."""

    name: str
    bundle: Bundle
    licence: Licence
    expected: int


def flip_bit(bundle: Bundle, index: int) -> Bundle:
    """The bundle with one bit of a partition's ciphertext flipped."""
    offset, sealed_size, _ = bundle.partitions[index]
    payload = bytearray(bundle.payload)
    payload[offset + (ffi.sizeof("struct cl_sealed_header") + sealed_size) // 2] ^= 0x10
    return Bundle(bundle.manifest, bytes(payload))


def swap(bundle: Bundle, first: int, second: int) -> Bundle:
    """The bundle with two partitions in each other's place, each cut or padded to the size that is expected there."""
    payload = bytearray(bundle.payload)
    places = bundle.partitions
    for here, there in ((first, second), (second, first)):
        offset, size, _ = places[here]
        source, length, _ = places[there]
        payload[offset : offset + size] = bundle.payload[source : source + length][:size].ljust(size, b"\0")
    return Bundle(bundle.manifest, bytes(payload))


def attempts(
    model: Sealable, bundle: Bundle, content_key: bytes, licence: Licence, device_key: bytes, vendor: VendorKey
) -> list[Attempt]:
    """The four attempts on a device that holds a good ``licence`` for ``bundle``."""
    stranger = X25519PrivateKey.generate().public_key().public_bytes_raw()
    if stranger == device_key:
        raise AssertionError("two equal random keys")
    other, _ = seal_bundle(model, vendor, name=f"not {bundle.name}", version=bundle.version)
    last = len(bundle.partitions) - 1
    return [
        Attempt("flipped bit in a partition", flip_bit(bundle, last), licence, 0xFFFF3071),  # TEE_ERROR_MAC_INVALID
        Attempt("swapped partitions", swap(bundle, 0, last), licence, C.CL_ERROR_WRONG_PARTITION),
        Attempt("manifest of another model", other, licence, C.CL_ERROR_WRONG_MODEL),
        Attempt(
            "licence for another device",
            bundle,
            issue_licence(bundle, content_key, stranger, vendor),
            C.CL_ERROR_WRONG_DEVICE,
        ),
    ]


def refused(device: Any, attempt: Attempt, image: np.ndarray[Any, Any], error: type[Exception]) -> tuple[str, int]:
    """Try it: load and run one image. Returns the name and code of the error, or ("not refused", 0)."""
    try:
        with device.load(attempt.bundle, attempt.licence) as model:
            model.run(image)
    except error as problem:
        return str(getattr(problem, "name", type(problem).__name__)), int(getattr(problem, "code", -1))
    return "not refused", 0

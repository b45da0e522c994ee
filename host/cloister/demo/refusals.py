# SPDX-License-Identifier: BSD-2-Clause
"""What the device must refuse, each with an error of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.backbone import BackboneError
from cloister.seal import Bundle, Licence, VendorKey, issue_licence
from cloister.teec.codes import Code
from cloister.teec.errors import TeecError
from cloister.wire import C, ffi


@dataclass(frozen=True)
class Attempt:
    """What an attacker hands to the device, and the TA's result code that he must be answered with.

    Where ``expected`` is None, the TA never sees it: the backbone is not the one that the signed manifest names.
    """

    name: str
    bundle: Bundle
    licence: Licence
    expected: int | None


def flip_bit(bundle: Bundle, index: int) -> Bundle:
    """The bundle with one bit of a partition's ciphertext flipped."""
    offset, sealed_size, _ = bundle.partitions[index]
    payload = bytearray(bundle.payload)
    payload[offset + (ffi.sizeof("struct cl_sealed_header") + sealed_size) // 2] ^= 0x10
    return replace(bundle, payload=bytes(payload))


def swap(bundle: Bundle, first: int, second: int) -> Bundle:
    """The bundle with two partitions in each other's place, each cut or padded to the size that is expected there."""
    payload = bytearray(bundle.payload)
    places = bundle.partitions
    for here, there in ((first, second), (second, first)):
        offset, size, _ = places[here]
        source, length, _ = places[there]
        payload[offset : offset + size] = bundle.payload[source : source + length][:size].ljust(size, b"\0")
    return replace(bundle, payload=bytes(payload))


def change_backbone(bundle: Bundle) -> Bundle:
    """The pair with one bit of its backbone changed, which lies in clear."""
    section = bytearray(bundle.section)
    section[-100] ^= 1
    return replace(bundle, section=bytes(section))


def forge_digest(bundle: Bundle) -> Bundle:
    """The pair with a changed backbone, and a manifest that names its digest."""
    changed = change_backbone(bundle)
    at, digest = ffi.sizeof("struct cl_manifest"), hashlib.sha256(changed.section).digest()
    return replace(changed, manifest=changed.manifest[:at] + digest + changed.manifest[at + len(digest) :])


def attempts(
    bundle: Bundle, other: Bundle, content_key: bytes, licence: Licence, device_key: bytes, vendor: VendorKey
) -> list[Attempt]:
    """What is tried on a device that holds a good ``licence`` for the pair ``bundle``; ``other`` is another model."""
    stranger = X25519PrivateKey.generate().public_key().public_bytes_raw()
    if stranger == device_key:
        raise AssertionError("two equal random keys")
    last = len(bundle.partitions) - 1
    foreign = issue_licence(bundle, content_key, stranger, vendor)
    return [
        Attempt("flipped bit in a partition", flip_bit(bundle, last), licence, Code.MAC_INVALID),
        Attempt("swapped partitions", swap(bundle, 0, last), licence, int(C.CL_ERROR_WRONG_PARTITION)),
        Attempt("manifest of another model", other, licence, int(C.CL_ERROR_WRONG_MODEL)),
        Attempt("licence for another device", bundle, foreign, int(C.CL_ERROR_WRONG_DEVICE)),
        Attempt("changed backbone", change_backbone(bundle), licence, None),
        Attempt("changed backbone, its digest forged", forge_digest(bundle), licence, Code.SIGNATURE_INVALID),
    ]


def refused(device: Any, attempt: Attempt, image: np.ndarray[Any, Any]) -> tuple[str, bool]:
    """Try it: load and run one image. Returns the error's name or "not refused", and whether it is the right one."""
    try:
        with device.load(attempt.bundle, attempt.licence) as model:
            model.run(image)
    except BackboneError as problem:
        return type(problem).__name__, attempt.expected is None
    except TeecError as problem:
        return problem.name, problem.code == attempt.expected
    return "not refused", False

# SPDX-License-Identifier: BSD-2-Clause
"""Layers that a password may name, and the password as licences carry it (struct cl_password in cloister_format.h).

Needs neither torch nor onnx. What a password is stands in :mod:`cloister.password`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cloister.password import Password, PasswordError
from cloister.wire import C, ffi, new, pack, unpack

#: Licences grow in steps of so many bytes, so that their length does not tell the number of locked channels.
PADDING = 1024


def layer_id(tensor: str) -> bytes:
    """The 8 bytes that stand for the ONNX tensor ``tensor``."""
    return hashlib.sha256(tensor.encode()).digest()[: C.CL_LAYER_ID_SIZE]


def partition_sites(partition: bytes) -> list[Any]:
    """``struct cl_site`` of a plain partition, in order; none of what is no partition."""
    head = ffi.sizeof("struct cl_partition")
    if len(partition) < head or partition[:4] != C.CL_MAGIC_PARTITION.to_bytes(4, "little"):
        return []
    header = unpack("struct cl_partition", partition)
    start, step = header.ops_offset + header.ops_size, ffi.sizeof("struct cl_site")
    return [unpack("struct cl_site", partition, start + index * step) for index in range(header.site_count)]


def layers_of(partitions: Sequence[bytes]) -> dict[bytes, int]:
    """Channels of each layer that has sites in plain partitions, by the layer's id."""
    found: dict[bytes, int] = {}
    for partition in partitions:
        for site in partition_sites(partition):
            key = bytes(site.layer)
            found[key] = max(found.get(key, 0), site.first + site.channels)
    return found


def check_layers(password: Password, layers: Mapping[bytes, int], model: str) -> None:
    """Check that a model has the layers and channels that a password names.

    Raises:
        PasswordError: it has not; names the tensor.
    """
    remedy = "give the password that was made with this model"
    for lock in password.locks:
        count = layers.get(layer_id(lock.tensor))
        if count is None:
            raise PasswordError(f"model {model!r} has no layer that computes {lock.tensor!r}", remedy)
        if int(lock.channels[-1]) >= count:
            raise PasswordError(
                f"tensor {lock.tensor!r} of model {model!r} has {count} channels, the password names channel "
                f"{int(lock.channels[-1])}",
                remedy,
            )


def pack_password(password: Password) -> bytes:
    """``struct cl_password`` and what follows it, padded.

    Raises:
        PasswordError: longer than a licence may carry, or two tensors' names share an id.
    """
    locks = sorted(password.locks, key=lambda lock: layer_id(lock.tensor))
    ids = [layer_id(lock.tensor) for lock in locks]
    if len(set(ids)) != len(ids):
        raise PasswordError("two tensors of the password share an id", "rename one of them in the ONNX file")
    parts = [pack(new("struct cl_lock", layer=list(layer_id(k.tensor)), entry_count=len(k.channels))) for k in locks]
    for lock in locks:
        for channel, scale, value in zip(lock.channels, lock.scales, lock.values, strict=True):
            entry = new("struct cl_lock_entry", channel=int(channel), scale=float(scale), value=float(value))
            parts.append(pack(entry))
    body = b"".join(parts)
    head = ffi.sizeof("struct cl_password")
    size = -(-(head + len(body)) // PADDING) * PADDING
    if size > C.CL_MAX_PASSWORD:
        most = (C.CL_MAX_PASSWORD - head) // ffi.sizeof("struct cl_lock_entry")
        raise PasswordError(
            f"the password locks {password.channels} channels; a licence has room for about {most}", "lock fewer"
        )
    header = new(
        "struct cl_password",
        magic=C.CL_MAGIC_PASSWORD,
        version=C.CL_FORMAT_VERSION,
        header_size=head,
        total_size=size,
        lock_count=len(locks),
        entry_count=password.channels,
        id=list(password.id),
    )
    return (pack(header) + body).ljust(size, b"\0")

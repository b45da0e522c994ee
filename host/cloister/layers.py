# SPDX-License-Identifier: BSD-2-Clause
"""Layers that a password may name, and the password as licences carry it (struct cl_password in cloister_format.h).

Needs neither torch nor onnx. What a password is stands in :mod:`cloister.password`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cloister.password import Lock, Password, PasswordError
from cloister.tensors import Array
from cloister.wire import C, ffi, new, pack, unpack

#: Licences grow in steps of so many bytes, so that their length does not tell the number of locked channels.
PADDING = 1024
#: Least magnitude of a scale in a licence, which stands for 0 there.
SMALLEST_SCALE = np.float32(2.0**-64)
#: Bytes of a channel's scale and value.
NUMBERS = 8


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
    """Check that a model has the layers and channels that a password names, and does not show them.

    Raises:
        PasswordError: it has not; names the tensor.
    """
    remedy = "give the password that was made with this model; cloister compile --password tells more"
    for lock in password.locks:
        count = layers.get(layer_id(lock.tensor))
        if count is None:
            raise PasswordError(
                f"model {model!r} has no layer that computes {lock.tensor!r}, or the normal world sees its result",
                remedy,
            )
        if int(lock.channels[-1]) >= count:
            raise PasswordError(
                f"tensor {lock.tensor!r} of model {model!r} has {count} channels, the password names channel "
                f"{int(lock.channels[-1])}",
                remedy,
            )


def pack_password(password: Password, layers: Mapping[bytes, int] | None = None) -> bytes:
    """``struct cl_password`` and what follows it, padded.

    Where there is room a lock covers its whole layer, which devices unlock fastest, else the locked channels and what
    lies close between them.

    Args:
        password: what to pack.
        layers: channels of each layer by its id; not given, a layer ends with its last locked channel.

    Raises:
        PasswordError: longer than a licence may carry, or two tensors' names share an id.
    """
    locks = sorted(password.locks, key=lambda lock: layer_id(lock.tensor))
    ids = [layer_id(lock.tensor) for lock in locks]
    if len(set(ids)) != len(ids):
        raise PasswordError("two tensors of the password share an id", "rename one of them in the ONNX file")
    words = _pack(password, [(lock, [_whole(lock, layers or {})]) for lock in locks])
    if len(words) > C.CL_MAX_PASSWORD:
        words = _pack(password, [(lock, _runs(lock)) for lock in locks])
    if len(words) > C.CL_MAX_PASSWORD:
        most = (C.CL_MAX_PASSWORD - ffi.sizeof("struct cl_password")) // NUMBERS
        raise PasswordError(
            f"the password locks {password.channels} channels; a licence has room for about {most}, fewer where they "
            "lie far apart",
            "lock fewer",
        )
    return words


def _whole(lock: Lock, layers: Mapping[bytes, int]) -> tuple[int, int]:
    """First and last channel of the layer."""
    return 0, max(int(lock.channels[-1]), layers.get(layer_id(lock.tensor), 0) - 1)


def _runs(lock: Lock) -> list[tuple[int, int]]:
    """First and last channels of as few runs as take the least room."""
    channels = lock.channels.astype(np.int64)
    cuts = np.flatnonzero(np.diff(channels) - 1 > ffi.sizeof("struct cl_lock") // NUMBERS)
    firsts, lasts = [0, *(cuts + 1)], [*cuts, len(channels) - 1]
    return [(int(channels[first]), int(channels[last])) for first, last in zip(firsts, lasts, strict=True)]


def _pack(password: Password, locks: Sequence[tuple[Lock, Sequence[tuple[int, int]]]]) -> bytes:
    """The words for locks in order, each with the runs of channels that it covers."""
    parts: list[bytes] = []
    numbers: list[Array] = []
    count = 0
    for lock, runs in locks:
        for first, last in runs:
            parts.append(
                pack(new("struct cl_lock", layer=list(layer_id(lock.tensor)), first=first, last=last, at=count))
            )
            count += last - first + 1
            within = (lock.channels >= first) & (lock.channels <= last)
            run = np.stack((np.ones(last - first + 1, "<f4"), np.zeros(last - first + 1, "<f4")))
            scales = lock.scales[within]
            small = np.abs(scales) < SMALLEST_SCALE
            run[:, lock.channels[within] - first] = np.where(small, SMALLEST_SCALE, scales), lock.values[within]
            numbers.append(run)
    body = b"".join(parts) + np.concatenate(numbers, axis=1).tobytes()
    head = ffi.sizeof("struct cl_password")
    size = -(-(head + len(body)) // PADDING) * PADDING
    header = new(
        "struct cl_password",
        magic=C.CL_MAGIC_PASSWORD,
        version=C.CL_PASSWORD_VERSION,
        header_size=head,
        total_size=size,
        lock_count=len(parts),
        channel_count=count,
        id=list(password.id),
    )
    return (pack(header) + body).ljust(size, b"\0")

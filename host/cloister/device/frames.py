# SPDX-License-Identifier: BSD-2-Clause
"""The messages between host and on-device agent: a JSON header and raw blobs behind it.

A frame is, big-endian: magic `CLAG`, u32 length of the header, the header (UTF-8 JSON object whose
field `blobs` lists the length of each blob in bytes), the blobs. Used by both sides; imports
nothing but the standard library.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

#: Changes whenever a command changes its meaning.
PROTOCOL_VERSION = 1
MAGIC = b"CLAG"
PREFIX = struct.Struct(">4sI")
MAX_HEADER = 4 << 20
MAX_BLOBS = 2 << 30


class FrameError(Exception):
    """The stream does not hold a frame."""


Blob = bytes | bytearray | memoryview


def encode(header: dict[str, Any], blobs: Sequence[Blob] = ()) -> Iterable[bytes | memoryview]:
    """The pieces of a frame, in the order in which they are sent; blobs are not copied."""
    views = [memoryview(blob).cast("B") for blob in blobs]
    text = json.dumps({**header, "blobs": [len(view) for view in views]}).encode()
    yield PREFIX.pack(MAGIC, len(text)) + text
    yield from views


def decode(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Read one frame; None where the stream ends before it.

    Args:
        read: returns exactly as many bytes as asked for, fewer only at the end of the stream.

    Raises:
        FrameError: this is no frame, or it is cut off.
    """
    prefix = read(PREFIX.size)
    if not prefix:
        return None
    if len(prefix) != PREFIX.size:
        raise FrameError(f"the stream ends inside a frame, after {prefix!r}")
    magic, size = PREFIX.unpack(prefix)
    if magic != MAGIC or size > MAX_HEADER:
        raise FrameError(f"no frame begins with {prefix!r}")
    text = read(size)
    try:
        header = json.loads(text)
        lengths = header.pop("blobs")
        if not all(isinstance(length, int) and length >= 0 for length in lengths) or sum(lengths) > MAX_BLOBS:
            raise ValueError("lengths of blobs")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FrameError(f"the header of a frame is malformed: {error}: {text[:200]!r}") from error
    blobs = []
    for length in lengths:
        blob = read(length)
        if len(blob) != length:
            raise FrameError(f"the stream ends inside a blob: {len(blob)} of {length} bytes")
        blobs.append(blob)
    return header, blobs

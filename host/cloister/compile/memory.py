# SPDX-License-Identifier: BSD-2-Clause
"""What the TA takes of secure memory for a bundle, as ``ta/load.c`` and ``ta/plan.c`` reckon it.

A budget of N bytes is all that a session takes: the TA's own pages (code, data, stack), which are there before a
model is loaded; the pages that hold the slots' table and the manifest; those of a licence with a password; and the
pages of the model: the arena, then either all partitions, or a buffer for the largest and those that still fit. The
limit that LOAD takes (``device.load(memory=...)``) counts all but the first: it is the budget without :data:`TA_OWN`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.compile.planner import align
from cloister.wire import C, ffi

PAGE = 4096
#: The built TA's own code, data and stack in whole pages (``cloister inspect`` shows 432 KiB), and what it may grow by.
TA_OWN = 448 << 10
#: sizeof(struct cl_slot) in ta/plan.h: an offset and two flags.
SLOT = 16


def pages(size: int) -> int:
    """``size`` in whole pages, in bytes."""
    return -(-size // PAGE) * PAGE


def manifest_size(partitions: int, ios: int, layers: int = 0) -> int:
    """Bytes of a manifest with its signature and the sealed table of ``layers`` that a password may name."""
    sizes = [ffi.sizeof(f"struct {name}") for name in ("cl_manifest", "cl_io", "cl_partition_desc")]
    table = ffi.sizeof("struct cl_layers_head") + layers * ffi.sizeof("struct cl_layer") + C.CL_TAG_SIZE
    fixed = C.CL_SIGNATURE_SIZE + (table if layers else 0)
    return int(sizes[0] + sizes[1] * ios + sizes[2] * partitions + fixed)


def manifest_pages(partitions: int, ios: int, layers: int = 0) -> int:
    """Bytes of secure memory for a manifest and the slots before it (take_manifest in ta/load.c)."""
    size = manifest_size(partitions, ios, layers)
    slots = min(size // ffi.sizeof("struct cl_partition_desc"), C.CL_MAX_PARTITIONS) * SLOT
    return pages(slots + size)


@dataclass(frozen=True)
class Residency:
    """How a model lies in a budget (cl_plan_make in ta/plan.c).

    Attributes:
        budget: bytes given to the whole session.
        used: bytes that the session takes, the TA's own included.
        loaded: bytes of those that LOAD reports and USAGE's peak shows: without the TA's own.
        resident: index of each partition that stays decrypted.
        resident_bytes: their plain bytes.
        streamed: plain bytes that every inference decrypts.
    """

    budget: int
    used: int
    loaded: int
    resident: tuple[int, ...]
    resident_bytes: int
    streamed: int


def licence_pages(password: int) -> int:
    """Bytes that a licence takes while its model is loaded, in whole pages, if its password takes so many."""
    # struct licence_copy of ta/load.c: the signed domain and what aligns it, the licence, its signature
    return pages(24 + ffi.sizeof("struct cl_licence") + C.CL_SIGNATURE_SIZE + password)


def least_memory(arena: int, sizes: Sequence[int], ios: int, layers: int = 0) -> int:
    """The smallest budget in which a model runs."""
    model = align(arena) + align(max(sizes))
    return TA_OWN + manifest_pages(len(sizes), ios, layers) + pages(model)


def reside(arena: int, sizes: Sequence[int], ios: int, budget: int, layers: int = 0) -> Residency | None:
    """How a model with plain partitions of ``sizes`` lies in ``budget`` bytes; None where it does not fit."""
    table = manifest_pages(len(sizes), ios, layers)
    room = budget - TA_OWN - table
    room = room // PAGE * PAGE
    buffer = align(arena)
    least = buffer + align(max(sizes))
    most = buffer + sum(map(align, sizes))
    least = min(least, most)
    if room < least:
        return None
    room = min(room, most)
    following = buffer if room >= most else least
    resident = []
    for index, size in enumerate(sizes):
        if align(size) <= room - following:
            resident.append(index)
            following += align(size)
    kept = sum(sizes[index] for index in resident)
    loaded = table + pages(following)
    return Residency(budget, TA_OWN + loaded, loaded, tuple(resident), kept, sum(sizes) - kept)

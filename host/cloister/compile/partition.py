# SPDX-License-Identifier: BSD-2-Clause
"""Cutting the list of kernels into partitions of bounded size."""

from __future__ import annotations

from collections.abc import Sequence

from cloister.compile.lowering import STRUCTS, Constant, Op
from cloister.compile.planner import align
from cloister.compile.sites import Site, sites_of
from cloister.errors import CloisterError
from cloister.wire import C, ffi

#: Sizes and offsets are 32 bits wide.
LIMIT = 1 << 32
#: Bytes of a site.
SITE = ffi.sizeof("struct cl_site")


class PartitionError(CloisterError):
    """The model does not fit the limits on partitions."""


def partition_size(ops: Sequence[Op]) -> int:
    """Bytes of the plain partition that holds these kernels: header, records, each site and constant once."""
    constants: dict[Constant, None] = {}
    records = 0
    for op in ops:
        records += ffi.sizeof(STRUCTS[op.kernel])
        constants.update(dict.fromkeys(op.constants))
    records += len(sites_of(ops)) * SITE
    size = align(ffi.sizeof("struct cl_partition") + records)
    return size + sum(align(constant.size) for constant in constants)


def _begins_region(ops: Sequence[Op]) -> dict[int, list[Op]]:
    """The kernels of each striped region by the position of its first."""
    found: dict[int, list[Op]] = {}
    begin = 0
    for index, op in enumerate(ops):
        if op.region is None:
            continue
        if index == 0 or ops[index - 1].region != op.region:
            begin = index
            found[begin] = []
        found[begin].append(op)
    return found


def split_by_size(ops: Sequence[Op], limit: int) -> list[list[Op]]:
    """As few partitions as neighbouring kernels allow within ``limit`` bytes; a larger kernel stands alone.

    The bands of a striped region read the same weights, so a region stays together where it fits.
    """
    parts: list[list[Op]] = []
    regions = _begins_region(ops)
    base = ffi.sizeof("struct cl_partition")
    records = weights = 0
    seen: set[Constant | Site] = set()
    for index, op in enumerate(ops):
        region = regions.get(index)
        if region and parts and parts[-1] and not _joins(parts[-1], region, limit):
            parts.append([])
            seen, records, weights = set(), 0, 0
        record = ffi.sizeof(STRUCTS[op.kernel])
        if op.site is not None and op.site not in seen:
            record += SITE
        fresh = sum(align(constant.size) for constant in op.constants if constant not in seen)
        if not parts or (parts[-1] and align(base + records + record) + weights + fresh > limit):
            parts.append([])
            seen, records, weights = set(), 0, 0
            fresh = sum(align(constant.size) for constant in op.constants)
            record = ffi.sizeof(STRUCTS[op.kernel]) + (SITE if op.site is not None else 0)
        parts[-1].append(op)
        seen.update(op.constants)
        if op.site is not None:
            seen.add(op.site)
        records += record
        weights += fresh
    return parts


def _joins(part: list[Op], region: list[Op], limit: int) -> bool:
    """A region begins in the open partition if all of it fits there, or if it does not fit into one of its own."""
    return partition_size([*part, *region]) <= limit or partition_size(region) > limit


def split_by_count(ops: Sequence[Op], count: int) -> list[list[Op]]:
    """``count`` partitions, the largest as small as possible.

    Raises:
        PartitionError: there are fewer kernels than that.
    """
    if count < 1 or count > len(ops):
        raise PartitionError(
            f"{count} partitions are asked for, the model has {len(ops)} kernels",
            f"ask for 1 to {len(ops)} partitions",
        )
    low, high = max(partition_size([op]) for op in ops), partition_size(ops)
    while low < high:
        middle = (low + high) // 2
        if len(split_by_size(ops, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    parts = split_by_size(ops, low)
    while len(parts) < count:
        index = max((i for i in range(len(parts)) if len(parts[i]) > 1), key=lambda i: (partition_size(parts[i]), -i))
        part = parts[index]
        cut = min(range(1, len(part)), key=lambda at: (max(partition_size(part[:at]), partition_size(part[at:])), at))
        parts[index : index + 1] = [part[:cut], part[cut:]]
    return parts


def split(ops: Sequence[Op], limit: int, count: int | None) -> list[list[Op]]:
    """Partitions by number where ``count`` is given, else by size.

    Raises:
        PartitionError: too few kernels for ``count``, or more partitions than the format allows.
    """
    parts = split_by_size(ops, limit) if count is None else split_by_count(ops, count)
    if len(parts) > C.CL_MAX_PARTITIONS:
        raise PartitionError(
            f"{len(parts)} partitions, the format allows {C.CL_MAX_PARTITIONS}", "allow larger partitions"
        )
    largest = max((partition_size(part) for part in parts), default=0)
    if largest >= LIMIT:
        raise PartitionError(
            f"a kernel's weights take {largest} bytes, the format allows {LIMIT - 1}", "use a smaller model"
        )
    return parts

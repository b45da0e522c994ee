# SPDX-License-Identifier: BSD-2-Clause
"""The exact bytes of a plain partition: header, operator records, weights (cloister_format.h)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloister.compile.lowering import REF_ALIGN, STRUCTS, Buffer, Constant, Op
from cloister.compile.planner import Plan, align
from cloister.compile.sites import Site, packing_for, sites_of
from cloister.layers import layer_id
from cloister.wire import C, ffi, new, pack


def emit_partition(ops: Sequence[Op], plan: Plan) -> bytes:
    """One partition; the same input gives the same bytes."""
    offsets: dict[Constant, int] = {}
    weights = bytearray()
    for op in ops:
        for constant in op.constants:
            if constant not in offsets:
                offsets[constant] = len(weights)
                weights += constant.data
                weights += bytes(align(len(weights)) - len(weights))
    records = b"".join(_record(op, plan, offsets) for op in ops)
    sites = [_site(site, packing_for(site, ops), offsets) for site in sites_of(ops)]
    ops_offset = ffi.sizeof("struct cl_partition")
    head = ops_offset + len(records) + sum(map(len, sites))
    weights_offset = align(head)
    header = new(
        "struct cl_partition",
        magic=C.CL_MAGIC_PARTITION,
        version=C.CL_FORMAT_VERSION,
        header_size=ops_offset,
        total_size=weights_offset + len(weights),
        op_count=len(ops),
        ops_offset=ops_offset,
        ops_size=len(records),
        weights_offset=weights_offset,
        weights_size=len(weights),
        arena_size=plan.size,
        site_count=len(sites),
    )
    return b"".join((pack(header), records, *sites, bytes(weights_offset - head), weights))


def _site(site: Site, packing: int, constants: dict[Constant, int]) -> bytes:
    fields: dict[str, Any] = {
        name: {"space": C.CL_SPACE_WEIGHTS, "offset": constants[ref.memory] + ref.start, "size": ref.size}
        for name, ref in (("weights", site.weights), ("bias", site.bias))
        if ref is not None and isinstance(ref.memory, Constant)
    }
    part = site.part
    return pack(
        new(
            "struct cl_site",
            layer=list(layer_id(part.tensor)),
            packing=packing,
            first=part.first,
            channels=part.channels,
            groups=part.groups,
            depth=part.depth,
            out_scale=site.out_scale,
            **fields,
        )
    )


def _record(op: Op, plan: Plan, constants: dict[Constant, int]) -> bytes:
    struct = STRUCTS[op.kernel]
    fields: dict[str, Any] = {
        name: _ref(value, plan, constants) if isinstance(value, Buffer) else value for name, value in op.fields.items()
    }
    fields["op"] = {
        "kernel": getattr(C, f"CL_KERNEL_{op.kernel}"),
        "size": ffi.sizeof(struct),
        "node": op.node.index,
    }
    try:
        return pack(new(struct, **fields))
    except (OverflowError, TypeError, IndexError) as error:
        raise ValueError(f"node {op.node.name!r}: {struct} cannot hold {fields}: {error}") from error


def _ref(buffer: Buffer, plan: Plan, constants: dict[Constant, int]) -> dict[str, int]:
    if isinstance(buffer.memory, Constant):
        space, base = C.CL_SPACE_WEIGHTS, constants[buffer.memory]
    else:
        space, base = C.CL_SPACE_ARENA, plan.offsets[buffer.memory]
    offset = base + buffer.start
    if offset % REF_ALIGN:
        raise ValueError(f"a reference at {offset} is not aligned to {REF_ALIGN} bytes")
    return {"space": space, "offset": offset, "size": buffer.size}

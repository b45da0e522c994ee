# SPDX-License-Identifier: BSD-2-Clause
"""From a graph to kernels, their memory and their partitions: everything about a compile but its bytes."""

from __future__ import annotations

from cloister.compile.arrangement import Arrangement, Lowered, Progress, lockable_layers, lower
from cloister.compile.budget import (
    PARTITION_OVERHEAD,
    MemoryBudgetError,
    for_any_budget,
    for_budget,
    smallest,
    smallest_budget,
    too_small,
    with_winograd,
)
from cloister.compile.memory import licence_pages
from cloister.compile.partition import split
from cloister.compile.planner import plan_arena
from cloister.compile.winograd import streamed_byte
from cloister.ir.graph import Graph
from cloister.layers import layer_id, pack_password
from cloister.password import Password

#: Default limit of a plain partition where neither it nor a budget of memory is given.
MAX_PARTITION = 1 << 20


def arrange(
    graph: Graph,
    *,
    max_partition: int | None = None,
    partitions: int | None = None,
    secure_memory: int | None = None,
    winograd: bool = True,
    cipher: str | None = None,
    held: int = 0,
    progress: Progress | None = None,
) -> Arrangement:
    """Arranges an optimised graph; arguments and errors as :func:`cloister.compile.compile_onnx` describes them.

    ``held``: bytes of ``secure_memory`` that something else takes.
    """
    if secure_memory is not None:
        byte = streamed_byte(cipher)
        if secure_memory:
            fitted = for_budget(graph, max(1, secure_memory - held), max_partition, winograd, progress, byte)
        else:
            fitted = for_any_budget(graph, max_partition, winograd, progress, byte, held)[1]
        if fitted is None:
            # A budget that an error names is enough: what was found for it is taken where the search finds less.
            least = smallest(graph, max_partition)
            if least.least + held > secure_memory:
                raise too_small(least, secure_memory, held)
            fitted = with_winograd(least, secure_memory - held, byte) if winograd else least
        return fitted
    limit = MAX_PARTITION if max_partition is None else max_partition
    lowered = lower(graph, max(1, limit - PARTITION_OVERHEAD) if partitions is None else None, progress)
    if progress:
        progress("plan", 0, 1)
    # A model that only renames its inputs has no kernel; it still ships as one partition.
    made = Arrangement(lowered, plan_arena(lowered.ops, *lowered.ends), split(lowered.ops, limit, partitions) or [[]])
    return with_winograd(made, None) if winograd else made


def licence_room(graph: Graph, password: Password) -> int:
    """Bytes of secure memory that the licence with this password takes beside the model of an optimised graph."""
    layers = {layer_id(tensor): channels for tensor, channels in lockable_layers(lower(graph, None)).items()}
    return licence_pages(len(pack_password(password, layers)))


__all__ = [
    "Arrangement", "Lowered", "MemoryBudgetError", "Progress", "arrange", "licence_room", "lower", "smallest_budget",
]  # fmt: skip

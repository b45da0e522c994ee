# SPDX-License-Identifier: BSD-2-Clause
"""Kernels whose memory and partitions are settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from cloister.compile.lowering import Buffer, Lowering, Op
from cloister.compile.memory import Residency, least_memory, manifest_pages, reside
from cloister.compile.partition import LIMIT, PartitionError, partition_size
from cloister.compile.planner import Plan
from cloister.compile.sites import channels_of, sites_of
from cloister.ir.graph import Graph
from cloister.ops.base import find

#: Called as progress(step, done, total) while a long compile runs.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Lowered:
    """Kernels in order, with the buffers of the model's inputs and outputs by name."""

    ops: list[Op]
    inputs: dict[str, Buffer]
    outputs: dict[str, Buffer]
    #: Layers that a password cannot name, see Lowering.
    shared: dict[str, str] = field(default_factory=dict)
    #: Tensors that a password must not name, see Graph.
    shown: frozenset[str] = frozenset()

    @property
    def ends(self) -> tuple[list[Buffer], list[Buffer]]:
        """Inputs and outputs as the planner takes them."""
        return list(self.inputs.values()), list(self.outputs.values())


def lockable_layers(lowered: Lowered) -> dict[str, int]:
    """Layers that a password may name: the channels of each by its tensor."""
    every = channels_of(sites_of(lowered.ops))
    return {tensor: channels for tensor, channels in every.items() if tensor not in lowered.shown}


@dataclass(frozen=True)
class Arrangement:
    """A model whose memory and partitions are settled.

    Attributes:
        lowered: kernels as they run; those of striped regions are there once for each band.
        plan: of the arena.
        parts: the kernels of each partition.
        regions: runs of kernels that are computed in bands.
    """

    lowered: Lowered
    plan: Plan
    parts: list[list[Op]]
    regions: int = 0

    def __post_init__(self) -> None:
        if self.plan.size >= LIMIT:
            raise PartitionError(
                f"the activations take {self.plan.size} bytes, the format allows {LIMIT - 1}",
                "compile for a smaller batch or input (--dim), or for a budget (--secure-memory)",
            )

    @property
    def sizes(self) -> list[int]:
        """Bytes of each plain partition."""
        return [partition_size(part) for part in self.parts]

    @property
    def ios(self) -> int:
        """Number of inputs and outputs."""
        return len(self.lowered.inputs) + len(self.lowered.outputs)

    @cached_property
    def layers(self) -> dict[str, int]:
        """As :func:`lockable_layers`."""
        return lockable_layers(self.lowered)

    @property
    def table(self) -> int:
        """Bytes of secure memory for the manifest and the slots before it."""
        return manifest_pages(len(self.parts), self.ios, len(self.layers))

    @property
    def least(self) -> int:
        """The smallest budget in which the model runs as it is arranged."""
        return least_memory(self.plan.size, self.sizes, self.ios, len(self.layers))

    def reside(self, budget: int, arena: int | None = None) -> Residency | None:
        """How the model lies in a budget, with its own arena or one of that size; None where it does not fit."""
        return reside(self.plan.size if arena is None else arena, self.sizes, self.ios, budget, len(self.layers))


def lower(graph: Graph, limit: int | None, progress: Progress | None = None) -> Lowered:
    """The kernels of an optimised graph; ``limit`` is what the weights of one kernel should not exceed, in bytes."""
    ctx = Lowering(graph, limit)
    for done, node in enumerate(graph.nodes):
        if progress:
            progress("lower", done, len(graph.nodes))
        operator = find(node.op)
        assert operator is not None, node.op
        ctx.begin(node)
        operator.lower(node, ctx)
        ctx.end()
    outputs = ctx.finish()
    return Lowered(ctx.ops, ctx.inputs, outputs, ctx.shared, graph.shown)

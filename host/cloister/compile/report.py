# SPDX-License-Identifier: BSD-2-Clause
"""What a compile did: sizes, costs, and one row for each kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cloister.compile.lowering import Op
from cloister.compile.planner import Plan
from cloister.ir.graph import Graph
from cloister.ops.base import Cost, find


@dataclass(frozen=True)
class KernelRow:
    """One kernel: the partition it is in, the node it came from, and bytes of weights, output and scratch.

    ``macs`` is the node's and stands at the node's first kernel only.
    """

    partition: int
    node: str
    operator: str
    kernel: str
    output_shape: tuple[int, ...]
    weight_bytes: int
    output_bytes: int
    scratch_bytes: int
    macs: int


@dataclass(frozen=True)
class Report:
    """Totals and rows of one compile.

    Attributes:
        rows: one for each kernel, in order.
        macs: multiply-accumulates of one inference.
        flops: other arithmetic of one inference.
        weight_bytes: of all partitions, padding included.
        partition_sizes: bytes of each plain partition.
        arena_peak: bytes of the arena.
        arena_bound: most bytes alive at one kernel: no plan can be smaller.
        in_place: kernels whose result took over an operand's memory.
        node_names: of the ONNX nodes, by their position in the model.
    """

    rows: list[KernelRow]
    macs: int
    flops: int
    weight_bytes: int
    partition_sizes: list[int]
    arena_peak: int
    arena_bound: int
    in_place: int
    node_names: dict[int, str] = field(repr=False)


def graph_cost(graph: Graph) -> Cost:
    """Sum of the costs of all nodes."""
    costs = []
    for node in graph.nodes:
        operator = find(node.op)
        if operator is not None:
            costs.append(operator.cost(node, graph))
    return Cost(sum(c.macs for c in costs), sum(c.flops for c in costs), sum(c.moved for c in costs))


def make_report(graph: Graph, parts: Sequence[Sequence[Op]], emitted: Sequence[bytes], plan: Plan) -> Report:
    """The report of a compile."""
    rows = []
    told: set[int] = set()
    for index, part in enumerate(parts):
        for op in part:
            operator = find(op.node.op)
            macs = operator.cost(op.node, graph).macs if operator and id(op.node) not in told else 0
            told.add(id(op.node))
            out, scratch = op.refs["out"], op.refs.get("scratch")
            rows.append(
                KernelRow(
                    index,
                    op.node.name,
                    op.node.op,
                    op.kernel,
                    out.shape,
                    sum(constant.size for constant in op.constants),
                    out.size,
                    scratch.size if scratch else 0,
                    macs,
                )
            )
    total = graph_cost(graph)
    weights = sum(row.weight_bytes for row in rows)
    names = {node.index: node.name for node in graph.nodes}
    sizes = [len(data) for data in emitted]
    return Report(rows, total.macs, total.flops, weights, sizes, plan.size, plan.bound, plan.in_place, names)

# SPDX-License-Identifier: BSD-2-Clause
"""8-bit pooling (made by passes). Attributes: those of the float operator, ``in`` and ``finish``."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from cloister.compile.layout import channels_last
from cloister.compile.lowering import Lowering
from cloister.ir.graph import Graph, Node, Problem
from cloister.ir.quantised import Finish
from cloister.ops.base import Cost, Operator, register
from cloister.ops.pool import SPATIAL, pool_fields
from cloister.wire import C


class Int8Pool(Operator):
    """What all share."""

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Made by passes: always right."""
        return []

    def emit(self, node: Node, ctx: Lowering, fields: dict[str, Any]) -> None:
        """POOL_S8 with the node's scales."""
        before, finish = node.attrs["in"], node.attrs["finish"]
        assert isinstance(finish, Finish)
        factor = np.float32(before.scale) / np.float32(finish.affine.scale)
        own = {"in_zero": before.zero, "multiplier": float(factor), "finish": finish.fields}
        ctx.emit("POOL_S8", {**fields, **own})

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One operation for each element that is read."""
        size = prod(graph.shape(node.inputs[0]))
        return Cost(flops=size, moved=size)


@register("int8::MaxPool", "int8::AveragePool")
class Int8WindowPool(Int8Pool):
    """As MaxPool and AveragePool."""

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One POOL_S8, channels last."""
        x = ctx.get_channels_last(node.inputs[0])
        y = ctx.new(node.outputs[0], channels_last(len(x.shape)))
        self.emit(node, ctx, pool_fields(node, ctx.graph, x, y))


@register("int8::GlobalAveragePool")
class Int8GlobalPool(Int8Pool):
    """The mean over all spatial axes, kept as axes of size 1 or dropped."""

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One POOL_S8 whose window is the image."""
        x = ctx.get_channels_last(node.inputs[0])
        y = ctx.new(node.outputs[0])
        image = [prod(x.shape[2:]), 1, 1][:SPATIAL]
        ones = [1] * SPATIAL
        fields: dict[str, Any] = {
            "in": x,
            "out": y,
            "kind": C.CL_POOL_AVERAGE,
            "batch": x.shape[0],
            "channels": x.shape[1],
            "in_dims": image,
            "out_dims": ones,
            "kernel": image,
            "stride": ones,
            "dilation": ones,
        }
        self.emit(node, ctx, fields)

# SPDX-License-Identifier: BSD-2-Clause
"""Resize and its predecessor Upsample: separable resampling, one axis after the other, from tables made here."""

from __future__ import annotations

from math import floor, isclose, prod

import numpy as np

from cloister.compile.lowering import Lowering
from cloister.ir.graph import Graph, Node, Problem, Shape
from cloister.ops.arguments import axis_in, floats, ints
from cloister.ops.base import Cost, Operator, register
from cloister.ops.moving import WORD, resample
from cloister.ops.taps import COORDINATE_MODES, NEAREST_MODES, RESIZE_MODES, ResizeAxis, Taps, resize_taps

POLICIES = ("stretch", "not_larger", "not_smaller")


@register("Resize", "Upsample")
class Resize(Operator):
    """nearest, linear and cubic, with antialias, in all coordinate modes; nearest moves any dtype of whole words.

    Before opset 11 there is only one coordinate mode, ``asymmetric``; ``nearest`` then takes the element below when
    it enlarges and the one above when it shrinks, as onnxruntime does (ONNX left it open).
    """

    def check(self, node: Node, graph: Graph) -> list[Problem]:
        """Constant roi, scales and sizes; known modes; lengths that agree with the model's shapes."""
        modes = RESIZE_MODES if self._modern(node, graph) else ("nearest", "linear")
        problems = self.require_attr(node, "mode", "nearest", modes)
        problems += self.require_attr(node, "coordinate_transformation_mode", "half_pixel", COORDINATE_MODES)
        problems += self.require_attr(node, "nearest_mode", "round_prefer_floor", NEAREST_MODES)
        problems += self.require_attr(node, "keep_aspect_ratio_policy", "stretch", POLICIES)
        names = ("roi", "scales", "sizes") if self._modern(node, graph) else ("scales",)
        for position, what in enumerate(names, start=1):
            problems += self.require_constant(node, graph, position, what)
        shape, dtype = graph.shape(node.inputs[0]), graph.dtype(node.inputs[0])
        mode = node.attrs.get("mode", "nearest")
        if mode != "nearest":
            problems += self.require_float(node, graph, node.inputs[:1])
            if int(node.attrs.get("antialias", 0)) and not self._modern(node, graph):
                problems.append(self.problem(node, "needs opset 18", "antialias", 1))
        elif int(node.attrs.get("antialias", 0)):
            problems.append(self.problem(node, "has no meaning with mode 'nearest'", "antialias", 1))
        elif dtype.itemsize % WORD:
            problems.append(self.problem(node, "elements of whole 4-byte words only", "dtype of X", str(dtype)))
        if problems:
            return problems
        return self._check_lengths(node, graph, shape)

    def lower(self, node: Node, ctx: Lowering) -> None:
        """One RESAMPLE kernel for each axis that changes, those that shrink first."""
        graph = ctx.graph
        x = ctx.get(node.inputs[0])
        changing = [(axis, way) for axis, way in enumerate(self._plan(node, graph)) if way is not None]
        changing.sort(key=lambda item: item[1].output / item[1].length)
        outside = float(node.attrs.get("extrapolation_value", 0.0))
        if not changing:
            ctx.alias(node.outputs[0], x, x.layout)
        for number, (axis, way) in enumerate(changing):
            shape = tuple(way.output if place == axis else size for place, size in enumerate(x.shape))
            final = number == len(changing) - 1
            y = ctx.new(node.outputs[0], x.layout) if final else ctx.temporary(shape, x.dtype, x.layout)
            resample(ctx, x, y, axis, self._taps(node, graph, way), outside)
            x = y

    def cost(self, node: Node, graph: Graph) -> Cost:
        """One product for each tap of each element, intermediate results included."""
        shape = list(graph.shape(node.inputs[0]))
        flops = moved = 0
        for axis, way in enumerate(self._plan(node, graph)):
            if way is not None:
                shape[axis] = way.output
                flops += prod(shape) * self._taps(node, graph, way).index.shape[1]
                moved += 8 * prod(shape)
        return Cost(flops=flops, moved=moved)

    def _modern(self, node: Node, graph: Graph) -> bool:
        return node.op == "Resize" and graph.opset >= 11

    def _arguments(self, node: Node, graph: Graph) -> tuple[list[float] | None, list[float] | None, list[int] | None]:
        """roi, scales, sizes; None where absent or empty."""
        if not self._modern(node, graph):
            return None, floats(node, graph, "scales", 1), None
        return (
            floats(node, graph, "", 1),
            floats(node, graph, "", 2),
            ints(node, graph, "", 3) or None,
        )

    def _axes(self, node: Node, graph: Graph) -> list[int]:
        rank = graph.rank(node.inputs[0])
        return [int(axis) % rank for axis in node.attrs.get("axes", range(rank))]

    def _check_lengths(self, node: Node, graph: Graph, shape: Shape) -> list[Problem]:
        rank = len(shape)
        axes = node.attrs.get("axes", range(rank))
        if not all(axis_in(int(axis), rank) for axis in axes):
            return [self.problem(node, f"outside rank {rank}", "axes", list(axes))]
        roi, scales, sizes = self._arguments(node, graph)
        if (scales is None) == (sizes is None):
            return [self.problem(node, "exactly one of scales and sizes must be given", "scales", scales)]
        given = scales if scales is not None else sizes
        if given is not None and (len(given) != len(axes) or min(given) <= 0):
            what = "scales" if scales is not None else "sizes"
            return [self.problem(node, f"needs {len(axes)} positive numbers", what, given)]
        crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        if crops and (roi is None or len(roi) != 2 * len(axes)):
            return [self.problem(node, f"needs {2 * len(axes)} numbers", "roi", roi)]
        if crops and graph.dtype(node.inputs[0]) != np.float32:
            return self.require_float(node, graph, node.inputs[:1])
        made = tuple(
            size if way is None else way.output for size, way in zip(shape, self._plan(node, graph), strict=True)
        )
        if made != graph.shape(node.outputs[0]):
            reason = f"gives {made}, the model's shape says {graph.shape(node.outputs[0])}"
            return [self.problem(node, reason, "scales" if scales else "sizes", given)]
        return []

    def _plan(self, node: Node, graph: Graph) -> list[ResizeAxis | None]:
        """What happens along each axis; None where nothing does."""
        shape = graph.shape(node.inputs[0])
        axes = self._axes(node, graph)
        roi, scales, sizes = self._arguments(node, graph)
        lengths = [shape[axis] for axis in axes]
        if sizes is not None:
            policy = node.attrs.get("keep_aspect_ratio_policy", "stretch")
            ratios = [size / length for size, length in zip(sizes, lengths, strict=True)]
            if policy == "stretch":
                outputs = sizes
            else:
                ratios = [(min if policy == "not_larger" else max)(ratios)] * len(axes)
                outputs = [floor(ratio * length + 0.5) for ratio, length in zip(ratios, lengths, strict=True)]
        else:
            ratios = scales or []
            outputs = [floor(ratio * length) for ratio, length in zip(ratios, lengths, strict=True)]
        crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
        plan: list[ResizeAxis | None] = [None] * len(shape)
        for place, axis in enumerate(axes):
            region = (roi[place], roi[place + len(axes)]) if crops and roi else (0.0, 1.0)
            still = isclose(ratios[place], 1.0) and outputs[place] == shape[axis]
            if not (still and isclose(region[0], 0.0) and isclose(region[1], 1.0)):
                plan[axis] = ResizeAxis(shape[axis], outputs[place], ratios[place], region)
        return plan

    def _taps(self, node: Node, graph: Graph, way: ResizeAxis) -> Taps:
        attrs = node.attrs
        if not self._modern(node, graph):
            nearest = "ceil" if node.op == "Resize" and way.scale < 1 else "floor"
            mode = attrs.get("mode", "nearest")
            return resize_taps(way, mode=mode, coordinate_mode="asymmetric", nearest_mode=nearest)
        return resize_taps(
            way,
            mode=attrs.get("mode", "nearest"),
            coordinate_mode=attrs.get("coordinate_transformation_mode", "half_pixel"),
            nearest_mode=attrs.get("nearest_mode", "round_prefer_floor"),
            cubic_a=float(attrs.get("cubic_coeff_a", -0.75)),
            exclude_outside=bool(attrs.get("exclude_outside", 0)),
            antialias=bool(attrs.get("antialias", 0)),
        )

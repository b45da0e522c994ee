# SPDX-License-Identifier: BSD-2-Clause
"""The calibration's pairs: what it takes to hand taps over, all at once and one by one.

Backbone and monitor are a few dense layers of sizes that no strategy has. What an invocation of the TA takes beyond the
partitions that it runs is its own: of RUN at once, of FEED for each tap that is not the last, of RUN for what is left.
What the normal world's side takes beyond its partitions is the copies of image and taps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cloister.estimate.fit import Sample
from cloister.estimate.instructions import fed_terms, handing_terms, run_terms
from cloister.wire import ffi
from cloister_bench.builder import OPSET
from cloister_bench.device import Outcome
from cloister_bench.pairs import PairFiles, PairWork

#: Numbers of the image, and of each tap in turn.
_PAIRS = (
    (16, (8, 24)), (64, (700, 40)), (784, (40, 3000)), (3072, (64, 16, 200)), (48, (9000, 1200, 100)),
    (200, (20, 300, 20, 6000)), (1024, (2500, 2500)), (12, (14000, 30, 1)), (400, (5, 5, 5, 5)), (96, (500, 60, 5000)),
)  # fmt: skip


def handed_pairs() -> list[PairFiles]:
    """Backbones of dense layers, each of which is tapped, and monitors that add up what they make of the taps."""
    return [
        PairFiles(f"{image} numbers, taps of {', '.join(map(str, taps))}", None, _backbone(image, taps), _monitor(taps))
        for image, taps in _PAIRS
    ]


class _Layers:
    """Nodes and weights of a model under construction."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], out: str, *weights: int) -> str:
        """A node; with ``weights`` of that shape as its second input."""
        names = list(inputs)
        if weights:
            values = self._random.standard_normal(weights) / weights[0] ** 0.5
            self._constants.append(numpy_helper.from_array(values.astype(np.float32), f"{out}.weight"))
            names.append(f"{out}.weight")
        self.nodes.append(helper.make_node(kind, names, [out], name=out))
        return out

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> onnx.ModelProto:
        """The model; sizes are those of rows of numbers."""
        graph = helper.make_graph(self.nodes, "handed", _rows(inputs), _rows(outputs), self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def _rows(sizes: Mapping[str, int]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in sizes.items()]


def _backbone(image: int, taps: Sequence[int]) -> onnx.ModelProto:
    layers, before, size = _Layers(), "image", image
    for index, wanted in enumerate(taps):
        # many numbers out of few weights: one, times as many
        one = layers.add("Gemm", [before], f"one_{index}", size, 1)
        many = layers.add("Mul", [one], f"many_{index}", 1, wanted)
        before, size = layers.add("Relu", [many], f"tap_{index}"), wanted
    return layers.finish({"image": image}, _named(taps))


def _monitor(taps: Sequence[int]) -> onnx.ModelProto:
    layers, state = _Layers(), ""
    for index, size in enumerate(taps):
        read = layers.add("Gemm", [f"tap_{index}"], f"read_{index}", size, 6)
        joined = layers.add("Add", [state, read], f"sum_{index}") if state else read
        state = layers.add("Relu", [joined], f"state_{index}")
    return layers.finish(_named(taps), {state: 6})


def _named(taps: Sequence[int]) -> dict[str, int]:
    return {f"tap_{index}": size for index, size in enumerate(taps)}


def handed_samples(
    work: PairWork, whole: Outcome, stages: Outcome, normal: Sequence[float], secure: Sequence[float]
) -> list[tuple[str, Sample]]:
    """What the invocations and the copies of one pair cost.

    Args:
        whole, stages: of the client's jobs ``pair`` and ``stages``.
        normal, secure: what each partition takes alone, of the backbone and of the monitor.
    """
    pair = work.pair
    assert pair is not None
    parts = [_operators(plain) for plain in pair.cpm.partitions]
    sizes, values = [info.size for info in pair.cpm.inputs], pair.cpm.outputs[0].size // 4
    image = sum(info.size for info in pair.backbone.inputs)
    run = run_terms(len(parts), sum(parts), 0, sum(sizes), values)
    found = [
        ("the taps at once", Sample(run, whole.values["secure"] - sum(secure))),
        ("the copies", Sample(handing_terms(image, sizes), whole.values["normal"] - sum(normal))),
    ]
    first = done = 0
    ends = [index for index in range(1, len(sizes)) if pair.taps[index].ready > pair.taps[index - 1].ready]
    for stage, end in enumerate(ends):
        until = pair.first_use[end]
        terms = fed_terms(sum(sizes[first:end]), until - done, sum(parts[done:until]))
        cost = stages.values[f"{stage}.secure"] - sum(secure[done:until])
        found.append((f"stage {stage}", Sample(terms, cost)))
        first, done = end, until
    rest = run_terms(len(parts) - done, sum(parts[done:]), 0, sum(sizes[first:]), values)
    found.append(("the last stage", Sample(rest, stages.values[f"{len(ends)}.secure"] - sum(secure[done:]))))
    # by time on a board a small difference can come out as nothing
    return [(f"{work.name}: {what}", sample) for what, sample in found if sample.cost > 0]


def _operators(plain: bytes) -> int:
    """Kernels in a plain partition."""
    header = ffi.from_buffer("struct cl_partition *", plain)
    return int(header.op_count)

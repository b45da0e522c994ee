# SPDX-License-Identifier: BSD-2-Clause
"""Pairs to be measured: made here of random weights, or of the user's own files; speed does not depend on weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cloister.compile import CompiledModel
from cloister.compile.pair import CompiledPair, compile_pair
from cloister.seal import VendorKey, issue_licence, seal_bundle
from cloister.tensors import TensorInfo
from cloister.wire import C, ffi, new, pack
from cloister_bench.builder import OPSET
from cloister_bench.errors import BenchError
from cloister_bench.networks import lenet, resnet20
from cloister_bench.prepare import MODEL_NAME, Workload, plain_files, precision_of, random_inputs


@dataclass(frozen=True)
class Reader:
    """What a CPM does with each tap: the side to which it comes pooled, channels and side of its convolution."""

    side: int = 4
    width: int = 16
    kernel: int = 1


#: A CPM as one would have it, and one that computes about half of what ResNet-20 does: there is something to overlap.
LIGHT, HEAVY = Reader(), Reader(16, 128, 3)


@dataclass(frozen=True)
class PairFiles:
    """The unprotected model, and the two halves that replace it."""

    name: str
    victim: onnx.ModelProto | None
    backbone: onnx.ModelProto
    cpm: onnx.ModelProto


def made_pairs(quick: bool) -> list[PairFiles]:
    """LeNet and ResNet-20, each as its own backbone, with pooled taps and a CPM of one convolution for each."""
    found = [_tapped("lenet", lenet(), [2, 5], LIGHT)]
    if quick:
        return found
    ends = [16, 32, 48]  # of ResNet-20's three stages
    return [
        *found,
        _tapped("resnet20", resnet20(), ends, LIGHT),
        _tapped("resnet20, heavy CPM", resnet20(), ends, HEAVY),
    ]


def own_pairs(directory: Path) -> list[PairFiles]:
    """Pairs of the user's: in each folder `backbone.onnx`, `cpm.onnx` and, to compare with, `victim.onnx`.

    Raises:
        BenchError: there is none.
    """
    found = []
    for folder in sorted({path.parent for path in directory.rglob("cpm.onnx")}):
        victim = folder / "victim.onnx"
        name = str(folder.relative_to(directory)) if folder != directory else folder.name
        loaded = onnx.load(victim) if victim.exists() else None
        found.append(PairFiles(name, loaded, onnx.load(folder / "backbone.onnx"), onnx.load(folder / "cpm.onnx")))
    if not found:
        raise BenchError(f"{directory} holds no pair", "give folders with backbone.onnx and cpm.onnx in them")
    return found


def _tapped(name: str, victim: onnx.ModelProto, activations: Sequence[int], reader: Reader) -> PairFiles:
    """A victim with taps behind some of its activations, average-pooled."""
    backbone = onnx.ModelProto()
    backbone.CopyFrom(victim)
    graph = onnx.shape_inference.infer_shapes(backbone).graph
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in graph.value_info}
    images = [node.output[0] for node in graph.node if len(shapes.get(node.output[0], [])) == 4]
    taps: dict[str, list[int]] = {}
    for index, place in enumerate(activations):
        source = images[place]
        batch, channels, height, width = shapes[source]
        step = max(1, min(height, width) // reader.side)
        tap = f"tap_{index}"
        taps[tap] = [batch, channels, (height - step) // step + 1, (width - step) // step + 1]
        pool = helper.make_node(
            "AveragePool", [source], [tap], name=f"pool_{index}", kernel_shape=[step] * 2, strides=[step] * 2
        )
        after = next(i for i, node in enumerate(backbone.graph.node) if source in node.output) + 1
        backbone.graph.node.insert(after, pool)
        backbone.graph.output.append(helper.make_tensor_value_info(tap, TensorProto.FLOAT, taps[tap]))
    onnx.checker.check_model(backbone, full_check=True)
    return PairFiles(name, victim, backbone, _cpm(taps, reader))


def _cpm(taps: dict[str, list[int]], reader: Reader, classes: int = 10) -> onnx.ModelProto:
    """For each tap a convolution, an activation and a dense layer; their sum is the answer."""
    width, side = reader.width, reader.kernel
    random = np.random.default_rng(3)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, *shape: int) -> str:
        values = random.standard_normal(shape) / prod(shape[1:]) ** 0.5
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    total = ""
    for tap, (_, channels, rows, columns) in taps.items():
        convolved, active, flat, scores, added = (f"{tap}_{step}" for step in ("conv", "relu", "flat", "scores", "sum"))
        weights = constant(f"{tap}_w", width, channels, side, side), constant(f"{tap}_b", width)
        dense = constant(f"{tap}_dw", classes, width * rows * columns), constant(f"{tap}_db", classes)
        nodes += [
            helper.make_node("Conv", [tap, *weights], [convolved], kernel_shape=[side] * 2, pads=[side // 2] * 4),
            helper.make_node("Relu", [convolved], [active]),
            helper.make_node("Flatten", [active], [flat]),
            helper.make_node("Gemm", [flat, *dense], [scores], transB=1),
        ]
        if total:
            nodes.append(helper.make_node("Add", [total, scores], [added]))
        total = added if total else scores
    nodes.append(helper.make_node("Identity", [total], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "cpm",
        [helper.make_tensor_value_info(tap, TensorProto.FLOAT, shape) for tap, shape in taps.items()],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


@dataclass
class PairWork(Workload):
    """A pair, compiled; `model` is its backbone, which takes the inputs, and `compiled` its CPM."""

    pair: CompiledPair | None = None

    def files(self, device_key: bytes, vendor: VendorKey, with_onnx: bool, cipher: str) -> dict[str, bytes]:
        """As of a model, and the table of taps."""
        assert self.pair is not None
        bundle, content_key = seal_bundle(
            self.pair.cpm,
            vendor,
            name=MODEL_NAME,
            cipher=self.cipher or cipher,
            section=self.pair.section,
            first_uses=self.pair.first_use,
        )
        licence = issue_licence(bundle, content_key, device_key, vendor, output="full")
        table, partitions = plain_files(self.pair.backbone)
        nowhere = (1 << 32) - 1
        taps = [
            f"{nowhere if tap.input is None else tap.input} {tap.ready} {tap.offset} {tap.size}"
            for tap in self.pair.taps
        ]
        made = {
            "manifest": bundle.manifest,
            "payload": bundle.payload,
            "licence": licence.data,
            "table": table.encode(),
            "partitions": partitions,
            "taps": ("\n".join(taps) + "\n").encode(),
            "inputs": b"".join(np.ascontiguousarray(array).tobytes() for array in self.inputs.values()),
        }
        return {f"{self.directory}/{name}": data for name, data in made.items()}


def prepare_pair(files: PairFiles, directory: str, secure_memory: int = 0) -> PairWork:
    """Compile a pair for a budget of secure memory; 0: all stays resident.

    Raises:
        CloisterError: it is not supported, or its halves do not fit.
    """
    work = PairWork(files.name, directory, files.backbone, precision_of(files.cpm), random_inputs(files.backbone))
    work.pair = compile_pair(files.cpm, files.backbone, secure_memory=secure_memory)
    work.compiled = work.pair.cpm
    return work


@dataclass(frozen=True)
class _Empty:
    """A model that takes what a CPM takes and gives what it gives, without computing anything."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    arena_size: int
    partitions: Sequence[bytes] = field(default_factory=lambda: [_empty_partition()])
    layers: Mapping[bytes, int] = field(default_factory=dict)


def _empty_partition() -> bytes:
    size = ffi.sizeof("struct cl_partition")
    header = new(
        "struct cl_partition",
        magic=C.CL_MAGIC_PARTITION,
        version=C.CL_FORMAT_VERSION,
        header_size=size,
        total_size=C.CL_ALIGN,
        ops_offset=size,
        weights_offset=C.CL_ALIGN,
    )
    return pack(header).ljust(C.CL_ALIGN, b"\0")


@dataclass
class BoundaryWork(Workload):
    """A CPM, or a model, without its kernels: what remains is the boundary."""

    like: CompiledModel | None = None

    def files(self, device_key: bytes, vendor: VendorKey, with_onnx: bool, cipher: str) -> dict[str, bytes]:
        """What the client's job `ta` needs."""
        assert self.like is not None
        empty = _Empty(self.like.inputs, self.like.outputs, self.like.arena_size)
        bundle, content_key = seal_bundle(empty, vendor, name=MODEL_NAME, cipher=cipher)
        licence = issue_licence(bundle, content_key, device_key, vendor, output="full")
        made = {"manifest": bundle.manifest, "payload": bundle.payload, "licence": licence.data}
        made["inputs"] = bytes(sum(info.size for info in self.like.inputs))
        return {f"{self.directory}/{name}": data for name, data in made.items()}


def boundary_of(work: Workload, directory: str) -> BoundaryWork:
    """The boundary of a pair, or of a model in the TA."""
    return BoundaryWork(f"{work.name}, boundary", directory, work.model, work.precision, {}, like=work.compiled)

# SPDX-License-Identifier: BSD-2-Clause
"""The nine networks that ship with the ONNX package (``onnx/backend/test/data/light``), with seeded random weights.

They come without weights: every parameter is a ConstantOfShape. Here each gets a random value that suits what reads
it (He et al., 2015, for weights; statistics near one for batch normalisation), and the last weighted layer is scaled
so that the scores neither vanish nor saturate the softmax. The same seed gives the same model.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from cloister.errors import CloisterError

Floats = npt.NDArray[np.float32]

#: Short names, and the files of the ONNX package.
NETWORKS = {
    "alexnet": "light_bvlc_alexnet.onnx",
    "densenet121": "light_densenet121.onnx",
    "inception_v1": "light_inception_v1.onnx",
    "inception_v2": "light_inception_v2.onnx",
    "resnet50": "light_resnet50.onnx",
    "shufflenet": "light_shufflenet.onnx",
    "squeezenet": "light_squeezenet.onnx",
    "vgg19": "light_vgg19.onnx",
    "zfnet512": "light_zfnet512.onnx",
}

#: Standard deviation of the scores before the softmax.
SCORES = 2.0
WEIGHTED = ("Conv", "Gemm")


def light_path(name: str) -> Path:
    """The file of a network of :data:`NETWORKS`.

    Raises:
        CloisterError: there is no such network, or this ONNX package lacks its file.
    """
    if name not in NETWORKS:
        raise CloisterError(f"there is no network {name!r}", f"choose one of {', '.join(NETWORKS)}")
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / NETWORKS[name]
    if not path.is_file():
        raise CloisterError(f"this ONNX package has no {path.name}", "install onnx as build/setup does")
    return path


def light_model(name: str, seed: int = 0, *, scale_scores: bool = True) -> onnx.ModelProto:
    """A network with random weights; ``scale_scores`` needs onnxruntime.

    Raises:
        CloisterError: see :func:`light_path`.
    """
    model = onnx.load(str(light_path(name)))
    fill_weights(model, seed)
    if scale_scores:
        _scale_scores(model, seed)
    return model


def random_input(model: onnx.ModelProto, seed: int = 0) -> dict[str, Floats]:
    """Standard normal values for each input of a model, in its shape."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for info in model.graph.input:
        if info.name not in constants:
            shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            found[info.name] = _numbers(seed, f"input {info.name}").standard_normal(shape, np.float32)
    return found


def fill_weights(model: onnx.ModelProto, seed: int) -> None:
    """Replaces, in place, every ConstantOfShape and every parameter that a layer reads by random values."""
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    parameters = {
        node.output[0]: tuple(int(size) for size in shapes[node.input[0]])
        for node in model.graph.node
        if node.op_type == "ConstantOfShape"
    }
    for name, value in shapes.items():
        if value.dtype == np.float32:
            parameters.setdefault(name, value.shape)
    roles = dict(_roles(model))
    nodes = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used and tensor.name not in parameters]
    constants = {tensor.name for tensor in kept} | set(parameters)
    inputs = [info for info in model.graph.input if info.name in used and info.name not in constants]
    for field, values in (("initializer", kept), ("node", nodes), ("input", inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        target = getattr(model.graph, field)
        del target[:]
        target.extend(copies)
    model.ir_version = max(model.ir_version, 4)  # before, constants had to be listed among the inputs
    for name, shape in parameters.items():
        if name in used:
            value = _draw(roles.get(name, ("offset", 0)), shape, _numbers(seed, name))
            model.graph.initializer.append(numpy_helper.from_array(value, name))


def _numbers(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _roles(model: onnx.ModelProto) -> Iterator[tuple[str, tuple[str, int]]]:
    """What each parameter is: its role, and the position of its input axis for a matrix."""
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Unsqueeze"}
    for node in model.graph.node:
        names = [sources.get(name, name) for name in node.input]
        if node.op_type in WEIGHTED:
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            yield names[1], ("weights", 0 if node.op_type == "Gemm" and not transposed else 1)
        elif node.op_type == "BatchNormalization":
            for name, role in zip(names[1:], ("factor", "offset", "offset", "factor"), strict=True):
                yield name, (role, 0)
        elif node.op_type == "Mul":
            yield names[1], ("factor", 0)


def _draw(role: tuple[str, int], shape: tuple[int, ...], numbers: np.random.Generator) -> Floats:
    kind, axis = role
    if kind == "weights":
        fan_in = math.prod(shape[1:]) if axis else shape[0]
        return numbers.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in))
    if kind == "factor":
        return numbers.uniform(0.8, 1.2, shape).astype(np.float32)
    return numbers.standard_normal(shape, np.float32) * np.float32(0.05)


def _scale_scores(model: onnx.ModelProto, seed: int) -> None:
    """Scales the last weighted layer so that its results spread by :data:`SCORES`."""
    import onnxruntime

    last = [node for node in model.graph.node if node.op_type in WEIGHTED][-1]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.append(onnx.ValueInfoProto(name=last.output[0]))
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, ["CPUExecutionProvider"])
    spread = float(np.std(session.run(None, random_input(model, seed))[0]))
    for tensor in model.graph.initializer:
        if tensor.name in last.input[1:]:
            value = numpy_helper.to_array(tensor) * np.float32(SCORES / spread)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

# SPDX-License-Identifier: BSD-2-Clause
"""ONNX to torch, with onnx2torch."""

from __future__ import annotations

import copy
import importlib
import math
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from cloister.protect.training.errors import TrainingError
from cloister.protect.training.static import rows_of_tokens, settle


def convert(path: Path, shape: Sequence[int] = ()) -> nn.Module:
    """A trainable torch module (torch.fx.GraphModule) of an ONNX file, for batches of any size.

    Its answer is held against onnxruntime's. A softmax at the end is left out, as losses take logits; the label stays
    the same.

    Args:
        path: of the file.
        shape: of an image, such as channels, height and width: what dimensions are that the file leaves free. Without
            it they are taken as 1, and what depends on them stays as it is.

    Raises:
        TrainingError: the file is no ONNX model, is quantised, has an operator that cannot be converted, or answers
            differently.
    """
    import onnx

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:  # onnx, protobuf and the file system each raise their own
        raise TrainingError(f"{path} is no ONNX model: {str(error).splitlines()[0]}", "check the path") from error
    if any(_is_quantised(node.op_type) for node in model.graph.node):
        raise TrainingError(
            f"{path} is quantised, and what computes on integers cannot be trained",
            "give the fp32 model that it was made from, and quantise what comes out (cloister quantize)",
        )
    _drop_softmax(model)
    _free_batch(model)
    _size(model, shape)
    _unstride(model)
    _flatten(model)
    rows_of_tokens(model)
    model = _older(model)
    library = _onnx2torch()
    try:
        module: nn.Module = library.convert(model)
    except Exception as error:  # NotImplementedError, and what converters raise on unusual attributes
        if unknown := _unknown(model):
            raise TrainingError(
                f"{path} cannot be converted to torch, which has no counterpart of the operators {', '.join(unknown)}",
                "export the model without them, or give it as package.module:factory and a checkpoint",
            ) from error
        raise TrainingError(
            f"{path} cannot be converted to torch: {str(error).splitlines()[0]}",
            "give the model as package.module:factory and a checkpoint instead",
        ) from error
    _settle(module, model)
    _check(path, model, module)
    return module


def _is_quantised(operator: str) -> bool:
    """Whether an operator, ONNX's or onnxruntime's own, makes or takes integers in place of floats."""
    parts = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QLinear", "QGemm", "QAttention", "Integer")
    return any(part in operator for part in parts)


def _unknown(model: Any) -> list[str]:
    """The operators that onnx2torch has nothing for, each once."""
    registry = importlib.import_module("onnx2torch.node_converters.registry")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    found: dict[str, None] = {}
    for node in model.graph.node:
        try:
            registry.get_converter(node.op_type, versions.get(node.domain, 1), node.domain)
        except NotImplementedError:
            found[f"{node.domain}.{node.op_type}" if node.domain else node.op_type] = None
    return list(found)


def _images(model: Any) -> list[Any]:
    """The dimensions of each of the model's inputs, the batch first."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [info.type.tensor_type.shape.dim for info in model.graph.input if info.name not in constants]


def _size(model: Any, shape: Sequence[int]) -> None:
    """Free dimensions of the images as in ``shape``, in place; what the file fixes stays, the data may not fit it."""
    for dims in _images(model):
        if len(dims) == len(shape) + 1:
            for dim, size in zip(dims[1:], shape, strict=True):
                dim.dim_value = dim.dim_value or size


def _settle(module: nn.Module, model: Any) -> None:
    dims = _images(model)
    # what is measured at a size that was guessed would be wrong at any other
    if len(dims) == 1 and all(dim.dim_value for dim in dims[0][1:]) and isinstance(module, fx.GraphModule):
        aside = copy.deepcopy(module)
        try:
            changed = settle(aside, tuple(dim.dim_value for dim in dims[0][1:]))
        except Exception:  # such as a batch that is fixed inside: the check tells
            return
        if changed:
            module.graph = aside.graph
            module.delete_all_unused_submodules()


def _onnx2torch() -> Any:
    """Import the library, also where torchvision is not there: it needs that for two operators of detectors only."""
    try:
        importlib.import_module("torchvision")
    except Exception:  # missing, or built for another torch: then it raises RuntimeError
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        absent, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
        absent.__dict__.update(ops=operators, __path__=[])
        operators.__dict__["roi_align"] = None
        sys.modules.update({"torchvision": absent, "torchvision.ops": operators})
    try:
        return importlib.import_module("onnx2torch")
    except ImportError as error:
        raise TrainingError("converting ONNX to torch needs onnx2torch", "pip install --no-deps onnx2torch") from error
    finally:
        if getattr(sys.modules.get("torchvision"), "__file__", None) is None:
            for name in ("torchvision", "torchvision.ops"):
                sys.modules.pop(name, None)


def _drop_softmax(model: Any) -> None:
    last = [node for node in model.graph.node if model.graph.output[0].name in node.output]
    if len(model.graph.output) == 1 and last and last[0].op_type in ("Softmax", "LogSoftmax"):
        model.graph.output[0].name = last[0].input[0]
        model.graph.node.remove(last[0])


def _free_batch(model: Any) -> None:
    for info in (*model.graph.input, *model.graph.output):
        dims = info.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = "batch"
    del model.graph.value_info[:]


def _shapes(model: Any) -> dict[str, list[int]]:
    """Of all tensors whose shape is known; 0 where a dimension is free."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*inferred.value_info, *inferred.input)
    }


def _unstride(model: Any) -> None:
    """A tensor made flat and gathered again in the same order, as what it was.

    torch's exporter writes that for as_strided, behind a global average pool of a batch of one.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = _shapes(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        flat = makers.get(node.input[0]) if node.op_type == "Gather" and node.input[1] in constants else None
        if flat is None or flat.op_type != "Reshape" or flat.input[1] not in constants:
            continue
        places = onnx.numpy_helper.to_array(constants[node.input[1]])
        goal = onnx.numpy_helper.to_array(constants[flat.input[1]]).tolist()
        in_order = places.ravel().tolist() == list(range(places.size))
        same = places.ndim > 1 and shapes.get(flat.input[0], [])[1:] == list(places.shape[1:])
        if goal in ([-1], [places.size]) and in_order and same and places.shape[0] == 1:
            node.op_type = "Identity"
            del node.attribute[:]
            node.input[:] = [flat.input[0]]
    used = {name for node in model.graph.node for name in node.input}
    for flat in [node for node in model.graph.node if node.op_type == "Reshape" and not used & set(node.output)]:
        if flat.output[0] not in {info.name for info in model.graph.output}:
            model.graph.node.remove(flat)


def _flatten(model: Any) -> None:
    """Reshapes to (batch, the rest) as Flatten, which fixes no width: channels before it can be pruned."""
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = _shapes(model)
    for node in model.graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
        given = shapes.get(node.input[0], [])
        rest = math.prod(given[1:])
        if len(given) > 1 and rest and len(shape) == 2 and shape[0] in (-1, 0, 1) and shape[1] in (-1, rest):
            node.op_type = "Flatten"
            del node.attribute[:]
            del node.input[1:]
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)  # onnxruntime would warn of it


def _older(model: Any) -> Any:
    """The same in opset 17 and with plain Reshapes, as far as that goes: onnx2torch knows no newer reductions."""
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        known = node.op_type == "Reshape" and node.input[1] in constants
        if known and 0 not in onnx.numpy_helper.to_array(constants[node.input[1]]):
            del node.attribute[:]  # allowzero only says what a 0 would mean
        for attribute in [entry for entry in node.attribute if entry.name == "noop_with_empty_axes" and not entry.i]:
            node.attribute.remove(attribute)  # the default, which the converter carries to where it was unknown
    if any(entry.domain in ("", "ai.onnx") and entry.version > 17 for entry in model.opset_import):
        try:
            return onnx.version_converter.convert_version(model, 17)
        except RuntimeError:  # no way back for some operator; perhaps onnx2torch knows it as it is
            return model
    return model


def _check(path: Path, model: Any, module: nn.Module) -> None:
    import onnxruntime

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise TrainingError(f"{path} has {len(inputs)} inputs and {len(model.graph.output)} outputs", "use one of each")
    shape = [dim.dim_value or 1 for dim in inputs[0].type.tensor_type.shape.dim]
    images = torch.randn([3, *shape[1:]], generator=torch.Generator().manual_seed(0))
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = torch.from_numpy(session.run(None, {inputs[0].name: images.numpy()})[0])
        with torch.no_grad():
            got = module.eval()(images)
    except Exception as error:  # a fixed batch inside, such as in a Reshape, or images of another size than it takes
        told, size = (str(error) or repr(error)).splitlines()[0], " x ".join(map(str, shape[1:]))
        free = [dim.dim_param or "unnamed" for dim in _images(model)[0][1:] if not dim.dim_value]
        if free:
            raise TrainingError(
                f"{path} leaves dimensions of its images free ({', '.join(free)}), and cannot be run with 1 for each, "
                f"on a batch of {size}: {told}",
                "export it for images of one size, or load it with theirs: cloister.protect.training.load_model(path, "
                "shape=(channels, height, width))",
            ) from error
        raise TrainingError(
            f"{path} cannot be run on a batch of images of {size}: {told}",
            "export it with a free batch dimension, and for images of that size",
        ) from error
    if len(expected) != len(images) or got.shape != expected.shape:
        raise TrainingError(
            f"{path} gives {len(expected)} answers to {len(images)} images: its batch is fixed inside",
            "export it with a free batch dimension (torch.onnx.export: dynamic_shapes), or give the model as "
            "package.module:factory and a checkpoint",
        )
    difference = float((got - expected).abs().max())
    if not difference <= 1e-3 * float(expected.abs().max()):
        raise TrainingError(
            f"{path}: the converted module answers differently from onnxruntime, by up to {difference:.3g}",
            "give the model as package.module:factory and a checkpoint instead",
        )

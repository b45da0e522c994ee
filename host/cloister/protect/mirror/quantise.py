# SPDX-License-Identifier: BSD-2-Clause
"""A pair's files in 8 bits, with taps that cross in 8 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cloister.locked_quantised import quantize_locked
from cloister.password import Password
from cloister.protect.mirror.narrow import SYNTHETIC, synthetic
from cloister.protect.mirror.onnx_pair import OnnxPair
from cloister.protect.mirror.pair import Pair
from cloister.protect.strategy import IMAGE
from cloister.quantization import quantize_model

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


Images = npt.NDArray[np.float32]


def quantise_pair(pair: Pair, backbone: Path, cpm: Path, images: Images, password: Password | None = None) -> None:
    """Replace both files of a pair by their 8-bit forms (as ``cloister quantize`` makes them).

    What crosses becomes int8 in both, with one scale: the backbone ends a tap with its quantisation, and the CPM begins
    with the reverse. The image stays float32.

    A range tells something of the images that it was measured on. So whatever stands in the file of a random backbone,
    the scales of its taps among it, is measured on synthetic images; the images that are given decide on ranges within
    the CPM alone.

    Args:
        pair: what the files were exported from.
        backbone, cpm: as :func:`~cloister.protect.mirror.export.export_pair` wrote them.
        images: normalised training images (N, C, H, W) that ranges are measured on.
        password: what the CPM is locked with, if it is.

    Raises:
        QuantizationError: onnxruntime cannot quantise a half.
        PasswordError: the password is not the CPM's.
    """
    import onnx

    files, random = OnnxPair(backbone, cpm), pair.strategy.backbone == "random"
    shown = synthetic(pair.shape, SYNTHETIC, 0).numpy() if random else images
    crossing = files.crossing(images)
    entries = _entry_scales(cpm, files.crossing(shown)) if random else None
    quantize_model(backbone, shown, backbone)
    if password is None:
        quantize_model(cpm, crossing, cpm)
    else:
        quantize_locked(cpm, password, crossing, cpm)
    first, second = onnx.load(str(backbone)), onnx.load(str(cpm))
    for name in crossing:
        if name != IMAGE:
            entry = _entry_scale(second, name) if entries is None else entries[name]
            _enter(second, name, _leave(first, name, entry))
    for model, path in ((first, backbone), (second, cpm)):
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        aside = path.with_name(path.name + ".new")
        onnx.save(model, str(aside))
        aside.replace(path)


def _entry_scales(cpm: Path, crossing: dict[str, Any]) -> dict[str, Any]:
    """For each tap the scale that the CPM would quantise it by, if it had seen nothing but this."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="cloister-quantise-") as folder:
        made = Path(folder) / cpm.name
        quantize_model(cpm, crossing, made)
        model = onnx.load(str(made))
    return {name: _entry_scale(model, name) for name in crossing}


def _constant(model: Any, name: str) -> Any:
    return next(value for value in model.graph.initializer if value.name == name)


def _entry_scale(cpm: Any, name: str) -> tuple[Any, Any] | None:
    """Scale and zero point that the CPM itself would quantise a tap by; None where it does not."""
    for node in cpm.graph.node:
        if node.op_type == QUANTIZE and node.input[0] == name:
            return _constant(cpm, node.input[1]), _constant(cpm, node.input[2])
    return None


def _leave(backbone: Any, name: str, otherwise: tuple[Any, Any] | None) -> tuple[Any, Any]:
    """Let a tap leave the backbone in 8 bits; scale and zero point."""
    import onnx

    nodes, real = backbone.graph.node, f"{name}:real"
    last = next(node for node in nodes if name in node.output)
    # the backbone's own layers may read the tap as well: they go on with the real values
    read = any(name in node.input for node in nodes)
    _rename(backbone, name, real)
    if last.op_type == DEQUANTIZE:
        scale = (_constant(backbone, last.input[1]), _constant(backbone, last.input[2]))
        inner = last.input[0]
        if not read:
            nodes.remove(last)
        _rename(backbone, inner, name)
    else:  # moved only, such as logits that are tapped as well
        assert otherwise is not None, f"nothing quantises {name}"
        scale = otherwise
        names = _add_scale(backbone, name, scale)
        nodes.append(onnx.helper.make_node(QUANTIZE, [real, *names], [name]))
    _retype(backbone.graph.output, name)
    return scale


def _enter(cpm: Any, name: str, scale: tuple[Any, Any]) -> None:
    """Let the CPM take a tap in 8 bits."""
    import onnx

    real, nodes = f"{name}:real", cpm.graph.node
    gone = [node for node in nodes if node.op_type == QUANTIZE and node.input[0] == name]
    ends = {node.output[0] for node in gone}
    back = [node for node in nodes if node.op_type == DEQUANTIZE and node.input[0] in ends]
    replaced = {name, *(node.output[0] for node in back)}
    for node in (*gone, *back):
        nodes.remove(node)
    for node in nodes:
        for index, value in enumerate(node.input):
            node.input[index] = real if value in replaced else value
    names = _add_scale(cpm, name, scale)
    nodes.insert(0, onnx.helper.make_node(DEQUANTIZE, [name, *names], [real]))
    _retype(cpm.graph.input, name)


def _add_scale(model: Any, name: str, scale: tuple[Any, Any]) -> list[str]:
    names = [f"{name}:scale", f"{name}:zero_point"]
    for value, own in zip(scale, names, strict=True):
        copied = type(value)()
        copied.CopyFrom(value)
        copied.name = own
        model.graph.initializer.append(copied)
    return names


def _rename(model: Any, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, value in enumerate(names):
                names[index] = new if value == old else value


def _retype(values: Any, name: str) -> None:
    import onnx

    for value in values:
        if value.name == name:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT8

# SPDX-License-Identifier: BSD-2-Clause
"""A locked model in 8 bits: ranges are measured with the password, weights are stored without it.

Measured on the locked model itself, ranges would be those of an answer that is never asked for. So the owner's model is
quantised, and then locked again in its integers; docs/formats.md says how a device folds the password into those.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from cloister.ir.load import ModelSource, load_model
from cloister.password import LOCK_ID, Lock, Password, PasswordError
from cloister.quantization import Agreement, Samples, quantize_model
from cloister.tensors import Array

#: Largest magnitude of a quantised weight; -128 is not used, so that every weight can be turned around.
MOST = 127


def quantize_locked(
    locked: ModelSource,
    password: Password,
    samples: Array | Samples,
    output: str | Path,
    *,
    per_channel: bool = False,
    method: str = "minmax",
) -> Agreement:
    """Quantise a locked fp32 model, so that the device that has its password computes the owner's model in 8 bits.

    Args:
        locked: path, serialized bytes, or ModelProto of the locked model (not changed).
        password: its password.
        samples, per_channel, method: as for :func:`~cloister.quantization.quantize_model`.
        output: file to write: the locked 8-bit model.

    Returns:
        How well the 8-bit model with the password agrees with the fp32 model with the password.

    Raises:
        FormatError, QuantizationError: as ``quantize_model``.
        PasswordError: the password is not this model's, or its scales need ``per_channel``.
    """
    model = load_model(locked)
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.resolve().parent) as folder:
        made = Path(folder) / "owner.onnx"
        report = quantize_model(password.apply(model), samples, made, per_channel=per_channel, method=method)
        quantised = onnx.load(made)
        quantised.metadata_props.extend(entry for entry in model.metadata_props if entry.key == LOCK_ID)
        for lock in password.locks:
            _lock(quantised, model, lock)
        onnx.save(quantised, made)
        made.replace(target)
    return report


def _lock(quantised: onnx.ModelProto, model: onnx.ModelProto, lock: Lock) -> None:
    """Take the password out of one layer's integers, in place; ``model`` has the constants' own weights."""
    producers = {name: node for node in quantised.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in quantised.graph.initializer}
    layer = producers.get(lock.tensor)
    parts = [] if layer is None else [producers[name] for name in layer.input[:3] if name in producers]
    if layer is None or len(parts) != 3 or any(part.op_type != "DequantizeLinear" for part in parts):
        raise PasswordError(
            f"tensor {lock.tensor!r} is not computed in 8 bits after quantising", "lock convolutions and Gemms only"
        )
    inputs, weights, bias = parts
    step = np.float64(_value(constants, inputs.input[1]).reshape(()))
    whole = _rows(_value(constants, weights.input[0]).astype(np.int32), layer)
    scales, own_scales = _value(constants, weights.input[1]), _value(constants, bias.input[1])
    shifts = _value(constants, bias.input[0]).astype(np.int64)
    width = len(whole)
    each = np.broadcast_to(scales, (width,)).astype(np.float64)
    plain, plain_bias = _plain(model, lock.tensor)
    for channel, scale, shift in zip(lock.channels, lock.scales, lock.values, strict=True):
        if abs(scale) not in (0, 1) and scales.ndim == 0:
            raise PasswordError(
                f"tensor {lock.tensor!r} has channels scaled by {scale:g}, for which its weights share a scale",
                "quantise per channel (--per-channel)",
            )
        if scale:
            unit = step * each[channel]
            whole[channel] *= int(np.sign(scale))
            shifts[channel] = int(np.sign(scale)) * (shifts[channel] - int(np.rint(shift / unit)))
            each[channel] /= abs(scale)
        else:
            if scales.ndim:  # the scale of a row of zeros says nothing
                each[channel] = max(float(np.abs(plain[channel]).max()), 1e-12) / MOST
            whole[channel] = np.clip(np.rint(plain[channel] / each[channel]), -MOST, MOST)
            shifts[channel] = int(np.rint(plain_bias[channel] / (step * each[channel])))
    if np.abs(shifts).max() >= 1 << 31:
        raise PasswordError(f"a bias of {lock.tensor!r} exceeds 32 bits in 8-bit units", "use smaller locking values")
    _write(constants, weights.input[0], _rows(whole, layer).astype(np.int8))
    _write(constants, bias.input[0], shifts.astype(np.int32))
    if scales.ndim:  # else no scale has changed, and that of the bias has one element for all channels
        _write(constants, weights.input[1], each.astype(np.float32))
        if own_scales.ndim:
            _write(constants, bias.input[1], (each * step).astype(np.float32))


def _plain(model: onnx.ModelProto, tensor: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights with output channels first, and biases, of the locked fp32 layer."""
    layer = next(node for node in model.graph.node if tensor in node.output)
    constants = {entry.name: entry for entry in model.graph.initializer}
    rows = _rows(_value(constants, layer.input[1]).astype(np.float64), layer)
    bias = np.zeros(len(rows))
    if len(layer.input) > 2 and layer.input[2]:
        beta = next((entry.f for entry in layer.attribute if entry.name == "beta"), 1.0)
        bias = np.broadcast_to(beta * _value(constants, layer.input[2]).astype(np.float64), bias.shape)
    return rows, bias


def _rows(weights: Any, layer: onnx.NodeProto) -> Any:
    """Output channels first, or back: a Gemm without transB has them last."""
    transposed = any(entry.name == "transB" and entry.i for entry in layer.attribute)
    return np.swapaxes(weights, 0, 1).copy() if layer.op_type == "Gemm" and not transposed else weights.copy()


def _value(constants: dict[str, onnx.TensorProto], name: str) -> npt.NDArray[Any]:
    return numpy_helper.to_array(constants[name])


def _write(constants: dict[str, onnx.TensorProto], name: str, value: npt.NDArray[Any]) -> None:
    constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))

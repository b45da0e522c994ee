# SPDX-License-Identifier: BSD-2-Clause
"""fp32 models to 8-bit ones with onnxruntime's static quantiser: standard ONNX, QuantizeLinear and DequantizeLinear.

onnxruntime measures the range of every tensor on sample inputs; which operators are quantised is chosen here so that
what the engine computes in float32 anyway (Softmax, normalisation) is not rounded for nothing.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.version_converter

from cloister.arrays import ARRAY_ERRORS, load_arrays, not_finite
from cloister.errors import CloisterError
from cloister.ir.load import ModelSource, load_model, opset_of
from cloister.password import lock_of

Array = npt.NDArray[Any]
#: Arrays of samples by input name, all with one leading axis of samples.
Samples = Mapping[str, Array]

METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}

#: Scales for each channel need it; older models are converted.
LOWEST_OPSET = 13

#: Operators that have an 8-bit form in the engine, or only move elements, or become tables.
OPERATORS = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Elu",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
)


class QuantizationError(CloisterError):
    """The samples do not fit the model, or the quantiser is missing or fails."""


@dataclass(frozen=True)
class Agreement:
    """The quantised model against the fp32 one on the samples, both run by onnxruntime.

    Attributes:
        samples: number of samples.
        same_label: share of them whose largest element of the first output is the same.
        largest_error: largest difference of an element of the first output.
        output_range: largest minus smallest element of the fp32 model's first output.
        signal_to_noise: power of the fp32 output over power of the difference, in dB.
        fp32_bytes: size of the fp32 model.
        int8_bytes: size of the quantised model.
    """

    samples: int
    same_label: float
    largest_error: float
    output_range: float
    signal_to_noise: float
    fp32_bytes: int
    int8_bytes: int


def load_samples(path: Path) -> Array | dict[str, Array]:
    """Samples from a file: one array (.npy, for models of one input) or arrays by input name (.npz).

    Raises:
        QuantizationError: no such file, not of these kinds, or with samples that hold NaN or infinity.
    """
    try:
        samples = load_arrays(path, mapped=path.suffix == ".npy")
    except ARRAY_ERRORS as error:
        raise QuantizationError(
            f"{path} holds no samples: {error}", "save them with numpy.save or, for several inputs, numpy.savez"
        ) from error
    _refuse_not_finite(samples, str(path))
    return samples


def _refuse_not_finite(samples: Array | Samples, name: str) -> None:
    if told := not_finite(samples, name):  # one such value makes the range of a tensor, and so its scale, useless
        raise QuantizationError(told, "repair or leave out such samples")


def quantize_model(
    source: ModelSource,
    samples: Array | Samples,
    output: str | Path,
    *,
    per_channel: bool = False,
    method: str = "minmax",
) -> Agreement:
    """Quantises an fp32 model and writes it as QDQ ONNX; int8 activations and weights.

    Args:
        source: path, serialized bytes, or ModelProto (not changed).
        samples: float32 inputs with a leading axis of samples, or, where the model's own first dimension is 1 or free,
            in its place; one array for a model of one input, else by input name. Some hundred typical ones serve well.
        output: file to write.
        per_channel: a scale for each output channel of the weights: more accurate, and no slower here.
        method: how ranges follow from what was measured: "minmax", "percentile" (99.999 %) or "entropy".

    Raises:
        FormatError: no valid ONNX model.
        QuantizationError: the samples do not fit or are not finite, the model's answer to one is not, it is locked,
            onnxruntime is missing, or it cannot quantise this model.
    """
    ort, quantization = _onnxruntime()
    if method not in METHODS:
        raise QuantizationError(f"unknown method {method!r}", f"choose one of {', '.join(METHODS)}")
    model = _recent(load_model(source))
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise QuantizationError("the model is quantised already", "compile it as it is, or give the fp32 model")
    if lock := lock_of(model):
        raise QuantizationError(
            f"the model is locked ({lock[:8]}...), and ranges must be measured with its password",
            "give it: --password password.pwd, in Python password=",
        )
    _refuse_not_finite(samples, "samples")
    feeds = _feeds(model, samples)
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.resolve().parent) as folder:
        given, prepared, made = (Path(folder) / f"{step}.onnx" for step in ("given", "prepared", "quantised"))
        onnx.save(model, given)
        logger = logging.getLogger()
        level = logger.level
        # The quantiser advises at length; what matters is in this command's own report.
        logger.setLevel(logging.ERROR)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                quantization.shape_inference.quant_pre_process(given, prepared, skip_symbolic_shape=True)
                quantization.quantize_static(
                    prepared,
                    made,
                    _Reader(feeds),
                    quant_format=quantization.QuantFormat.QDQ,
                    op_types_to_quantize=list(OPERATORS),
                    per_channel=per_channel,
                    activation_type=quantization.QuantType.QInt8,
                    weight_type=quantization.QuantType.QInt8,
                    calibrate_method=getattr(quantization.CalibrationMethod, METHODS[method]),
                )
        except Exception as error:
            # It raises whatever its many parts raise; the text is all there is to go by.
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise QuantizationError(
                f"onnxruntime cannot quantise the model: {first}",
                "check the model with onnx.checker, try --method minmax, or compile it in float32",
            ) from error
        finally:
            logger.setLevel(level)
        _restore_names(model, made)
        report = _compare(ort, model, made, feeds)
        made.replace(target)
    return report


def _restore_names(model: onnx.ModelProto, made: Path) -> None:
    """Gives layers their tensors' names back whose Relu or Clip the quantiser took out: passwords name these tensors.

    The quantiser lets the layer compute the activation's result where the bounds of 8 bits do the same.
    """
    quantised = onnx.load(made)
    before = {name: node for node in model.graph.node for name in node.output}
    kept = {info.name for info in quantised.graph.output}
    renamed: dict[str, str] = {}
    for node in quantised.graph.node:
        was = before.get(node.output[0])
        layer = node.op_type in ("Conv", "Gemm", "MatMul")
        if layer and was is not None and was.op_type in ("Relu", "Clip") and node.output[0] not in kept:
            renamed[node.output[0]] = was.input[0]
    for node in quantised.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    del quantised.graph.value_info[:]
    onnx.save(quantised, made)


def _onnxruntime() -> tuple[Any, Any]:
    try:
        import onnxruntime
        import onnxruntime.quantization
        import onnxruntime.quantization.shape_inference
    except ImportError as error:
        raise QuantizationError(
            f"quantising needs onnxruntime, which is not installed ({error})",
            "install it: pip install cloister[quantize]",
        ) from error
    return onnxruntime, onnxruntime.quantization


def _recent(model: onnx.ModelProto) -> onnx.ModelProto:
    if opset_of(model) >= LOWEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, LOWEST_OPSET)
    except Exception as error:
        raise QuantizationError(
            f"the model has opset {opset_of(model)}, which does not convert to {LOWEST_OPSET}: {error}",
            f"export it with opset {LOWEST_OPSET} or newer",
        ) from error


def _feeds(model: onnx.ModelProto, samples: Array | Samples) -> list[dict[str, Array]]:
    """One dictionary of inputs for each sample."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    names = ", ".join(info.name for info in inputs)
    if isinstance(samples, np.ndarray):
        if len(inputs) != 1:
            raise QuantizationError(
                f"one array of samples was given, the model has the inputs {names}",
                "give an .npz with an array for each",
            )
        samples = {inputs[0].name: samples}
    if set(samples) != {info.name for info in inputs}:
        given = ", ".join(samples)
        raise QuantizationError(f"samples were given for {given}, the model's inputs are {names}", "name them alike")
    parts: dict[str, Sequence[Array]] = {info.name: _cut(info, samples[info.name]) for info in inputs}
    counts = {name: len(part) for name, part in parts.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise QuantizationError(
            f"the numbers of samples differ or are zero: {counts}", "give one sample for each input"
        )
    return [{name: part[i] for name, part in parts.items()} for i in range(min(counts.values()))]


def _cut(info: onnx.ValueInfoProto, array: Array) -> list[Array]:
    wanted = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in info.type.tensor_type.shape.dim]
    if array.dtype != wanted:
        raise QuantizationError(
            f"the samples of input {info.name!r} have dtype {array.dtype}, the model takes {wanted}",
            f"convert them: x.astype(numpy.{wanted}), with the scaling that the model was trained with",
        )

    def fits(shape: Sequence[int], to: Sequence[int | None]) -> bool:
        return len(shape) == len(to) and all(size is None or size == own for own, size in zip(shape, to, strict=True))

    if fits(array.shape[1:], dims):
        return [np.ascontiguousarray(array[i]) for i in range(len(array))]
    batch = bool(dims) and dims[0] in (None, 1)
    if batch and fits(array.shape[1:], dims[1:]):
        return [np.ascontiguousarray(array[i : i + 1]) for i in range(len(array))]
    one = dims[1:] if batch else dims
    raise QuantizationError(
        f"the samples of input {info.name!r} have shape {array.shape}, one sample of the model is {_shape(*one)}",
        f"give an array of shape {_shape('samples', *one)}",
    )


def _shape(*dims: int | str | None) -> str:
    """A shape as Python writes it; dimensions that the model leaves free as ``?``."""
    words = ["?" if size is None else str(size) for size in dims]
    return f"({', '.join(words)}{',' * (len(words) == 1)})"


class _Reader:
    """What onnxruntime asks for samples (its CalibrationDataReader, by shape and not by inheritance)."""

    def __init__(self, feeds: Sequence[dict[str, Array]]) -> None:
        self._feeds = feeds
        self._next: Iterator[dict[str, Array]] = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        """The next sample; None after the last."""
        return next(self._next, None)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self

    def __next__(self) -> dict[str, Array]:
        return next(self._next)

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Restricts the samples to a range, for methods that go through them in parts."""
        self._next = iter(self._feeds[start_index:end_index])


def _compare(ort: Any, model: onnx.ModelProto, quantised: Path, feeds: Sequence[dict[str, Array]]) -> Agreement:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    whole = model.SerializeToString()
    fp32, int8 = (
        ort.InferenceSession(what, options, providers=["CPUExecutionProvider"]) for what in (whole, str(quantised))
    )
    name = model.graph.output[0].name
    same, worst, low, high, signal, noise = 0, 0.0, np.inf, -np.inf, 0.0, 0.0
    for index, feed in enumerate(feeds):
        wanted = np.asarray(fp32.run([name], feed)[0], dtype=np.float64)
        if not np.isfinite(wanted).all():
            raise QuantizationError(
                f"the model that was given answers the sample at index {index} with NaN or infinity",
                "bring the samples to the scale that the model was trained with, and look at its answer in onnxruntime",
            )
        got = np.asarray(int8.run([name], feed)[0], dtype=np.float64)
        same += int(wanted.argmax() == got.argmax())
        worst = max(worst, float(np.abs(got - wanted).max()))
        low, high = min(low, float(wanted.min())), max(high, float(wanted.max()))
        signal += float(np.square(wanted).sum())
        noise += float(np.square(got - wanted).sum())
    # an answer of zeros that 8 bits change is all noise
    ratio = float("inf") if not noise else float(10 * np.log10(signal / noise)) if signal else float("-inf")
    return Agreement(
        len(feeds), same / len(feeds), worst, float(high - low), ratio, len(whole), quantised.stat().st_size
    )

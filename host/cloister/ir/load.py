# SPDX-License-Identifier: BSD-2-Clause
"""From a file, bytes or a ModelProto to a checked ModelProto with the shapes of its inputs fixed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from cloister.errors import CloisterError, FormatError, UnsupportedModelError
from cloister.ir.graph import Array, Problem

ModelSource = str | Path | bytes | onnx.ModelProto

LOWEST_OPSET = 7
HOW_TO_FIX = "fix it, for instance with --dim NAME=SIZE"


class ModelError(CloisterError):
    """The model cannot be used as asked: an option names an input or a dimension that it does not have."""


def load_model(source: ModelSource) -> onnx.ModelProto:
    """The model, external data included, after ONNX's own checker; a ModelProto given is copied, not changed.

    Raises:
        FormatError: the file is missing or cannot be read, is no ONNX model, breaks ONNX's rules or lacks its
            external data.
        UnsupportedModelError: it has an operator that ONNX has withdrawn from the model's opset.
    """
    what = f"{source}" if isinstance(source, str | Path) else "the model given"
    if isinstance(source, str | Path):
        _check_readable(Path(source))
    try:
        if isinstance(source, onnx.ModelProto):
            model = onnx.ModelProto()
            model.CopyFrom(source)
        elif isinstance(source, bytes):
            model = onnx.load_from_string(source)
        else:
            model = onnx.load(str(source))
        onnx.checker.check_model(model)
    except (OSError, onnx.checker.ValidationError, DecodeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "is deprecated in domain_version" in first:
            raise UnsupportedModelError(
                f"{what} has an operator that ONNX has withdrawn from its opset: {first}",
                "export the model for another opset that has the operator; with GroupNormalization, 21 or newer",
            ) from error
        if "external data" in first.lower() or "should be stored in" in first:
            raise FormatError(
                f"{what} keeps its weights in a file of their own, which is not as it should be: {first}",
                "put that file beside the model again, as the exporter wrote both",
            ) from error
        raise FormatError(
            f"{what} is not a valid ONNX model: {first}",
            "export the model again, and look at it with onnx.checker.check_model",
        ) from error
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return model


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise FormatError(
            f"the model {path} cannot be read: {error.strerror}", "check the path: it names the .onnx file"
        ) from error


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ai.onnx that the model imports; 0 where it imports none."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def model_problems(model: onnx.ModelProto) -> list[Problem]:
    """What stands against the model as a whole: old opset, sparse constants."""
    problems = []
    opset = opset_of(model)
    if opset < LOWEST_OPSET:
        reason = f"needs opset {LOWEST_OPSET} or newer of ai.onnx; convert it with onnx.version_converter"
        problems.append(Problem("the model", "", reason, "opset", opset))
    for sparse in model.graph.sparse_initializer:
        problems.append(Problem("the model", "", "sparse constants are not supported", "constant", sparse.values.name))
    return problems


def fix_inputs(model: onnx.ModelProto, values: Mapping[str, Array]) -> None:
    """Turns graph inputs into constants, in place.

    Raises:
        ModelError: no input has that name.
    """
    names = [info.name for info in model.graph.input]
    for name, value in values.items():
        if name not in names:
            raise ModelError(f"the model has no input {name!r}", f"its inputs are {', '.join(names)}")
        present = [tensor for tensor in model.graph.initializer if tensor.name == name]
        for tensor in present:
            model.graph.initializer.remove(tensor)
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    _keep_runtime_inputs(model)


def _keep_runtime_inputs(model: onnx.ModelProto) -> None:
    """Before IR version 4 constants were listed among the inputs too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [info for info in model.graph.input if info.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def fix_dims(model: onnx.ModelProto, dims: Mapping[str, int]) -> tuple[list[str], list[Problem]]:
    """Gives free dimensions of the inputs their sizes, in place; returns notes and what remains free.

    ``dims`` maps a symbolic name ("batch"), or "input:axis" where the dimension has none, to a size. A free first
    dimension is taken for the batch and becomes 1, with a note. Recorded shapes inside the graph are dropped, as they
    are inferred anew.

    Raises:
        ModelError: a size is below 1, or no dimension has that name.
    """
    _keep_runtime_inputs(model)
    for name, size in dims.items():
        if size < 1:
            raise ModelError(f"--dim {name}={size}: a dimension is at least 1", "give a positive size")
    known: set[str] = set()
    chosen = dict(dims)
    notes: list[str] = []
    problems: list[Problem] = []
    free = list(_free_dims(model))
    for name, axis, symbol, _ in free:
        known.update(key for key in (symbol, f"{name}:{axis}") if key)
    for key in dims:
        if key not in known:
            free_names = ", ".join(sorted(known)) or "none: all its shapes are fixed"
            raise ModelError(f"the model has no free dimension {key!r}", f"its free dimensions are {free_names}")
    for name, axis, symbol, _ in free:
        if axis == 0 and symbol not in chosen and f"{name}:0" not in chosen:
            chosen[symbol or f"{name}:0"] = 1
            notes.append(f"free first dimension {symbol or '?'} of input {name!r} set to 1")
    for name, axis, symbol, dim in free:
        fixed = chosen.get(f"{name}:{axis}", chosen.get(symbol) if symbol else None)
        if fixed is None:
            reason = f"the size is not known; {HOW_TO_FIX} (here: --dim {symbol or f'{name}:{axis}'}=SIZE)"
            problems.append(Problem(f"input {name!r}", "", reason, f"dimension {axis}", symbol or "?"))
        else:
            dim.dim_value = fixed
    del model.graph.value_info[:]
    for info in model.graph.output:
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape") and free:
            info.type.tensor_type.ClearField("shape")
    return notes, problems


def free_dims(model: onnx.ModelProto) -> set[str]:
    """The names under which ``dims`` may fix free dimensions of a model's inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = [free for free in _free_dims(model) if free[0] not in constants]
    return {key for name, axis, symbol, _ in found for key in (symbol, f"{name}:{axis}") if key}


def _free_dims(model: onnx.ModelProto) -> list[tuple[str, int, str, Any]]:
    found = []
    for info in model.graph.input:
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                if not dim.HasField("dim_value"):
                    found.append((str(info.name), axis, str(dim.dim_param), dim))
    return found

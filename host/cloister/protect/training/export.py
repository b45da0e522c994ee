# SPDX-License-Identifier: BSD-2-Clause
"""From a trained module to an ONNX file that ``cloister compile`` takes."""

from __future__ import annotations

import copy
import inspect
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloister.protect.training.errors import TrainingError

#: Version of ONNX's operators that is written; the importer takes 7 and newer.
OPSET = 18


def export_onnx(module: nn.Module, shape: tuple[int, int, int], path: Path, *, tolerance: float = 1e-4) -> Path:
    """Write ``module`` as ONNX, checked against onnxruntime's answer.

    Batch normalisation is folded into the convolution before it. The output of each Conv and Gemm is named after the
    module that it came from (``features.0`` becomes the tensor ``features.0:out``), so that a name found in the torch
    module finds the tensor in the graph; nothing else of the module's source or this machine is left in the file.

    Args:
        module: answers logits (N, classes) to images (N, C, H, W).
        shape: channels, height and width of an image.
        path: file to write: input ``image`` (batch, C, H, W), output ``logits`` (batch, classes), float32.
        tolerance: largest difference to the module's own answer, as a share of its largest logit.

    Raises:
        TrainingError: torch cannot export the module, or the file answers differently.
    """
    return export_tensors(module, {"image": shape}, ("logits",), path, tolerance=tolerance)


def export_tensors(
    module: nn.Module,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    path: Path,
    *,
    tolerance: float = 1e-4,
) -> Path:
    """As :func:`export_onnx`, for a module of several inputs or outputs.

    Args:
        module: takes tensors (N, ...) one after another; answers one tensor, or a tuple of tensors, (N, ...) each.
        inputs: shapes without the batch, by the names that they get, in the order of the arguments.
        outputs: names, in the order of the answer.
        path: file to write; all tensors are float32 and (batch, ...).
        tolerance: largest difference of an output to the module's own, as a share of its largest element.

    Raises:
        TrainingError: as :func:`export_onnx`.
    """
    import onnx

    module = copy.deepcopy(module).cpu().to(torch.float32).to(memory_format=torch.contiguous_format).eval()
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.randn((2, *shape), generator=generator) for name, shape in inputs.items()}
    specs = tuple({0: torch.export.Dim("batch")} for _ in given)
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)  # it warns of each operator of torchvision that is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, tuple(given.values()), dynamo=True, verbose=False, opset_version=OPSET, external_data=False,
                input_names=list(inputs), output_names=list(outputs),
                dynamic_shapes=(specs,) if inspect.Parameter.VAR_POSITIONAL in kinds else specs,
            )  # fmt: skip
    except Exception as error:  # torch.export and onnxscript raise many kinds
        raise TrainingError(
            f"the module cannot be exported: {_reason(error)}",
            "make its forward free of branches on values and of in-place tricks",
        ) from error
    finally:
        noisy.setLevel(level)
    if program is None:
        raise TrainingError("torch exported nothing", "install onnxscript")
    model: Any = program.model_proto
    _name_layers(model)
    _strip(model)
    onnx.checker.check_model(model)
    _compare(model, module, given, tolerance)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    onnx.save(model, str(aside))
    aside.replace(path)
    return path


def _reason(error: BaseException) -> str:
    """What torch says at the bottom of its errors, in a line: those above only say which step failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def layer_tensor(module_path: str) -> str:
    """The tensor that a Conv or Linear at ``module_path`` writes in an exported file, before any activation."""
    return f"{module_path}:out"


def _name_layers(model: Any) -> None:
    new: dict[str, str] = {}
    outputs = {info.name for info in model.graph.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and node.input[1].endswith(".weight") and node.output[0] not in outputs:
            tensor = layer_tensor(node.input[1].removesuffix(".weight"))
            if tensor not in new.values():  # a module that is called twice names its first call only
                new[node.output[0]] = tensor
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = new.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = new.get(name, name)
    del model.graph.value_info[:]


def _strip(model: Any) -> None:
    """Take out what the exporter notes about the machine: stack traces with file names, module scopes."""
    model.producer_name, model.producer_version = "cloister", ""
    for entry in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output,
                  *model.graph.value_info, *model.graph.initializer):  # fmt: skip
        del entry.metadata_props[:]
        entry.doc_string = ""


def _compare(model: Any, module: nn.Module, given: Mapping[str, torch.Tensor], tolerance: float) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        answer = module(*given.values())
    wanted = [answer] if isinstance(answer, torch.Tensor) else list(answer)
    found = session.run(None, {name: value.numpy() for name, value in given.items()})
    for expected, result in zip(wanted, found, strict=True):
        got = torch.from_numpy(result)
        if got.shape != expected.shape:
            raise TrainingError(
                f"the exported model answers {tuple(got.shape)}, the module {tuple(expected.shape)}", "report it"
            )
        difference = float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
        if not difference <= tolerance:
            raise TrainingError(
                f"the exported model's answer differs by {difference:.2g} of its range from the module's",
                "export in evaluation mode and float32; layers that behave differently there cannot be exported",
            )

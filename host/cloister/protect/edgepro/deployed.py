# SPDX-License-Identifier: BSD-2-Clause
"""Which layers a device can lock: what the compiler makes of a network is found out before anything is trained."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from cloister.compile import compile_onnx
from cloister.layers import layer_id
from cloister.password import Lock, Password
from cloister.protect.edgepro.layers import check_names, lockable, width_of
from cloister.protect.edgepro.locks import LayerLock, authorised, to_password
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.export import export_onnx, layer_tensor

#: Difference of answers, as a share of the largest, that rounding explains.
TOLERANCE = 1e-3


def deployable(folded: nn.Module, shape: tuple[int, int, int], layers: Sequence[str] = ()) -> tuple[str, ...]:
    """Paths of the layers that can be locked in the TA: ``layers``, or all of them; () where all are meant and can be.

    Some cannot: those that are called more than once or share their weights, and those behind which a scaling by
    constants stands, which the compiler or torch's exporter folds into them.

    Args:
        folded: normalisation folded.
        shape: channels, height and width of an image.
        layers: paths that the owner named.

    Raises:
        TrainingError: the module cannot be exported, has no layer that can be locked, or not one that was named.
        PasswordError: a layer that was named cannot be; tells why.
        CloisterError: the module cannot be compiled.
    """
    module = copy.deepcopy(folded).cpu()
    every = lockable(module)
    check_names(layers, every, module)
    with torch.no_grad():
        for layer in every.values():
            if layer.bias is not None:
                layer.bias.normal_()  # the exporter writes what is equal, such as zeros, only once
    with tempfile.TemporaryDirectory(prefix="cloister-export-") as folder:
        path = export_onnx(module, shape, Path(folder) / "model.onnx")
        here = compile_onnx(path).layers
        can = tuple(name for name in every if layer_id(layer_tensor(name)) in here)
        for name in layers:
            if name not in can:
                first, one = np.zeros(1, np.uint16), np.ones(1, np.float32)
                compile_onnx(path, password=Password("", [Lock(layer_tensor(name), first, one, one)]))
        if can and not _same(module, path, shape, can):
            can = tuple(name for name in can if _same(module, path, shape, [name]))
    if unlike := [name for name in layers if name not in can]:
        raise TrainingError(
            f"layers {unlike} cannot be locked: what stands behind them is folded into them when they are exported",
            f"lock others ({', '.join(can)}), or normalise in a module of its own (nn.BatchNorm2d)",
        )
    if not can:
        raise TrainingError(
            "the model has no layer that can be locked",
            "give one with two convolutions or linear layers, each called once",
        )
    return tuple(layers) or (() if len(can) == len(every) else can)


@torch.no_grad()
def _same(module: nn.Module, path: Path, shape: tuple[int, int, int], layers: Sequence[str]) -> bool:
    """Whether locks on these layers make of the file what they make of the module."""
    generator = torch.Generator().manual_seed(0)
    locks = {}
    for name in layers:
        width = width_of(lockable(module)[name])
        values = torch.randn(width, generator=generator)
        locks[name] = LayerLock(torch.arange(width), -torch.ones(width), values)
    images = torch.randn((2, *shape), generator=generator)
    with authorised(module.eval(), locks):
        wanted = module(images).numpy()
    model = to_password(locks, "").apply(onnx.load(path))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": images.numpy()})[0]
    return bool(np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max())

# SPDX-License-Identifier: BSD-2-Clause
"""Targets from files: a locked ONNX file with its password, and one that is exposed whole."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath

import onnx
import torch
from torch import nn

from cloister.attack.errors import AttackError
from cloister.attack.exposed import LeakedFile, WhiteBox
from cloister.password import Password
from cloister.protect.edgepro.layers import lockable
from cloister.protect.training import Splits
from cloister.protect.training.export import layer_tensor
from cloister.protect.training.from_onnx import convert
from cloister.protect.training.source import check_model

#: In place of tensors: all that are locked.
ALL = "all"


def exposed_files(paths: Sequence[Path], splits: Splits) -> list[WhiteBox]:
    """ONNX files that are exposed whole, such as pruned models.

    Raises:
        TrainingError: a file cannot be read or converted, or does not fit the data.
    """
    found = []
    for path, name in zip(paths, short_names(paths), strict=True):
        module = convert(path, splits.shape)
        check_model(module, splits, str(path))
        found.append(WhiteBox(module, splits, f"pruned {name}"))
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """Files' names without their endings; those that agree have as many folders before them as tell them apart."""
    names = []
    bare = [path.with_suffix("") for path in paths]
    for path in bare:
        alike = {other for other in bare if other.name == path.name}
        counts = range(1, max(len(other.parts) for other in alike) + 1)
        # a file that is given twice has one name however much of its path is taken
        count = next(n for n in counts if len({_tail(other, n) for other in alike}) == len(alike))
        names.append(_tail(path, count))
    return names


def _tail(path: Path, count: int) -> str:
    return PurePath(*path.parts[-count:]).as_posix()


def leaked_file(path: Path, password: Password, splits: Splits, seen: Sequence[str] = ()) -> LeakedFile:
    """A locked ONNX file as the attacker has it; the device answers as the file with the password does.

    Args:
        path: as ``cloister edgepro`` wrote it.
        password: of that file.
        splits: for normalisation.
        seen: tensors of layers whose outputs authorised runs show, or ``all`` for those that are locked.

    Raises:
        TrainingError: the file cannot be read or converted, or does not fit the data.
        PasswordError: the password is of another model.
        AttackError: there is no such tensor.
    """
    module = convert(path, splits.shape)
    check_model(module, splits, str(path))
    model = onnx.load(str(path))
    opened = password.apply(model)
    with tempfile.TemporaryDirectory(prefix="cloister-attack-") as folder:
        aside = Path(folder) / "authorised.onnx"
        onnx.save(opened, str(aside))
        authorised = convert(aside, splits.shape)
    if not seen:
        return LeakedFile(module, authorised, splits, f"locked {path.stem}")
    wanted = [lock.tensor for lock in password.locks] if ALL in seen else list(seen)
    return SeenFile(module, authorised, splits, f"locked {path.stem}, runs seen", _layers(model, module, wanted))


class SeenFile(LeakedFile):
    """A leaked file, and authorised runs that show layers' outputs: what a plan would do that the compiler refuses.

    Args:
        module, authorised, splits, name: as for :class:`LeakedFile`; both modules have the same layers.
        layers: module paths of those whose outputs are seen.
    """

    def __init__(
        self, module: nn.Module, authorised: nn.Module, splits: Splits, name: str, layers: Sequence[str]
    ) -> None:
        super().__init__(module, authorised, splits, name)
        self._layers = tuple(layers)

    @torch.no_grad()
    def observed(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """See :class:`~cloister.attack.exposed.Exposed`."""
        seen: dict[str, torch.Tensor] = {}
        handles = []
        for layer in self._layers:

            def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, layer: str = layer) -> None:
                seen[layer_tensor(layer)] = output

            handles.append(self._module.get_submodule(layer).register_forward_hook(hook))
        try:
            self._module(self._splits.normalise(pixels.cpu()))
        finally:
            for handle in handles:
                handle.remove()
        return seen


def _layers(model: onnx.ModelProto, module: nn.Module, tensors: Sequence[str]) -> list[str]:
    """The converted module's layers that compute those tensors: its layers stand in the file's order."""
    written = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")][:-1]
    layers = list(lockable(module))  # without the last, as above
    if len(written) != len(layers):
        raise AttackError(
            f"the locked model has {len(layers)} layers that could be locked, but {len(written)} Conv and Gemm",
            "give a file of `cloister edgepro`",
        )
    found = dict(zip(written, layers, strict=True))
    unknown = [tensor for tensor in tensors if tensor not in found]
    if unknown:
        raise AttackError(
            f"the locked model has no layer that writes {', '.join(unknown)}",
            f"those that can be seen: {', '.join(found)}, or {ALL}",
        )
    return [found[tensor] for tensor in dict.fromkeys(tensors)]

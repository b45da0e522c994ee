# SPDX-License-Identifier: BSD-2-Clause
"""Locks in a torch module: where they can be, applying them, folding them in and out."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from cloister.password import Lock, Password
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.export import layer_tensor


@dataclass(frozen=True, eq=False)
class LayerLock:
    """With the password, channel c of the layer's output z becomes ``scales[c] * z[c] + values[c]``.

    Attributes:
        channels: int64 (n,), ascending.
        scales, values: float32 (n,).
    """

    channels: torch.Tensor
    scales: torch.Tensor
    values: torch.Tensor

    def to(self, device: torch.device | str) -> LayerLock:
        """The same on another device."""
        return LayerLock(self.channels.to(device), self.scales.to(device), self.values.to(device))

    def spread(self, width: int, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and values of all ``width`` channels: 1 and 0 where none is locked."""
        scales, values = torch.ones(width, device=device), torch.zeros(width, device=device)
        channels = self.channels.to(device)
        scales[channels], values[channels] = self.scales.to(device), self.values.to(device)
        return scales, values


#: Locks by the path of their Conv2d or Linear.
Locks = Mapping[str, LayerLock]


def lockable(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers that can be locked: convolutions and linear layers but the last.

    The last layer's outputs are the logits; a lock there could be read off the answers. A traced module's layers come
    in the order in which they are called; any other module's in that of its attributes. Layers inside torch's own
    attention are left out: it reads their weights without calling them.
    """
    layers = {name: layer for name, layer in called(module) if isinstance(layer, nn.Conv2d | nn.Linear)}
    return dict(list(layers.items())[:-1])


def check_names(layers: Sequence[str], every: Iterable[str]) -> None:
    """Refuse names of layers that are not among those that can be locked.

    Raises:
        TrainingError: names them, and those that are there.
    """
    there = list(every)
    unknown = [name for name in layers if name not in there]
    if there and unknown:
        raise TrainingError(f"layers {unknown} cannot be locked", f"those that can: {', '.join(there)}")


def called(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Paths and modules, in the order of a traced module's calls; what torch's own attention hides is left out."""
    inner = [name for name, part in module.named_modules() if isinstance(part, _HIDING)]
    seen = set()
    for root in _roots(module):
        for path, part in module.get_submodule(root).named_modules():
            name = ".".join(filter(None, (root, path)))
            if name not in seen and not any(name.startswith(f"{hiding}.") for hiding in inner):
                seen.add(name)
                yield name, part


#: Modules that use their layers' weights without calling the layers.
_HIDING = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def _roots(module: nn.Module) -> list[str]:
    if not isinstance(module, fx.GraphModule):
        return [""]
    return [str(node.target) for node in module.graph.nodes if node.op == "call_module"]


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(module.get_submodule(parent), child, part)


def width_of(layer: nn.Conv2d | nn.Linear) -> int:
    """Number of output channels."""
    return int(layer.weight.shape[0])


def fold_normalisation(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch normalisations are folded into the layers before them.

    Locking works on what is deployed, where normalisation is gone: it would otherwise have to keep one set of
    statistics with the password and another without. A normalisation that follows no layer, as in networks that
    normalise before they convolve, becomes a :class:`Scaled` of fixed statistics.

    Raises:
        TrainingError: torch.fx cannot trace the module, or a normalisation keeps no statistics.
    """
    folded = traced(module)
    nodes = [node for node in folded.graph.nodes if node.op == "call_module"]
    uses = Counter(str(node.target) for node in nodes)
    left: dict[str, nn.modules.batchnorm._BatchNorm] = {}
    for node in nodes:
        name = str(node.target)
        norm = folded.get_submodule(name)
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        before = _given(node)
        node.args, node.kwargs = (before,), {}
        if norm.running_mean is None or norm.running_var is None:
            raise TrainingError(
                f"batch normalisation {name!r} keeps no statistics (track_running_stats=False), so what it answers to "
                "an image depends on the others beside it",
                "train the model with track_running_stats=True, or with GroupNorm in its place",
            )
        source = str(before.target) if isinstance(before, fx.Node) and before.op == "call_module" else ""
        if source and len(before.users) == uses[source] == 1:
            layer = folded.get_submodule(source)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fuse: Any = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
                _put(folded, source, fuse(layer, norm))
                node.replace_all_uses_with(before)
                folded.graph.erase_node(node)
                continue
        left[name] = norm
    for name, norm in left.items():  # also where other calls of the same were folded
        _put(folded, name, Scaled.of(norm))
    folded.delete_all_unused_submodules()
    folded.recompile()
    for found in lockable(folded).values():
        if found.bias is None:
            found.bias = nn.Parameter(found.weight.new_zeros(width_of(found)))
    return folded


def _given(node: fx.Node) -> Any:
    """What a layer of torch's is called on, by place or by name."""
    return node.args[0] if node.args else node.kwargs["input"]


class Scaled(nn.Module):
    """A scale and a shift for each channel: what a batch normalisation computes once its statistics are fixed.

    Attributes:
        scale, shift: float32 (channels,).
    """

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    @staticmethod
    @torch.no_grad()
    def of(layer: nn.modules.batchnorm._BatchNorm) -> Scaled:
        """What ``layer`` computes in evaluation mode."""
        assert layer.running_mean is not None and layer.running_var is not None
        scale = torch.rsqrt(layer.running_var + layer.eps)
        if layer.weight is not None:
            scale = scale * layer.weight
        shift = -layer.running_mean * scale
        if layer.bias is not None:
            shift = shift + layer.bias
        return Scaled(scale.clone(), shift.clone())

    def reset_parameters(self) -> None:
        """Change nothing."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, ...), the same shape."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        result: torch.Tensor = x * self.scale.view(shape) + self.shift.view(shape)
        return result


def token_rows(module: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """``module``, or where its linear layers work on more than (N, features), a traced copy in which they do not.

    Tokens, and pixels with their channels last, then go through a linear layer as so many rows: what is locked has its
    channels at one place in every layer, and ONNX has a Gemm for it, which a password can be folded into.

    Args:
        module: answers images (N, C, H, W).
        shape: channels, height and width of an image.

    Raises:
        TrainingError: such a module cannot be traced.
    """
    first, second = (_made(module, (images, *shape)) for images in (2, 3))
    backs = {name: back for name, made in first.items() if (back := _back(made, second.get(name, [])))}
    if not backs:
        return module
    mode = module.training
    ready = traced(module)
    for node in list(ready.graph.nodes):
        if node.op != "call_module" or node.target not in backs:
            continue
        layer, given = ready.get_submodule(str(node.target)), _given(node)
        with ready.graph.inserting_before(node):
            node.kwargs, node.args = {}, (ready.graph.call_method("reshape", (given, -1, int(layer.weight.shape[1]))),)
        with ready.graph.inserting_after(node):
            back = ready.graph.call_method("reshape", (node, *backs[node.target]))
        node.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
    ready.recompile()
    return ready.train(mode)


@torch.no_grad()
def _made(module: nn.Module, shape: tuple[int, ...]) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of what linear layers answer to images of ``shape``, one for each call, by the layer's path."""
    found: dict[str, list[tuple[int, ...]]] = {}
    handles = []
    for name, layer in called(module):
        if isinstance(layer, nn.Linear):

            def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
                found.setdefault(name, []).append(tuple(output.shape))

            handles.append(layer.register_forward_hook(hook))
    mode = module.training
    try:
        module.eval()(torch.zeros(shape, device=next(module.parameters()).device))
    finally:
        module.train(mode)
        for handle in handles:
            handle.remove()
    return found


def _back(first: list[tuple[int, ...]], second: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of tokens, -1 where it depends on the number of images.

    Args:
        first, second: a layer's shapes, of as many images as in no other.

    Returns:
        () where they are rows already, differ from call to call, or depend on that number in several places.
    """
    if len({*first}) != 1 or len({*second}) != 1 or len(first[0]) < 3 or len(first[0]) != len(second[0]):
        return ()
    back = tuple(one if one == other else -1 for one, other in zip(first[0], second[0], strict=True))
    return back if back.count(-1) < 2 else ()


def traced(module: nn.Module) -> fx.GraphModule:
    """A copy in evaluation mode, as a graph.

    Raises:
        TrainingError: torch.fx cannot trace it.
    """
    copied = copy.deepcopy(module).eval()
    if isinstance(copied, fx.GraphModule):  # its functions might not be traced again
        return copied
    try:
        return fx.symbolic_trace(copied)
    except Exception as error:  # torch.fx, and whatever the module's forward raises
        raise _untraceable(error) from error


def _untraceable(error: Exception) -> TrainingError:
    return TrainingError(
        f"the module cannot be traced: {(str(error).splitlines() or [repr(error)])[0]}",
        "make its forward free of branches and loops on tensors, or give the model as an ONNX file",
    )


@contextlib.contextmanager
def authorised(module: nn.Module, locks: Locks) -> Iterator[None]:
    """Inside, ``module`` computes with the password; gradients flow through."""
    handles = []
    for name, lock in locks.items():
        layer = module.get_submodule(name)
        scales, values = lock.spread(int(layer.weight.shape[0]), layer.weight.device)
        if layer.weight.ndim == 4:
            scales, values = scales.view(-1, 1, 1), values.view(-1, 1, 1)

        def hook(
            _layer: nn.Module, _inputs: object, output: torch.Tensor, s: torch.Tensor = scales, v: torch.Tensor = values
        ) -> torch.Tensor:
            return output * s + v

        handles.append(layer.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def fold_in(module: nn.Module, locks: Locks) -> nn.Module:
    """A copy that answers without a password as ``module`` does with it: the owner's, or an attacker's guess."""
    copied = copy.deepcopy(module)
    for name, lock in locks.items():
        layer = copied.get_submodule(name)
        scales, values = lock.spread(int(layer.weight.shape[0]), layer.weight.device)
        layer.weight.mul_(scales.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.mul_(scales).add_(values)
    return copied


@torch.no_grad()
def fold_out(module: nn.Module, locks: Locks) -> nn.Module:
    """A copy that answers with the password as ``module`` does without, as far as scales are not 0.

    A channel of scale 0 keeps its weights: with the password they are without effect.
    """
    copied = copy.deepcopy(module)
    for name, lock in locks.items():
        layer = copied.get_submodule(name)
        scales, values = lock.spread(int(layer.weight.shape[0]), layer.weight.device)
        values = torch.where(scales == 0, 0.0, values)
        scales = torch.where(scales == 0, 1.0, scales)
        layer.weight.div_(scales.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.sub_(values).div_(scales)
    return copied


def to_password(locks: Locks, model: str) -> Password:
    """The password file's form; layers are named by the tensors that export gives them."""
    return Password(
        model,
        [
            Lock(
                layer_tensor(name),
                lock.channels.cpu().numpy().astype(np.uint16),
                lock.scales.cpu().numpy().astype(np.float32),
                lock.values.cpu().numpy().astype(np.float32),
            )
            for name, lock in locks.items()
        ],
    )


def from_password(password: Password) -> dict[str, LayerLock]:
    """The inverse of :func:`to_password`."""
    return {
        lock.tensor.removesuffix(layer_tensor("")): LayerLock(
            torch.from_numpy(lock.channels.astype(np.int64)),
            torch.from_numpy(lock.scales.copy()),
            torch.from_numpy(lock.values.copy()),
        )
        for lock in password.locks
    }

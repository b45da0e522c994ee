# SPDX-License-Identifier: BSD-2-Clause
"""Prepares a module for locks: normalisation folded into layers, tokens as rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from cloister.protect.edgepro.layers import called, lockable, traced, width_of
from cloister.protect.training.errors import TrainingError


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


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(module.get_submodule(parent), child, part)

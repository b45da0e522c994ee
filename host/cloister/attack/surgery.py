# SPDX-License-Identifier: BSD-2-Clause
"""What attackers do to networks: draw weights anew, put normalisation back in, keep parts frozen, transplant."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from cloister.protect.edgepro.folding import fold_normalisation
from cloister.protect.edgepro.layers import lockable
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.evaluate import BATCH


@torch.no_grad()
def fresh(module: nn.Module, seed: int) -> nn.Module:
    """A copy with weights drawn by ``seed``; the global random state is left as it was.

    Layers draw theirs as torch does. Parameters that no layer draws, such as a network's own tokens, positions and
    scales, are drawn normally, with the mean and deviation that they have: an attacker who knows the architecture knows
    those about. So are buffers and other tensors of a module that are left as they were: a file's constants may be
    what was learned, such as the weights of a product.
    """
    drawn = copy.deepcopy(module).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in drawn.modules():
            reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
            if reset is not None:
                reset()
                continue
            for parameter in layer.parameters(recurse=False):
                if parameter.numel() > 1:
                    parameter.normal_(float(parameter.mean()), float(parameter.std()))
        # last, so that networks without such tensors are drawn as they always were
        parameters = {name for name, _ in drawn.named_parameters()}
        for name, tensor in undrawn(drawn, module).items():
            if name not in parameters:
                values = tensor[tensor.isfinite()]
                tensor.normal_(float(values.mean()), float(values.std()))
    return drawn


def undrawn(drawn: nn.Module, module: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of ``drawn`` that are still what they are in ``module``, by path, and could tell what was learned.

    Numbers alone and tensors of one value, such as biases of 0, tell next to nothing; a mask of that value and
    infinities neither. The factors that images are resized by belong to the architecture.
    """
    before, factors = _own(module), _factors(drawn)
    return {
        name: tensor
        for name, tensor in _own(drawn).items()
        if name in before and name not in factors and torch.equal(tensor, before[name]) and several_values(tensor)
    }


def several_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds floating-point numbers that are not all the same; infinities aside."""
    if not tensor.is_floating_point():
        return False
    values = tensor[tensor.isfinite()]
    return bool(values.numel() > 1 and (values != values[0]).any())


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    """All tensors by path: parameters, buffers, and what is merely an attribute, which torch.fx makes a buffer of."""
    found: dict[str, torch.Tensor] = {}
    for path, layer in module.named_modules():
        attributes = {name: value for name, value in vars(layer).items() if isinstance(value, torch.Tensor)}
        for name, tensor in (*_tensors(layer), *attributes.items()):
            found[f"{path}.{name}" if path else name] = tensor.detach()
    return found


def _factors(module: nn.Module) -> set[str]:
    """The constants that only an ONNX Resize takes, by path."""
    found = set()
    for path, graph in module.named_modules():
        for node in graph.graph.nodes if isinstance(graph, fx.GraphModule) else ():
            readers = [user for user in node.users if _kind(graph, user).startswith("OnnxResize")]
            if readers and len(readers) == len(node.users):
                name = f"{node.target}.value" if _kind(graph, node) == "OnnxConstant" else str(node.target)
                found.add(f"{path}.{name}" if path else name)
    return found


def _kind(graph: fx.GraphModule, node: fx.Node) -> str:
    return type(graph.get_submodule(str(node.target))).__name__ if node.op == "call_module" else ""


def has_normalisation(module: nn.Module) -> bool:
    """Whether there is any batch normalisation."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


def batches(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``images`` in parts of about the same size, none of more than :data:`BATCH`."""
    parts: tuple[torch.Tensor, ...] = images.chunk(max(1, -(-len(images) // BATCH)))
    return parts


@dataclass(frozen=True)
class Outputs:
    """What a layer gives for some images.

    Attributes:
        ndim: 4 for (N, channels, H, W), 2 for (N, channels).
        count: values of a channel.
        mean, squares: of each channel the mean, and the sum of squares about it; float64 (channels,).
    """

    ndim: int
    count: int
    mean: torch.Tensor
    squares: torch.Tensor

    @staticmethod
    def of(output: torch.Tensor) -> Outputs:
        """Of the images of one batch; ``output`` is (N, channels, ...)."""
        count = output.numel() // output.shape[1]
        others = [dim for dim in range(output.ndim) if dim != 1]
        variance, mean = torch.var_mean(output, dim=others, correction=0)
        return Outputs(output.ndim, count, mean.double(), count * variance.double())

    def __add__(self, other: Outputs) -> Outputs:
        """Of both batches (Chan et al., "Updating Formulae and a Pairwise Algorithm", 1979)."""
        count, off = self.count + other.count, other.mean - self.mean
        squares = self.squares + other.squares + off.square() * (self.count * other.count / count)
        return Outputs(self.ndim, count, self.mean + off * (other.count / count), squares)

    def normalisation(self, anew: bool = False) -> nn.modules.batchnorm._BatchNorm:
        """Batch normalisation with these statistics, which changes nothing in evaluation mode.

        Args:
            anew: bring every channel to mean 0 and deviation 1 instead.
        """
        normal = (nn.BatchNorm2d if self.ndim == 4 else nn.BatchNorm1d)(len(self.mean))
        with torch.no_grad():
            normal.running_mean.copy_(self.mean)
            normal.running_var.copy_(self.squares / (self.count - 1))
            if not anew:
                normal.weight.copy_((normal.running_var + normal.eps).sqrt())
                normal.bias.copy_(normal.running_mean)
        return normal


#: Makes what is put behind a layer, from the layer and what it gives.
Make = Callable[[nn.Module, Outputs], nn.Module]


def behind_layers(module: nn.Module, make: Make, images: torch.Tensor, layers: Collection[str] | None = None) -> None:
    """Put a module behind every convolution and linear layer but the last, or behind those of ``layers``, in place.

    Args:
        module: on the CPU.
        make: gets the layer and what it gives for ``images``.
        images: normalised, (N, C, H, W).
        layers: their paths.
    """
    outputs: dict[str, Outputs] = {}
    latest: dict[str, Outputs] = {}
    handles = []
    for name, layer in lockable(module).items():
        if layers is not None and name not in layers:
            continue

        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            if output.ndim in (2, 4):  # tokens that could not be made rows have channels elsewhere
                latest[name] = Outputs.of(output)  # of its last call, where it is called several times

        handles.append(layer.register_forward_hook(hook))
    try:
        with torch.no_grad():
            for part in batches(images):
                module.eval()(part)
                outputs |= {name: outputs[name] + one if name in outputs else one for name, one in latest.items()}
                latest.clear()
    finally:
        for handle in handles:
            handle.remove()
    for name, output in outputs.items():
        parent, _, child = name.rpartition(".")
        layer = module.get_submodule(name)
        setattr(module.get_submodule(parent), child, nn.Sequential(layer, make(layer, output)))


@torch.no_grad()
def renormalised(module: nn.Module, images: torch.Tensor, anew: bool = False) -> nn.Module:
    """A copy with batch normalisation behind every layer but the last.

    Networks train much better with it than folded as they are deployed; an attacker knows that.

    Args:
        module: without batch normalisation; one with some is only copied.
        images: normalised, (N, C, H, W): what statistics are measured on.
        anew: bring every channel to mean 0 and deviation 1, as in a fresh network. Otherwise no answer changes in
            evaluation mode.
    """
    copied = copy.deepcopy(module).cpu()
    if has_normalisation(copied):
        return copied

    behind_layers(copied, lambda _layer, outputs: outputs.normalisation(anew), images)
    return copied


def kept(module: nn.Module, layers: int, seed: int) -> nn.Module:
    """A copy whose first convolutions and linear layers are kept, and all later ones drawn anew.

    Args:
        module: see :func:`fresh`.
        layers: how many are kept; normalisation behind them too.
        seed: of the draw.
    """
    copied = fresh(module, seed)
    drawn = list(copied.named_modules())
    state, counted = module.state_dict(), 0
    for name, layer in drawn:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            counted += 1
        before = f"{name}." if name else ""
        own = {key: state[before + key] for key, _ in _tensors(layer)} if counted <= layers else {}
        if own:
            layer.load_state_dict(own, strict=False)
    return copied


def _tensors(layer: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]


class Frozen(nn.Module):
    """A part whose weights and statistics stay as they are."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.eval()
        self.part.requires_grad_(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode."""
        super().train(mode)
        self.part.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the part answers."""
        with torch.no_grad():
            result: torch.Tensor = self.part(x)
        return result


def transplanted(part: nn.Module, whole: nn.Module) -> nn.Module | None:
    """A fresh network with the weights of an exposed part in their places; None where they have no such place.

    A network that cannot be traced cannot be folded, and takes parts that have its own names only.

    Args:
        part: its tensors' names are those of ``whole``, or of ``whole`` with normalisation folded.
        whole: with fresh weights.
    """
    state = part.state_dict()
    if not state:
        return None
    for make in (copy.deepcopy, fold_normalisation):
        try:
            candidate: nn.Module = make(whole)
        except TrainingError:
            continue
        if _fits(state, candidate.state_dict()):
            candidate.load_state_dict(state, strict=False)
            return candidate
    return None


def _fits(state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> bool:
    return all(key in target and target[key].shape == value.shape for key, value in state.items())

# SPDX-License-Identifier: BSD-2-Clause
"""The exposed half of a pair: it answers poorly by itself, and shows its taps to the CPM."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from cloister.protect.mirror.graph import Tensor, answer_node, with_outputs
from cloister.protect.mirror.reduce import Reduce
from cloister.protect.strategy import IMAGE, LOGITS, Strategy

#: Backbones whose weights stay as they are while the CPM is trained.
FROZEN = frozenset(("trained", "truncated", "random"))


@dataclass(frozen=True)
class Crossing:
    """One input of the CPM.

    Attributes:
        input: its name in the files: ``image``, or ``tap_0``, ``tap_1``, ... in the order in which they become ready.
        tap: its name in the strategy.
        shape: as it crosses, without the batch.
    """

    input: str
    tap: str
    shape: tuple[int, ...]


class Backbone(nn.Module):
    """What is exposed.

    Args:
        graph: of the network that it is made from; its modules become part of this.
        tensors: those that are tapped, in order.
        channels: of each tap but image and logits, those that cross, ascending.
        strategy: kind, tail and reduction.
        shape: channels, height and width of an image.
        classes: logits.

    Attributes:
        inner: the tapped tensors but image and logits.
        net: the graph; answers a tuple: its own logits (with a short tail: the last tapped tensor), then all tapped
            tensors but image and logits.
        crossings: the CPM's inputs.
        short: whether a linear layer answers in place of the layers behind the last tap.
        frozen: weights and statistics stay as they are.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        tensors: Sequence[Tensor],
        channels: Mapping[str, Sequence[int]],
        strategy: Strategy,
        shape: tuple[int, int, int],
        classes: int,
    ) -> None:
        super().__init__()
        self.inner: list[Tensor] = [tensor for tensor in tensors if tensor.name not in (IMAGE, LOGITS)]
        self.frozen = strategy.backbone in FROZEN
        wants_short = strategy.tail == "short" or strategy.backbone in ("random", "truncated")
        self.short = wants_short and LOGITS not in strategy.taps
        last = self.inner[-1] if self.inner else tensors[0]
        front = last.node if self.short else answer_node(graph)
        self.net = with_outputs(graph, [front, *(tensor.node for tensor in self.inner)])
        self.head = _short_head(last.shape, classes) if self.short else nn.Sequential()
        self.reductions = nn.ModuleList(Reduce(tap.shape, channels[tap.name], strategy) for tap in self.inner)
        sizes = {tap.name: reduce.shape for tap, reduce in zip(self.inner, self.reductions, strict=True)}
        sizes |= {IMAGE: shape, LOGITS: (classes,)}
        self.crossings: list[Crossing] = []
        for tensor in tensors:
            number = sum(crossing.tap != IMAGE for crossing in self.crossings)
            name = IMAGE if tensor.name == IMAGE else f"tap_{number}"
            self.crossings.append(Crossing(name, tensor.name, sizes[tensor.name]))
        if self.frozen:
            self.freeze()

    def freeze(self) -> None:
        """From here on weights and statistics stay as they are."""
        self.frozen = True
        self.requires_grad_(False)
        for parameter in self.parameters():
            parameter.grad = None  # would count where gradients are clipped
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """A frozen one stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def raw(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Own logits (N, classes), and the tapped tensors but image and logits, not reduced."""
        front, *tapped = self.net(image)
        return self.head(front), tapped

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Own logits (N, classes), then what crosses but for the image, in order."""
        logits, tapped = self.raw(image)
        return (logits, *self.crossed(logits, tapped))

    def crossed(self, logits: torch.Tensor, tapped: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """From what :meth:`raw` gave to what crosses but for the image, in order."""
        reduced = [reduce(tap) for reduce, tap in zip(self.reductions, tapped, strict=True)]
        return [*reduced, logits] if self.crossings[-1].tap == LOGITS else reduced

    def alone(self) -> nn.Module:
        """A copy that answers its own logits only, as a network that an attacker can trace and train."""
        copied = copy.deepcopy(self)
        net: nn.Module = _single(copied.net, 0)
        if copied.short:
            net = nn.Sequential(net, *copied.head)
        return net.requires_grad_(True).eval()

    def features(self) -> nn.Module | None:
        """A copy of the part up to the last tap, which answers that tensor; None if nothing within is tapped."""
        if not self.inner:
            return None
        net = _single(copy.deepcopy(self.net), len(self.inner))
        return net.requires_grad_(True).eval()


def _single(net: fx.GraphModule, index: int) -> fx.GraphModule:
    """The part of a graph that computes one of its outputs, and answers that alone."""
    outputs = next(node for node in net.graph.nodes if node.op == "output").args[0]
    part = with_outputs(net, [outputs[index].name])
    output = next(node for node in part.graph.nodes if node.op == "output")
    output.args = (output.args[0][0],)
    part.recompile()
    return part


def _short_head(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    pool: list[nn.Module] = [nn.AvgPool2d(shape[1:]), nn.Flatten()] if len(shape) == 3 else []
    return nn.Sequential(*pool, nn.Linear(shape[0], classes))

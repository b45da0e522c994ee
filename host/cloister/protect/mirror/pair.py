# SPDX-License-Identifier: BSD-2-Clause
"""Backbone and CPM together, untrained: what estimates are made from and training starts from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

from cloister.attack.surgery import fresh, several_values
from cloister.protect.mirror.backbone import Backbone, Crossing
from cloister.protect.mirror.cpm import Cpm
from cloister.protect.mirror.graph import candidates, resolve, trace
from cloister.protect.mirror.narrow import drawn, narrowed
from cloister.protect.mirror.reduce import kept
from cloister.protect.strategy import IMAGE, LOGITS, Strategy
from cloister.protect.training.errors import TrainingError

#: Added to the seed for weights that an attacker gets. Owners often train with the same small seed that pairs are made
#: with; what the victim's layers began with is nothing that an attacker knows, and trained layers stay near it.
APART = 4000
#: What torch.fx calls tensors that it meets and finds in no module.
_CONSTANT = "_tensor_constant"


class Pair(nn.Module):
    """Backbone and CPM as one network, which answers the CPM's logits.

    Attributes:
        backbone, cpm: the halves.
        strategy: what they were made by.
        shape: channels, height and width of an image.
        classes: number of logits.
        architecture: the network that the backbone is a part of, with weights drawn anew, which an attacker is taken
            to know; None: he is not, and has the backbone as it ships.
    """

    def __init__(
        self,
        backbone: Backbone,
        cpm: Cpm,
        strategy: Strategy,
        shape: tuple[int, int, int],
        classes: int,
        architecture: nn.Module | None,
    ) -> None:
        super().__init__()
        self.backbone, self.cpm = backbone, cpm
        self._architecture = (architecture,)  # in a tuple: no part of this network
        self.strategy, self.shape, self.classes = strategy, shape, classes

    @property
    def crossings(self) -> list[Crossing]:
        """The CPM's inputs, in order."""
        return self.backbone.crossings

    @property
    def architecture(self) -> nn.Module | None:
        """See the class."""
        return self._architecture[0]

    def monitor(self, image: torch.Tensor, crossed: Sequence[torch.Tensor]) -> torch.Tensor:
        """The CPM's logits (N, classes), from the image and what crosses beside it."""
        has_image = self.crossings[0].input == IMAGE
        result: torch.Tensor = self.cpm(*([image] if has_image else []), *crossed)
        return result

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to the pair's logits (N, classes)."""
        return self.monitor(image, self.backbone(image)[1:])


def build_pair(
    victim: nn.Module,
    shape: tuple[int, int, int],
    classes: int,
    strategy: Strategy,
    seed: int = 0,
    *,
    channels: Mapping[str, Sequence[int]] | None = None,
) -> Pair:
    """The untrained pair of a strategy, on the CPU, in evaluation mode.

    Args:
        victim: any module that torch.fx can trace, from images (N, C, H, W) to logits (N, classes); not changed.
        shape: channels, height and width of an image.
        classes: number of logits.
        strategy: of kind "mirror". ``pruned`` and ``lock`` are not looked at: prune the victim before.
        seed: of all weights that are drawn; the global random state is left as it was.
        channels: those that cross, by the tap's name, as many as ``strategy.channels`` says; default: the first. How
            many they are is all that costs depend on.

    Raises:
        TrainingError: a tap is not there, the victim cannot be traced, or does not answer ``classes`` logits; or
            weights of a random backbone cannot be drawn.
    """
    if strategy.kind != "mirror":
        raise TrainingError(f"a strategy of kind {strategy.kind!r} has no pair", "compile the victim as it is")
    if strategy.backbone == "truncated" and LOGITS in strategy.taps:
        raise TrainingError("a truncated backbone has no logits to tap", "tap what lies before them")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source = copy.deepcopy(victim).cpu().eval()
        if strategy.backbone_width < 1:
            source = narrowed(source, shape, strategy.backbone_width)
        if strategy.backbone == "random":
            source = drawn(source, shape, seed + APART)
        graph = trace(source)
        if strategy.backbone == "random":
            _check_constants(graph)
        architecture = fresh(graph, seed + APART)
        tensors = resolve(graph, shape, strategy.taps)
        answer = list(candidates(graph, shape).values())[-1].shape
        if answer != (classes,):
            raise TrainingError(f"the victim answers {answer}, not {classes} logits", "give the number of its classes")
        chosen = {}
        for tensor in tensors:
            wanted = kept(tensor.shape[0], strategy)
            given = sorted((channels or {}).get(tensor.name, range(wanted)))
            if len(given) != wanted or not set(given) <= set(range(tensor.shape[0])):
                raise TrainingError(f"tap {tensor.name} cannot cross as channels {given}", f"give {wanted} of its own")
            chosen[tensor.name] = given
        backbone = Backbone(graph, tensors, chosen, strategy, shape, classes)
        cpm = Cpm([(crossing.tap, crossing.shape) for crossing in backbone.crossings], classes, strategy)
    pair = Pair(backbone, cpm, strategy, shape, classes, architecture)
    pair.eval()
    return pair


def _check_constants(graph: fx.GraphModule) -> None:
    """Refuse tensors that tracing found in no module: nothing has drawn them, and the file would show them."""
    shown = sorted(
        name for name, tensor in graph.named_buffers() if name.startswith(_CONSTANT) and several_values(tensor)
    )
    if shown:
        raise TrainingError(
            f"a random backbone would show constants of the model as they are ({', '.join(shown)}): tensors that are "
            "neither parameters, buffers nor attributes of a module, and could be learned",
            "register them as buffers of the module, or choose a backbone that is not random",
        )


def taps_of(victim: nn.Module, shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """What a strategy can tap in this victim: name and shape, without the batch, in order.

    Raises:
        TrainingError: the victim cannot be traced, or does not take such images.
    """
    return {name: tensor.shape for name, tensor in candidates(trace(victim), shape).items()}

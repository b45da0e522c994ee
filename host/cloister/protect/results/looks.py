# SPDX-License-Identifier: BSD-2-Clause
"""What gives a turned channel away: how well single looks at leaked weights tell it from the others of its layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from cloister.attack.attacks.signs import looks_of
from cloister.attack.table import Table, spread
from cloister.protect.edgepro.locks import fold_in
from cloister.protect.results import edgepro
from cloister.protect.results.cases import MODELS, Case
from cloister.protect.results.context import Context, Record
from cloister.protect.results.summary import Goal, grouped, seeds_of

TITLE = "What gives a turned channel away"

DEFAULT = ("turned",)
#: Scale of turned channels.
TURNED = -1.0
#: Training images that outputs are looked at on, for moments and for correlations; draws that chance is the mean of.
IMAGES, FEW, DRAWS = 1000, 200, 50


def _told(tell: str) -> Callable[[nn.Module, str, torch.Tensor], torch.Tensor]:
    return lambda module, layer, images: looks_of(module, layer, images, tell)[1]


@torch.no_grad()
def _seen(module: nn.Module, layer: str, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer's first call takes and gives, of :data:`FEW` of the images."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = lambda _layer, inputs, output: calls.append((inputs[0], output))  # noqa: E731 - as torch calls it
    handle = module.get_submodule(layer).register_forward_hook(hook)
    module(images[:FEW])
    handle.remove()
    return calls[0]


def _centred(values: torch.Tensor) -> torch.Tensor:
    """(N, C, ...) as rows of channels, of mean 0 and length 1."""
    rows = values.transpose(0, 1).flatten(1).double()
    return nn.functional.normalize(rows - rows.mean(1, keepdim=True))


def _with_inputs(module: nn.Module, layer: str, images: torch.Tensor) -> torch.Tensor:
    """Correlation of each output with the sum of all inputs that it is computed from."""
    found, (given, outputs) = module.get_submodule(layer), _seen(module, layer, images)
    total = given.sum(1, keepdim=True)
    if isinstance(found, nn.Conv2d):
        ones = torch.ones(1, 1, *found.kernel_size)
        total = nn.functional.conv2d(total, ones, None, found.stride, found.padding, found.dilation)
    return _centred(outputs) @ _centred(total)[0]


def _in_common(module: nn.Module, layer: str, images: torch.Tensor) -> torch.Tensor:
    """Each channel's part of the direction that a layer's outputs have most in common."""
    rows = _centred(_seen(module, layer, images)[1])
    return torch.linalg.eigh(rows @ rows.T).eigenvectors[:, -1]


def _largest(weights: torch.Tensor) -> torch.Tensor:
    return weights.gather(1, weights.abs().argmax(1, keepdim=True))[:, 0].sign()


#: Numbers for each channel, float32 (channels,), by what the table calls them.
LOOKS: dict[str, Callable[[nn.Module, str, torch.Tensor], torch.Tensor]] = {
    "sum of weights": _told("weights"),
    "median weight": lambda module, layer, _: module.get_submodule(layer).weight.flatten(1).median(1).values,
    "sum of cubed weights": _told("tails"),
    "sign of the largest weight": lambda module, layer, _: _largest(module.get_submodule(layer).weight.flatten(1)),
    "bias": lambda module, layer, _: module.get_submodule(layer).bias,
    "what inputs add to the mean output": _told("inputs"),
    "distance of the mean output from the layer's": _told("means"),
    "skewness of outputs": _told("skewness"),
    "correlation with the sum of inputs (not hidden)": _with_inputs,
    "direction that outputs have in common (not hidden)": _in_common,
}


def wanted(model: str) -> tuple[str, ...]:
    """Names of what a plain run makes."""
    return DEFAULT if model in MODELS or model == "digits" else ()


def apart(looks: torch.Tensor, chosen: torch.Tensor) -> float:
    """Share of the pairs of a chosen and another channel that the look tells apart, on its better side: 0.5 to 1.

    Args:
        looks: a number for each channel.
        chosen: bool (channels,).
    """
    pairs = looks[chosen, None] - looks[~chosen]
    above = float((pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean())
    return max(above, 1 - above)


@torch.no_grad()
def run(context: Context, case: Case, seed: int, variants: Sequence[str] = DEFAULT) -> list[Record]:
    """A record for each lock: :func:`apart` of each look as a mean over layers, under ``told`` and under ``chance``.

    Every layer is looked at with the layers before it opened, as whoever has found out about those can.
    """
    records = []
    for variant in variants:

        def measure(variant: str = variant) -> Record:
            made, splits = edgepro.locked(context, case, seed, variant), context.splits(case)
            images = splits.normalise(splits.train.share(min(1.0, IMAGES / len(splits.train)), seed).pixels)
            module, generator = made.module, torch.Generator().manual_seed(seed)
            told: dict[str, list[float]] = {name: [] for name in LOOKS}
            chance: dict[str, list[float]] = {name: [] for name in LOOKS}
            for name, lock in made.locks.items():
                chosen = torch.zeros(len(module.get_submodule(name).weight), dtype=torch.bool)
                chosen[lock.channels[lock.scales == TURNED]] = True
                for look, numbers_of in LOOKS.items() if chosen.any() and not chosen.all() else ():
                    numbers = numbers_of(module, name, images)
                    told[look].append(apart(numbers, chosen))
                    drawn = [torch.randperm(len(chosen), generator=generator) for _ in range(DRAWS)]
                    chance[look] += [apart(numbers, chosen[order]) for order in drawn]
                module = fold_in(module, {name: lock})
            return {"told": {look: _mean(values) for look, values in told.items() if values},
                    "chance": {look: _mean(values) for look, values in chance.items() if values},
                    "layers": len(made.locks), "locks": edgepro.LOCKS}  # fmt: skip

        records.append(context.once("looks", case, seed, measure, edgepro.outdated, target=variant))
    return records


def figures(record: Record) -> dict[str, float]:
    """A record's numbers."""
    by_chance = {f"{look}, by chance": value for look, value in record["chance"].items()}
    return {**record["told"], **by_chance}


def goals(_records: list[Record]) -> list[Goal]:
    """None: that attackers gain little is aimed at where they attack."""
    return []


def parts(records: list[Record]) -> list[str | Table]:
    """The section: a row for each look, a column for each network and lock."""
    found = grouped(records)
    heads = [f"{model}, {variant} (seeds {seeds_of(own)})" for (model, variant), own in found.items()]
    rows = [[look, *(_cell(own, look) for own in found.values())] for look in LOOKS]
    return [
        "All locked weights have leaked. Of the pairs of a turned channel and another of its layer, so many are told "
        "apart by one look at the weights, or at outputs for a thousand training images, with the layers before "
        "opened: the mean over layers, each layer's better side taken, which the attacker would have to know. "
        'Behind it, after "by chance", is what the same numbers come to with the channels\' places drawn anew, as '
        "layers are narrow.",
        Table("", ["look", *heads], rows),
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cell(own: Sequence[Record], look: str) -> str:
    told, chance = ([record[key][look] for record in own if look in record[key]] for key in ("told", "chance"))
    return f"{spread(told, '{:.1%}'.format)}; by chance {_mean(chance):.1%}" if told else ""


def pictures(_records: list[Record]) -> dict[str, str]:
    """None."""
    return {}

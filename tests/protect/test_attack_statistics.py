# SPDX-License-Identifier: BSD-2-Clause
"""What attackers measure on images: of which images, and how many at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal
from weakref import WeakSet

import pytest
import torch
from digits_data import digits_splits
from torch import nn

from cloister.attack import BlackBox, Effort
from cloister.attack.attacker import FINALISTS, SAMPLE, Attacker
from cloister.attack.attacks import observe, prune
from cloister.attack.attacks.mask import masked
from cloister.attack.attacks.observe import CHANNELS, read_locks
from cloister.attack.attacks.signs import moments_of, turned_to
from cloister.attack.surgery import BATCH, batches, renormalised
from cloister.protect.edgepro.draw import output_statistics
from cloister.protect.edgepro.layers import lockable
from cloister.protect.training import Fitted, Images, Splits

CLASSES = 5


def by_class(count: int) -> Splits:
    """Images sorted by class, as folders are read; the class is also every pixel's value."""
    labels = torch.arange(count) * CLASSES // count
    images = Images(labels.to(torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), labels)
    return Splits(images, images, images, (0.0,), (1.0,), tuple("abcde"), "sorted")


class Seen(BlackBox):
    """Runs show the first layer; notes what it is asked to run."""

    lock = True

    def __init__(self, splits: Splits) -> None:
        super().__init__(small(4), splits, "seen")
        self.ran: list[torch.Tensor] = []

    def module(self) -> nn.Module:
        return copy.deepcopy(self._module)

    def observed(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.ran.append(pixels)
        return {"0:out": self._module[0](pixels).detach()}


def small(size: int, width: int = 3) -> nn.Sequential:
    """For images of one channel, ``size`` high and wide."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * (size - 2) ** 2, 6), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(6, 10)).eval()


def attacker(splits: Splits, seed: int = 0) -> Attacker:
    return Attacker(Seen(splits), splits, lambda _seed: small(4), Effort((1.0,)), seed, None, "cpu", splits.train)


def shares(pixels: torch.Tensor) -> list[float]:
    """Of each class."""
    classes = pixels[:, 0, 0, 0].round().long()
    return (torch.bincount(classes, minlength=CLASSES) / len(classes)).tolist()


class Told(nn.Module):
    """Notes whether it is in training mode, and in what precision products are computed."""

    seen: ClassVar[set[tuple[bool, bool]]] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add((self.training, torch.is_autocast_enabled("cpu")))
        return x


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_attackers_choose_in_the_precision_that_they_train_in(precision: Literal["bfloat16", "float32"]) -> None:
    splits = by_class(100)
    effort = Effort((1.0,), rates=(0.05,), epochs=2, steps=4, precision=precision)
    at_work = Attacker(Seen(splits), splits, lambda _seed: small(4), effort, 0, None, "cpu", splits.train)
    Told.seen.clear()
    at_work.train({"told": nn.Sequential(Told(), small(4))}, splits.train, "key")
    half = precision == "bfloat16"
    assert Told.seen == {(True, half), (False, half)}


def test_statistics_are_of_all_classes() -> None:
    splits = by_class(4 * SAMPLE)
    even = pytest.approx([1 / CLASSES] * CLASSES, abs=0.05)
    _, images, sample = attacker(splits).most()
    assert len(images) == 4 * SAMPLE and len(sample) == SAMPLE and shares(sample) == even
    _, _, again = attacker(splits).most()
    _, _, another = attacker(splits, seed=1).most()
    assert torch.equal(sample, again) and not torch.equal(sample, another)
    first = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(first.weight)
    ready = attacker(splits).renormal(nn.Sequential(first, nn.Flatten(), nn.Linear(16, CLASSES)), splits.train)
    assert float(ready[0][1].running_mean) == pytest.approx((CLASSES - 1) / 2, abs=0.15)


def test_an_authorised_run_is_of_all_classes() -> None:
    splits = by_class(2000)
    one = attacker(splits)
    assert isinstance(one.target, Seen)
    observe.run(one)
    (ran,) = one.target.ran
    assert len(ran) == observe.IMAGES and shares(ran) == pytest.approx([1 / CLASSES] * CLASSES, abs=0.1)


def test_few_images_are_all_taken_as_they_stand() -> None:
    splits = by_class(SAMPLE)
    _, _, sample = attacker(splits).most()
    assert torch.equal(sample, splits.train.pixels)


@contextmanager
def counted() -> Iterator[list[int]]:
    """Notes how many images layers are given at a time."""
    found: list[int] = []

    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found.append(len(inputs[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        yield found
    finally:
        handle.remove()


def whole(module: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of the layers that can be locked, for all images at once: (channels, values)."""
    found: dict[str, torch.Tensor] = {}
    for name, layer in lockable(module).items():

        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor, name: str = name) -> None:
            found[name] = output.detach().transpose(0, 1).flatten(1).double()

        layer.register_forward_hook(hook)
    module(images)
    return found


def test_images_are_gone_through_in_batches_and_nothing_else_comes_out() -> None:
    splits = digits_splits()
    images = splits.normalise(splits.train.pixels[: 2 * BATCH + 101])
    assert torch.equal(torch.cat(batches(images)), images)
    assert len(batches(images[: BATCH + 1])[-1]) > 1, "a batch of one image is more than some networks take"
    module = small(8)
    rows = whole(copy.deepcopy(module).requires_grad_(False), images)
    means, deviations = ({name: getattr(out, kind)(1) for name, out in rows.items()} for kind in ("mean", "std"))
    with counted() as found:
        put, undecided = renormalised(module, images), masked(module, images, "undecided", 3)
        activations = {name: active for name, (_, _, active) in output_statistics(module, images).items()}
        moments = {name: moments_of(module, name, images) for name in rows}
        turned_to(module, images, 1, lockable(module))
    assert max(found) <= BATCH
    generator = torch.Generator().manual_seed(3)
    for name, out in rows.items():
        for ready in (put, undecided):
            normal = ready.get_submodule(name)[1]
            assert torch.allclose(normal.running_mean.double(), means[name], atol=1e-5)
            assert torch.allclose(normal.running_var.double(), deviations[name].square(), rtol=1e-5)
            assert torch.allclose(normal.bias.double(), means[name], atol=1e-5)
        factors = 0.3 * torch.randn(len(out), generator=generator).double()
        scales = undecided.get_submodule(name)[1].weight.double()
        assert torch.allclose(scales, deviations[name] * factors, rtol=1e-3)
        assert torch.allclose(activations[name], output_statistics(module, images)[name][2], rtol=1e-5)
        mean, third = moments[name]
        assert torch.allclose(mean.double(), means[name], atol=1e-5)
        right = (out - means[name][:, None]).pow(3).mean(1)
        assert torch.allclose(third.double(), right, rtol=1e-4, atol=1e-4 * float(deviations[name].pow(3).max()))


def test_a_run_is_read_some_channels_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = digits_splits()
    images, module = splits.normalise(splits.train.pixels[:50]), small(8, 2 * CHANNELS + 1)
    own = module[0](images).detach()
    scales, values = torch.linspace(-2, 2, own.shape[1]), torch.linspace(3, 5, own.shape[1])
    seen = scales.view(1, -1, 1, 1) * own + values.view(1, -1, 1, 1)
    widths, line = [], observe._line
    monkeypatch.setattr(observe, "_line", lambda x, y: widths.append(x.shape[1]) or line(x, y))
    lock = read_locks(module, images, {"0:out": seen})["0"]
    assert widths == [CHANNELS, CHANNELS, 1]
    assert torch.allclose(lock.scales, scales, atol=1e-5) and torch.allclose(lock.values, values, atol=1e-5)
    assert lock.channels.tolist() == list(range(own.shape[1]))


def test_networks_that_were_tried_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = by_class(50)
    there: WeakSet[nn.Module] = WeakSet()
    most: list[int] = []

    def noted(module: nn.Module) -> nn.Module:
        there.add(module)
        most.append(len(there))
        return module

    def fit(module: nn.Module, *_data: object, **_more: object) -> Fitted:
        return Fitted(noted(module), 0.5, 1, [], 0.0)

    monkeypatch.setattr("cloister.attack.attacker.fit", fit)
    one = attacker(splits)
    rates = tuple(0.1 / number for number in range(1, 9))
    one.train({"start": small(4)}, splits.train, "key", rates)
    assert len(most) == len(rates) + FINALISTS and max(most) <= 4, "the last of each kind, the best, the next"
    most.clear()
    cut = prune.pruned
    monkeypatch.setattr(prune, "pruned", lambda *arguments: noted(cut(*arguments)))
    there.clear()
    prune.run(one)
    assert len(most) > 4 * len(one.effort.pruned) > 10 and max(most[: 4 * len(one.effort.pruned)]) <= 3

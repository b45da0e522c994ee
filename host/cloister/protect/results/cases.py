# SPDX-License-Identifier: BSD-2-Clause
"""The networks that results are reported on: their data, and how the victims are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloister.protect.training import Augmentation, Recipe


@dataclass(frozen=True)
class Case:
    """A network and its data.

    Attributes:
        network: name in ``training.networks``.
        data: the data set's file in the folder of data, or "digits" (scikit-learn's, no file needed).
        recipe: of the victim.
        lock: of lock training.
        target: accuracy that a plainly trained victim is to reach, 0 to 1.
        without_uniform: of this project's locks, as ``LockSettings`` has it: networks that have no capacity to spare
            lose accuracy to whatever else they must do.
    """

    network: str
    data: str
    recipe: Recipe
    lock: Recipe
    target: float
    without_uniform: float = 1.0

    @property
    def name(self) -> str:
        """As in tables and file names."""
        return self.network


#: Networks and seeds of a plain run.
MODELS = ("lenet5", "vgg7", "resnet20")
SEEDS = (0, 1, 2)

_DIGITS = Augmentation(crop=1)
_MNIST = Augmentation(crop=2)
_CIFAR = Recipe(batch=128, augmentation=Augmentation(crop=4, flip=True), precision="bfloat16")
_LOCK = Recipe(epochs=15, batch=128, rate=0.02, weight_decay=1e-4, clip=5.0)
_GENTLE = replace(_LOCK, epochs=8, rate=0.007, augmentation=_CIFAR.augmentation, precision="bfloat16")

CASES = {
    case.name: case
    for case in (
        Case("digits", "digits", Recipe(12, 64, 0.1, augmentation=_DIGITS),
             replace(_LOCK, epochs=6, batch=64, rate=0.03, augmentation=_DIGITS), 0.95),
        Case("lenet5", "mnist.npz", Recipe(8, 128, 0.05, augmentation=_MNIST),
             replace(_LOCK, epochs=4, augmentation=_MNIST), 0.99),
        Case("vgg7", "cifar10.npz", replace(_CIFAR, epochs=40, rate=0.1),
             replace(_GENTLE, epochs=30), 0.80, 0.5),
        Case("resnet20", "cifar10.npz", replace(_CIFAR, epochs=45, rate=0.2),
             _GENTLE, 0.91, 0.5),
    )
}  # fmt: skip

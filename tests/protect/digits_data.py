# SPDX-License-Identifier: BSD-2-Clause
"""The tests' data set: scikit-learn's digits, 8 x 8."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from cloister.demo.data import digits
from cloister.protect.training import Images, Splits


@cache
def digits_splits() -> Splits:
    train, train_labels, test, test_labels = map(torch.from_numpy, digits())
    return Splits.make(Images(train, train_labels), Images(test, test_labels), validation=0.15, seed=0, name="digits")


def digits_file(path: Path) -> None:
    """Write the digits as the commands read them: an ``.npz`` file of training and test images."""
    splits = digits_splits()
    whole = {f"{part}_{kind}": getattr(getattr(splits, part), field).numpy()
             for part in ("train", "test") for kind, field in (("image", "pixels"), ("label", "labels"))}  # fmt: skip
    np.savez(path, **whole)

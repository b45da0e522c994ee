# SPDX-License-Identifier: BSD-2-Clause
"""The demo's images: handwritten digits from scikit-learn (UCI optical recognition data set, 8 x 8 grey values).

``python -m cloister.demo.data FILE.npy`` writes the first eight test images, to try ``cloister run`` with.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

#: The trained classifier that ships with the package.
MODEL = Path(__file__).with_name("digits.onnx")
TEST_IMAGES = 450

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def digits() -> tuple[Images, Labels, Images, Labels]:
    """Training images and labels, test images and labels; the split is fixed.

    Returns:
        float32 (n, 1, 8, 8) in 0 to 1 and int64 (n,): 1,347 for training, 450 for testing.
    """
    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    train, test, train_labels, test_labels = train_test_split(
        images, data.target.astype(np.int64), test_size=TEST_IMAGES, random_state=2026, stratify=data.target
    )
    return train, train_labels, test, test_labels


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m cloister.demo.data FILE.npy")
    samples, right = digits()[2:]
    np.save(sys.argv[1], samples[:8])
    print(f"written: {sys.argv[1]}, float32 {samples[:8].shape}; the right labels are {right[:8].tolist()}")

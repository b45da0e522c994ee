# SPDX-License-Identifier: BSD-2-Clause
"""Files of arrays that users give: numpy's, and nothing that would be unpickled."""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What numpy raises where a file is no file of plain arrays, or a damaged one.
ARRAY_ERRORS = (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def load_arrays(source: Path | BytesIO, *, mapped: bool = False) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of a ``.npy`` file, or all arrays of a ``.npz`` file by name.

    Args:
        source: a path, or the file's bytes.
        mapped: a ``.npy`` file may stay on the disk.

    Raises:
        one of :data:`ARRAY_ERRORS`: the file is neither, or damaged.
    """
    loaded = np.load(source, allow_pickle=False, mmap_mode="r" if mapped else None)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return {name: loaded[name] for name in loaded.files}

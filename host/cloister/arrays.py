# SPDX-License-Identifier: BSD-2-Clause
"""Files of arrays that users give: numpy's, and nothing that would be unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What numpy raises where a file is no file of plain arrays, or a damaged one.
ARRAY_ERRORS = (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


#: Values that are looked at together: a file that stays on the disk is not brought into memory whole.
_AT_ONCE = 1 << 24


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


def not_finite(arrays: NDArray[Any] | Mapping[str, NDArray[Any]], name: str, what: str = "sample") -> str:
    """What to tell of values that are NaN or infinite; empty where there are none.

    Args:
        arrays: one, or several by name; of each the first axis is that of samples. Only floats have such values.
        name: of the file, or of the argument.
        what: one entry of the first axis.

    Returns:
        How many samples have such values, and which is the first; of the first array alone that has any.
    """
    if isinstance(arrays, Mapping):
        told = (not_finite(array, f"{name}[{key}]", what) for key, array in arrays.items())
        return next(filter(None, told), "")
    array = np.atleast_1d(arrays)
    if not np.issubdtype(array.dtype, np.inexact) or not array.size:
        return ""
    step = max(1, _AT_ONCE * len(array) // array.size)
    bad = [
        at + int(index)
        for at in range(0, len(array), step)
        for index in np.flatnonzero(~np.isfinite(array[at : at + step].reshape(-1, array.size // len(array))).all(1))
    ]
    if not bad:
        return ""
    return (
        f"{name}: {len(bad)} of {len(array)} {what}s {'holds' if len(bad) == 1 else 'hold'} NaN or infinity, "
        f"the first at index {bad[0]}"
    )

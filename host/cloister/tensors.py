# SPDX-License-Identifier: BSD-2-Clause
"""Tensors that enter and leave a compiled model: their description, and what an input array must be.

The rules are the same wherever a model runs (host, emulator, board):

- dtype: exactly the model's. Nothing is converted: float64 or float16 for float32 is refused, and the message says
  how to convert. Integers are refused for float32 as well, so that forgotten scaling is noticed.
- byte order: an array in the other byte order (``>f4``) has the same values and is converted.
- shape: exactly the model's; a device's session also takes a first axis that is a multiple of the model's, and runs
  that many inferences.
- memory order: any; an array that is not contiguous is copied.
- values: a device's session refuses NaN and infinity, which nearly always are a mistake, unless it is called with
  ``finite=False``. The engine takes all values and lets them spread through the network as IEEE 754 arithmetic says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloister.arrays import not_finite
from cloister.errors import CloisterError
from cloister.wire import C

Array = npt.NDArray[Any]

DTYPES: dict[str, int] = {
    "float32": C.CL_DTYPE_F32,
    "int32": C.CL_DTYPE_I32,
    "int64": C.CL_DTYPE_I64,
    "uint8": C.CL_DTYPE_U8,
    "int8": C.CL_DTYPE_I8,
    "bool": C.CL_DTYPE_BOOL,
}


class InputError(CloisterError):
    """An input array is not what the model takes, or an input is missing or unknown."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that enters or leaves the model.

    Attributes:
        name: ONNX's name.
        dtype: a ``CL_DTYPE_`` value.
        shape: dimensions in ONNX's order.
        offset: of its first byte in the arena.
        size: in bytes.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The element type as numpy names it, little-endian."""
        return np.dtype(next(name for name, value in DTYPES.items() if value == self.dtype)).newbyteorder("<")


def _checked(info: TensorInfo, value: Any) -> Array:
    """The value as an array of the model's dtype, any shape; refuses another dtype."""
    array = np.asarray(value)
    wanted = info.numpy_dtype
    if array.dtype.newbyteorder("<") != wanted:
        raise InputError(
            f"input {info.name!r} has dtype {array.dtype}, the model takes {wanted.name}",
            f"convert it: x.astype(numpy.{wanted.name}), with the scaling that the model was trained with",
        )
    return array


def _in_order(infos: Sequence[TensorInfo], inputs: Mapping[str, Any] | Sequence[Any] | Array) -> list[Any]:
    """The values in the model's order; refuses missing and unknown ones."""
    names = ", ".join(repr(info.name) for info in infos) or "none"
    if isinstance(inputs, Mapping):
        missing = [info.name for info in infos if info.name not in inputs]
        unknown = sorted(set(inputs) - {info.name for info in infos})
        what = [f"{word}: {', '.join(some)}" for word, some in (("missing", missing), ("unknown", unknown)) if some]
        if what:
            raise InputError(f"inputs do not fit the model ({'; '.join(what)})", f"the model's inputs are {names}")
        return [inputs[info.name] for info in infos]
    values = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    if len(values) != len(infos):
        raise InputError(f"{len(values)} inputs were given, the model takes {len(infos)}", f"they are {names}")
    return values


def prepare_inputs(infos: Sequence[TensorInfo], inputs: Mapping[str, Any] | Sequence[Any] | Array) -> list[bytes]:
    """The bytes of all inputs of one inference, in the model's order; all values are taken.

    Args:
        infos: the model's inputs.
        inputs: arrays by name, or in the model's order; one array alone where the model has one input.

    Raises:
        InputError: an input is missing, unknown, or of another dtype or shape.
    """
    prepared = []
    for info, value in zip(infos, _in_order(infos, inputs), strict=True):
        array = _checked(info, value)
        if tuple(array.shape) != info.shape:
            raise InputError(
                f"input {info.name!r} has shape {tuple(array.shape)}, the model takes {info.shape}",
                "reshape or split it, or compile the model again with other dimensions (--dim)",
            )
        prepared.append(np.ascontiguousarray(array, dtype=info.numpy_dtype).tobytes())
    return prepared


def prepare_batch(
    infos: Sequence[TensorInfo], inputs: Mapping[str, Any] | Sequence[Any] | Array, *, finite: bool = True
) -> tuple[bytes, int]:
    """The bytes of all inputs of any number of inferences, and that number.

    Args:
        infos: the model's inputs.
        inputs: as of :func:`prepare_inputs`, each with a first axis that is a multiple of the model's.
        finite: refuse NaN and infinity.

    Returns:
        the bytes, inference by inference, all inputs of one in the model's order.

    Raises:
        InputError: an input is missing, unknown, of another dtype or shape, not finite, or for another number of
            inferences than the first.
    """
    flat: list[npt.NDArray[np.uint8]] = []
    count = 1
    for info, value in zip(infos, _in_order(infos, inputs), strict=True):
        array = _checked(info, value)
        times = _inferences(info.shape, array.shape)
        if not times:
            many = f", its first axis any multiple of {info.shape[0]}" if info.shape else ""
            raise InputError(
                f"input {info.name!r} has shape {array.shape}, the model takes {info.shape}{many}",
                "reshape it, or compile the model again with other dimensions (--dim)",
            )
        if flat and times != count:
            raise InputError(
                f"input {info.name!r} is for {times} inferences, those before it for {count}", "give as many of each"
            )
        if finite and (told := not_finite(array.reshape(times, -1), f"input {info.name!r}")):
            raise InputError(told, "repair or leave out such samples, or pass finite=False")
        count = times
        flat.append(np.ascontiguousarray(array, info.numpy_dtype).reshape(-1).view(np.uint8).reshape(times, info.size))
    return (np.concatenate(flat, axis=1).tobytes() if flat else b""), count


def _inferences(model: tuple[int, ...], given: tuple[int, ...]) -> int:
    """How many inferences an array of shape ``given`` is for; 0 where it fits none."""
    if not model:
        return int(given == ())
    if len(given) != len(model) or given[1:] != model[1:] or given[0] % model[0]:
        return 0
    return given[0] // model[0]


def read_output(info: TensorInfo, data: bytes | memoryview) -> Array:
    """An output array from its bytes (a copy).

    Raises:
        ValueError: there are not exactly ``info.size`` bytes.
    """
    if len(data) != info.size:
        raise ValueError(f"output {info.name!r} has {info.size} bytes, {len(data)} were given")
    native = np.dtype(info.numpy_dtype.name)
    return np.frombuffer(data, dtype=info.numpy_dtype).reshape(info.shape).astype(native)

# SPDX-License-Identifier: BSD-2-Clause
"""Tensors that enter and leave a compiled model: their description, and what an input array must be.

The rules are the same wherever a model runs (host, emulator, board):

- dtype: exactly the model's. Nothing is converted: float64 or float16 for float32 is refused, and the message says
  how to convert. Integers are refused for float32 as well, so that forgotten scaling is noticed.
- byte order: an array in the other byte order (``>f4``) has the same values and is converted.
- shape: exactly the model's; a batch of another size must be split by the caller.
- memory order: any; an array that is not contiguous is copied.
- values: all, NaN and infinity included. They spread through the network as IEEE 754 arithmetic says; nothing is
  refused or replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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


def prepare_input(info: TensorInfo, value: Any) -> bytes:
    """The bytes of one input: dense, row-major, little-endian.

    Raises:
        InputError: dtype or shape differ from the model's.
    """
    array = np.asarray(value)
    wanted = info.numpy_dtype
    if array.dtype.newbyteorder("<") != wanted:
        raise InputError(
            f"input {info.name!r} has dtype {array.dtype}, the model takes {wanted.name}",
            f"convert it: x.astype(numpy.{wanted.name}), with the scaling that the model was trained with",
        )
    if tuple(array.shape) != info.shape:
        raise InputError(
            f"input {info.name!r} has shape {tuple(array.shape)}, the model takes {info.shape}",
            "reshape or split it, or compile the model again with other dimensions (--dim)",
        )
    return np.ascontiguousarray(array, dtype=wanted).tobytes()


def prepare_inputs(infos: Sequence[TensorInfo], inputs: Mapping[str, Any] | Sequence[Any] | Array) -> list[bytes]:
    """The bytes of all inputs in the model's order.

    Args:
        infos: the model's inputs.
        inputs: arrays by name, or in the model's order; one array alone where the model has one input.

    Raises:
        InputError: an input is missing, unknown, or of another dtype or shape.
    """
    names = ", ".join(repr(info.name) for info in infos) or "none"
    if isinstance(inputs, Mapping):
        missing = [info.name for info in infos if info.name not in inputs]
        unknown = sorted(set(inputs) - {info.name for info in infos})
        if missing or unknown:
            what = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(
                unknown
            )
            raise InputError(f"inputs do not fit the model ({'; '.join(what)})", f"the model's inputs are {names}")
        return [prepare_input(info, inputs[info.name]) for info in infos]
    values = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    if len(values) != len(infos):
        raise InputError(f"{len(values)} inputs were given, the model takes {len(infos)}", f"they are {names}")
    return [prepare_input(info, value) for info, value in zip(infos, values, strict=True)]


def read_output(info: TensorInfo, data: bytes | memoryview) -> Array:
    """An output array from its bytes (a copy).

    Raises:
        ValueError: there are not exactly ``info.size`` bytes.
    """
    if len(data) != info.size:
        raise ValueError(f"output {info.name!r} has {info.size} bytes, {len(data)} were given")
    native = np.dtype(info.numpy_dtype.name)
    return np.frombuffer(data, dtype=info.numpy_dtype).reshape(info.shape).astype(native)

# SPDX-License-Identifier: BSD-2-Clause
"""Constants that a model holds as integers: what DequantizeLinear made of them, and from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Element types that DequantizeLinear is folded for here; others are left to ONNX's reference.
INTEGERS = frozenset({"int8", "uint8", "int16", "uint16", "int32"})


@dataclass(frozen=True, eq=False)
class Quantised:
    """A float constant as the integers it came from: (values - zero_point) * scale.

    Attributes:
        values: integers of the constant's shape.
        scale: float32, () or (n,).
        zero_point: of the integers' dtype, shape as ``scale``.
        axis: the axis along which ``scale`` runs where it has more than one value, never negative.
    """

    values: Array
    scale: Array
    zero_point: Array
    axis: int = 0

    def along(self, parameter: Array) -> Array:
        """``scale`` or ``zero_point`` in a shape that broadcasts over the values."""
        if parameter.size == 1:
            return parameter.reshape(())
        return parameter.reshape([-1 if axis == self.axis else 1 for axis in range(self.values.ndim)])

    def dequantised(self) -> Array:
        """The constant as float32, computed as ONNX says: integer difference, then one product."""
        difference = self.values.astype(np.int64) - self.along(self.zero_point).astype(np.int64)
        return np.asarray(difference.astype(np.float32) * self.along(self.scale), dtype=np.float32)


def from_dequantize(attrs: Mapping[str, Any], inputs: Sequence[Array]) -> Quantised | None:
    """What a DequantizeLinear of constants holds; None where it is of a kind (blocked, not integers) left to others."""
    values, scale = inputs[0], np.asarray(inputs[1])
    zero = inputs[2] if len(inputs) > 2 else np.zeros(scale.shape, values.dtype)
    if attrs.get("block_size", 0) or values.dtype.name not in INTEGERS or scale.dtype != np.float32:
        return None
    if scale.ndim > 1 or np.size(zero) not in (1, scale.size):
        return None
    axis = int(attrs.get("axis", 1))
    if scale.size == 1:
        return Quantised(values, scale.reshape(()), np.asarray(zero).reshape(()))
    if not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size:
        return None
    return Quantised(values, scale, np.broadcast_to(np.reshape(zero, -1), scale.shape), axis % values.ndim)


def carried(operator: str, attrs: Mapping[str, Any], origin: Quantised, result: Array) -> Quantised | None:
    """What is known of a constant that an operator made of another one by moving its elements; None: nothing."""
    if operator == "Identity":
        return origin
    if operator == "Transpose":
        perm = [int(axis) for axis in attrs.get("perm", range(origin.values.ndim - 1, -1, -1))]
        return Quantised(origin.values.transpose(perm), origin.scale, origin.zero_point, perm.index(origin.axis))
    if operator in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and origin.scale.size == 1:
        return Quantised(origin.values.reshape(result.shape), origin.scale, origin.zero_point)
    return None


@dataclass(frozen=True)
class Affine:
    """How an int8 tensor stands for real numbers: (q - zero) * scale, one scale for the whole tensor."""

    scale: float
    zero: int

    def quantised(self, real: Array) -> Array:
        """int8 of real numbers, as QuantizeLinear computes it: one quotient, ties to even, saturated; NaN is 0."""
        with np.errstate(all="ignore"):
            value = np.rint(np.asarray(real, np.float32) / np.float32(self.scale))
        return np.asarray(np.clip(np.nan_to_num(value) + self.zero, -128, 127), np.int8)

    def real(self, values: Array) -> Array:
        """float32 of int8 values, as DequantizeLinear computes it."""
        return np.asarray((values.astype(np.int32) - self.zero).astype(np.float32) * np.float32(self.scale))

    def bound(self, real: float) -> int:
        """The int8 value at which to clip where the real values are clipped at ``real``; rounding is monotonous."""
        return int(self.quantised(np.array(real, np.float32)))


@dataclass(frozen=True)
class Finish:
    """How an int8 node ends: its result's scale, and the bounds that a fused Relu or Clip sets."""

    affine: Affine
    low: int = -128
    high: int = 127

    def clipped(self, low: int, high: int) -> Finish:
        """The same with a clip behind it."""
        return Finish(self.affine, *(min(max(bound, low), high) for bound in (self.low, self.high)))

    @property
    def fields(self) -> dict[str, int]:
        """``struct cl_finish_s8`` as a dictionary."""
        return {"zero": self.affine.zero, "low": self.low, "high": self.high}

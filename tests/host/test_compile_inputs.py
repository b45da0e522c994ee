# SPDX-License-Identifier: BSD-2-Clause
"""What an input array must be, wherever a model runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import build, engine, floats, node

from cloister.compile import compile_onnx
from cloister.tensors import InputError, TensorInfo, prepare_inputs, read_output
from cloister.wire import C

INFO = TensorInfo("x", C.CL_DTYPE_F32, (2, 3), 0, 24)
X = floats(2, 3)


def prepared(value: Any) -> bytes:
    return b"".join(prepare_inputs([INFO], value))


@pytest.mark.parametrize("form", [X, [X], (X,), {"x": X}])
def test_an_array_alone_in_order_or_by_name(form: Any) -> None:
    assert prepared(form) == X.tobytes()


def test_memory_order_and_byte_order_do_not_matter() -> None:
    wide = floats(4, 9)
    for array in (np.asfortranarray(X), X[::-1], X.T.copy().T, wide[::2, ::3], X.astype(">f4")):
        assert prepared(array) == np.ascontiguousarray(array).astype("<f4").tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool", "complex64", ">f8"])
def test_another_dtype_is_refused_with_the_conversion(dtype: str) -> None:
    with pytest.raises(InputError) as caught:
        prepared(np.zeros((2, 3), dtype))
    assert "'x'" in str(caught.value)
    assert "astype(numpy.float32)" in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 2, 3), (2, 3, 1), (4, 3), (0, 3)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"takes \(2, 3\)"):
        prepared([np.zeros(shape, np.float32)])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [({}, "missing: x"), ({"x": X, "z": X}, "unknown: z"), ([X, X], "2 inputs were given"), ([], "0 inputs")],
)
def test_missing_and_unknown_inputs_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(inputs)


def test_every_dtype_goes_in_and_out_unchanged() -> None:
    for dtype in ("float32", "int32", "int64", "uint8", "int8", "bool"):
        number = {"float32": 1, "int32": 6, "int64": 7, "uint8": 2, "int8": 3, "bool": 9}[dtype]
        value = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
        model = build([node("Transpose", "x", "y")], {"x": [2, 3]}, ["y"], types={"x": number, "y": number})
        result = engine().run(compile_onnx(model), value)["y"]
        assert result.dtype == value.dtype
        np.testing.assert_array_equal(result, value.T)


def test_an_output_of_another_size_is_refused() -> None:
    np.testing.assert_array_equal(read_output(INFO, X.tobytes()), X)
    with pytest.raises(ValueError, match="24 bytes"):
        read_output(INFO, b"\0" * 23)

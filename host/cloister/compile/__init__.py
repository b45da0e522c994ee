# SPDX-License-Identifier: BSD-2-Clause
"""From a graph to partitions: lowering, memory plan, weight packing, emission.

>>> from cloister.compile import compile_onnx                                # doctest: +SKIP
>>> compiled = compile_onnx("model.onnx", dims={"batch": 1})                 # doctest: +SKIP
>>> print(compiled.report.macs, compiled.arena_size, len(compiled.partitions))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloister.callable_package import make_callable

if TYPE_CHECKING:
    from cloister.compile.compiler import CompiledModel, compile_onnx

__all__ = ["CompiledModel", "compile_onnx"]


def __getattr__(name: str) -> Any:
    # Operators import this package's layout and lowering; the compiler imports the operators.
    if name in __all__:
        from cloister.compile import compiler

        return getattr(compiler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


make_callable(__name__)

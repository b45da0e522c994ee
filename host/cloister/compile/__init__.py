# SPDX-License-Identifier: BSD-2-Clause
"""From a graph to partitions: lowering, memory plan, weight packing, emission.

>>> from cloister.compile import compile_onnx                                # doctest: +SKIP
>>> compiled = compile_onnx("model.onnx", dims={"batch": 1})                 # doctest: +SKIP
>>> print(compiled.report.macs, compiled.arena_size, len(compiled.partitions))  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister.compile.compiler import CompiledModel, compile_onnx

__all__ = ["CompiledModel", "compile_onnx"]


def __getattr__(name: str) -> Any:
    # Operators import this package's layout and lowering; the compiler imports the operators.
    if name in __all__:
        from cloister.compile import compiler

        return getattr(compiler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallableModule(ModuleType):
    """This package, which is also the function that users call ``cloister.compile(...)``.

    Importing a sub-package sets the parent's attribute of that name, so a function of the same name in ``cloister``
    would be lost at the first import from here.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from cloister.api import compile as compile_model

        return compile_model(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

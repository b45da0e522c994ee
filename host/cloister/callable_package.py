# SPDX-License-Identifier: BSD-2-Clause
"""Packages that are also functions: ``cloister.compile(...)``, ``cloister.attack(...)``, ``cloister.protect(...)``.

Importing a sub-package sets the parent's attribute of that name, so a function of the same name in ``cloister`` would
be lost at the first import from there.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Calls the function of its own name in :mod:`cloister.api`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module("cloister.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(package: str) -> None:
    """Let the imported package be called, as the function of :mod:`cloister.api` that has its name."""
    sys.modules[package].__class__ = _CallablePackage

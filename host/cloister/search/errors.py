# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the strategy generator."""

from __future__ import annotations

import importlib.util

from cloister.errors import CloisterError


class SearchError(CloisterError):
    """A search cannot be begun, resumed or shown."""


class BudgetError(CloisterError, ValueError):
    """A budget is not written as it should be, or cannot hold."""


def need_optuna() -> None:
    """Refuse where the extra ``search`` is not installed.

    Raises:
        SearchError: Optuna or SQLAlchemy are missing; the remedy says how to install them.
    """
    missing = [name for name in ("optuna", "sqlalchemy") if importlib.util.find_spec(name) is None]
    if missing:
        raise SearchError(
            f"the strategy generator needs {' and '.join(missing)}: not installed",
            "pip install 'cloister[search]', or build/setup --train",
        )

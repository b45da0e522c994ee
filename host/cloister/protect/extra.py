# SPDX-License-Identifier: BSD-2-Clause
"""Whether the extra ``train`` is installed. Imports without it."""

from __future__ import annotations

import importlib.util

from cloister.errors import CloisterError


def need_torch() -> None:
    """Refuse where the extra ``train`` is not installed.

    Raises:
        CloisterError: torch is missing; the remedy says how to install it.
    """
    if importlib.util.find_spec("torch") is None:
        raise CloisterError(
            "this needs torch, which is not installed",
            "run build/setup --train in a checkout, or pip install 'cloister[train]'",
        )

# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the training rooms."""

from __future__ import annotations

from cloister.errors import CloisterError


class TrainingError(CloisterError):
    """Data, a model or a setting is not what training needs; the message names it and the remedy."""

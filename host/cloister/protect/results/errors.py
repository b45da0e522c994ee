# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the results' scripts."""

from __future__ import annotations

from cloister.errors import CloisterError


class ResultsError(CloisterError):
    """The results cannot be made with these arguments; the message names the remedy."""

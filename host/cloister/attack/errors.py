# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the attack bench."""

from __future__ import annotations

from cloister.errors import CloisterError


class AttackError(CloisterError):
    """The bench cannot run what it was given; the message names it and the remedy."""

# SPDX-License-Identifier: BSD-2-Clause
"""Errors that a user sees: each names what is wrong and how to mend it."""

from __future__ import annotations


class CloisterError(Exception):
    """Base of all errors that Cloister raises on purpose.

    The command line prints the message and, on a line of its own, the remedy; no traceback.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}" if self.remedy else self.message


class FormatError(CloisterError):
    """A file is not what it should be: truncated, foreign, or of an unknown version."""


class PassingError(CloisterError):
    """Nothing is wrong with what was asked for: once something outside is mended, the same call goes on."""


class UnsupportedModelError(CloisterError):
    """The model has operators, attributes, types or shapes that Cloister does not support."""

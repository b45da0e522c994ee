# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the training rooms."""

from __future__ import annotations

from cloister.errors import CloisterError, PassingError


class TrainingError(CloisterError):
    """Data, a model or a setting is not what training needs; the message names it and the remedy."""


class DeviceError(TrainingError, PassingError):
    """There is no such device to train on."""


class LibraryError(TrainingError, PassingError):
    """A library that is needed is not installed."""

# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the benchmark: each names the step."""

from __future__ import annotations

from cloister.errors import CloisterError


class BenchError(CloisterError):
    """A step of the benchmark failed."""


class JobTimeout(BenchError):
    """One measurement took longer than it may."""

# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the sealing side."""

from __future__ import annotations

from cloister.errors import CloisterError, FormatError


class KeyFileError(CloisterError):
    """A key file is missing, unreadable, malformed or open to others."""


class BundleError(FormatError):
    """A bundle is truncated, foreign, or contradicts itself."""


class LicenceError(FormatError):
    """A licence is truncated, foreign, or does not belong to the bundle."""


class SignatureError(CloisterError):
    """A manifest or licence was not signed by the vendor key at hand."""


class CipherError(CloisterError):
    """A cipher suite is unknown, or a device lacks it."""

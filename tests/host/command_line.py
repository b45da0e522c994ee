# SPDX-License-Identifier: BSD-2-Clause
"""Calls the command line as a user does, in this process."""

from __future__ import annotations

from cloister.cli.main import main


def call(*arguments: object) -> int:
    """Run a command; returns its exit status."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as error:
        return int(error.code or 0)
    return 0

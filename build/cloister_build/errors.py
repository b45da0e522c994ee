# SPDX-License-Identifier: BSD-2-Clause
"""Errors of the build: each names the step and says what to do."""

from __future__ import annotations

from pathlib import Path

from cloister.errors import CloisterError

TAIL_LINES = 25


class BuildError(CloisterError):
    """A step of the build failed."""


def failed_command(step: str, what: str, log: Path, remedy: str) -> BuildError:
    """Make the error of a command that failed in a step: its name, the log's last lines, where the log lies."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    tail = "\n".join(f"  | {line}" for line in lines[-TAIL_LINES:]) or "  | (the log is empty)"
    return BuildError(f"step '{step}' failed: {what}\n{tail}\n  log: {log}", remedy)

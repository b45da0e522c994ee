# SPDX-License-Identifier: BSD-2-Clause
"""Progress on the terminal: a line for each step with its seconds, on a dumb terminal or in a log as well."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape


class Report:
    """Prints what the build does. Everything goes to stderr: stdout is for results."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self.cached = 0

    def note(self, text: str) -> None:
        """Print a remark that the user should see."""
        self.console.print(f"  [yellow]note[/yellow] {escape(text)}")

    def hit(self, step: str) -> None:
        """Count a step whose result was in the cache."""
        self.cached += 1

    @contextlib.contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Show that a step runs, then how long it took."""
        began = time.monotonic()
        label = f"{name:<14}"
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        try:
            if live:
                with self.console.status(f"{label} {escape(what)}"):
                    yield
            else:
                self.console.print(f"  .... {label} {escape(what)}")
                yield
        except BaseException:
            self.console.print(f"  [red]FAIL[/red] {label} {time.monotonic() - began:6.1f} s")
            raise
        self.console.print(f"  [green]done[/green] {label} {time.monotonic() - began:6.1f} s  {escape(what)}")

    def summary(self, text: str) -> None:
        """Print the last line of a command."""
        if not self.quiet:
            cached = f" ({self.cached} steps from the cache)" if self.cached else ""
            self.console.print(f"{escape(text)}{cached}")

    def error(self, text: str) -> None:
        """Print an error, unadorned, so that it can be copied."""
        print(f"error: {text}", file=sys.stderr)

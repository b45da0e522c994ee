# SPDX-License-Identifier: BSD-2-Clause
"""Shows that a device is starting: a spinner on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

#: Seconds between two lines where there is no terminal.
_LINE_S = 15.0


@contextlib.contextmanager
def boot_progress(what: str, quiet: bool = False) -> Iterator[Callable[[float, str], None]]:
    """Yield a function that is called with the seconds passed and what is waited for.

    On a terminal a spinner on standard error; else a line at most every 15 s, none for a start that is quicker;
    nothing at all with `quiet`.
    """
    if quiet:
        yield lambda _elapsed, _phase: None
        return
    if not sys.stderr.isatty():
        last = 0.0

        def line(elapsed: float, phase: str) -> None:
            nonlocal last
            if elapsed - last >= _LINE_S:
                last = elapsed
                print(f"{what}: waiting for {phase}, {elapsed:.0f} s", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what}: starting") as status:
        yield lambda elapsed, phase: status.update(f"{what}: waiting for {phase}, {elapsed:.0f} s")

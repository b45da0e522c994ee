# SPDX-License-Identifier: BSD-2-Clause
"""Shows how far a long run is and when it is expected to end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

#: Seconds between two lines where there is no terminal.
_LINE_S = 30.0

#: Called with the epochs done and a note about the last one.
Report = Callable[[int, str], None]


@contextlib.contextmanager
def epochs_progress(name: str, begin: int, total: int, quiet: bool = False) -> Iterator[Report]:
    """Yield a function that is called after each epoch.

    On a terminal a bar with the time that is left, on standard error; else a line at most every 30 s and one at the
    end; nothing with ``quiet``.
    """
    if quiet or begin >= total:
        yield lambda _done, _note: None
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(name, total=total, completed=begin, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
        return
    started = last = time.monotonic()

    def line(done: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < _LINE_S:
            return
        last = now
        left = (now - started) / max(1, done - begin) * (total - done)
        print(
            f"{name}: {done} of {total}, {now - started:.0f} s, {left:.0f} s left; {note}", file=sys.stderr, flush=True
        )

    yield line

# SPDX-License-Identifier: BSD-2-Clause
"""Shows what a bench is at, and when it is expected to end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

#: Seconds between two lines about trainings where there is no terminal.
LINE_S = 10.0


class Plan(NamedTuple):
    """About how many trainings an attack takes, and how many steps they have together."""

    trainings: int
    steps: int


class Progress:
    """On standard error: a bar on a terminal, else lines; nothing where it is quiet.

    The end is predicted by the steps of what is to come, and by the time that steps took. So records and trainings that
    were there before tell nothing about it, and neither does direct use.

    Args:
        plans: of the attacks that are to run, in their order; none: it is quiet.
        cells: how many attacks there are, with those whose records are kept.
        quiet: show nothing.
    """

    def __init__(self, plans: Sequence[Plan] = (), cells: int = 0, quiet: bool = False) -> None:
        self._plans, self._cells, self._quiet = list(plans), cells, quiet or not plans
        self._planned = sum(plan.steps for plan in plans)
        self._now, self._cell, self._count, self._done = Plan(0, 0), "", 0, 0
        self._steps, self._seconds = 0, 0.0
        self._began = self._last = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task("attacks", total=max(1, self._planned))
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and not self._quiet:
            self._line(f"attacks: {self._cells} of {self._cells}, {time.monotonic() - self._began:.0f} s")

    def begin(self, name: str, number: int) -> None:
        """The next of the plans is about to run.

        Args:
            name: of the attack and its target.
            number: of all attacks, from 1.
        """
        if self._quiet:
            return
        self._now, self._count, self._done = self._plans.pop(0), 0, 0
        self._cell = f"{number} of {self._cells}, {name}"
        # what trains may be silent for long from here on; what does not is soon over
        count = self._now.trainings
        told = f": about {count} training{'s' if count > 1 else ''}" if count else ""
        self._tell(told, always=bool(told))

    @contextmanager
    def training(self, steps: int, begun: bool) -> Iterator[None]:
        """Around a training.

        Args:
            steps: that it has.
            begun: it goes on from where it was, or is there already, so that its time tells nothing.
        """
        self._count += 1
        if not self._quiet:
            self._tell(f": training {self._count} of about {max(self._count, self._now.trainings)}")
        since = time.monotonic()
        yield
        self._done += steps
        if not begun:
            self._steps += steps
            self._seconds += time.monotonic() - since

    def _tell(self, told: str, always: bool = False) -> None:
        now = time.monotonic()
        left = sum(plan.steps for plan in self._plans) + max(0, self._now.steps - self._done)
        if self._steps:
            told += f", about {self._seconds / self._steps * left:.0f} s left"
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], completed=self._planned - left, description=f"attacks: {self._cell}{told}"
            )
        elif always or now - self._last >= LINE_S:
            self._line(f"attacks: {self._cell}{told}; {now - self._began:.0f} s")

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        print(text, file=sys.stderr, flush=True)

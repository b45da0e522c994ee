# SPDX-License-Identifier: BSD-2-Clause
"""What several commands share: parameter types, tables, and words for sizes."""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cloister.errors import CloisterError

_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1000, "kib": 1 << 10, "m": 10**6, "mb": 10**6, "mib": 1 << 20, "gib": 1 << 30}


#: Seconds before a slow step is first told of, and between two lines where there is no terminal.
PATIENCE_S = 5.0


@contextmanager
def compile_progress(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield what the compiler calls with step, done and total: a spinner on a terminal, else a line now and then.

    Compilations that are quicker than :data:`PATIENCE_S` print nothing where there is no terminal.
    """
    console = Console(stderr=True)
    begin = last = time.monotonic()

    def told(step: str, done: int, total: int) -> str:
        seconds = time.monotonic() - begin
        return f"{what}: {step} {done + 1} of {total}, {seconds:.0f} s" if total > 1 else f"{what}: {step}"

    if console.is_terminal:
        with console.status(what) as status:
            yield lambda step, done, total: status.update(told(step, min(done, total - 1), total))
        return

    def line(step: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PATIENCE_S:
            last = time.monotonic()
            click.echo(told(step, min(done, total - 1), total), err=True)

    yield line


class Size(click.ParamType[int]):
    """A number of bytes: ``65536``, ``64KiB``, ``1.5MiB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; a message that names the units where it is no size."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", str(value))
        if not match or match[2].lower() not in _UNITS:
            self.fail(f"{value!r} is no size; write bytes, or a number with KiB, MiB or GiB, such as 8MiB", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].lower()])


class Dim(click.ParamType[tuple[str, int]]):
    """A free dimension's value: ``batch=1``."""

    name = "name=n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Name and value."""
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).partition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            self.fail(f"{value!r} is not NAME=N with N of at least 1, such as batch=1", param, ctx)
        return name, int(number)


class NewFile(click.ParamType[Path]):
    """A file to write: there is none, or one of the same kind, which is replaced.

    Args:
        what: the kind, in words.
        same: tells whether a file that is there is of this kind.
    """

    name = "path"

    def __init__(self, what: str, same: Callable[[Path], bool]) -> None:
        self.what, self.same = what, same

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; whatever else lies there would be lost, so it is refused before anything is done.

        Raises:
            CloisterError: there is a folder, or a file of another kind.
        """
        path, remedy = Path(value), "give another file to write to"
        try:
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                raise CloisterError(f"{path} is a folder", f"name the file in it: {path / 'NAME'}")
            if not stat.S_ISREG(found.st_mode):  # writing renames into place: a device would be gone
                raise CloisterError(f"{path} is no ordinary file", remedy)
            if found.st_size and not self.same(path):
                raise CloisterError(f"{path} is there already and is no {self.what}", remedy)
        except FileNotFoundError:
            return path
        except OSError as error:
            raise CloisterError(f"{path} cannot be written to: {error.strerror}", remedy) from error
        return path


def begins(*words: bytes) -> Callable[[Path], bool]:
    """For :class:`NewFile`: files that begin with one of these bytes."""

    def same(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(max(map(len, words))).startswith(words)

    return same


#: Pictures that this program draws, and those of other programs.
SVG = begins(b"<svg", b"<?xml")


def keep_apart(output: Path | None, *inputs: Path) -> None:
    """Refuse to write over what the command reads.

    Raises:
        CloisterError: the output is one of the inputs.
    """
    for path in inputs:
        if output is not None and output.exists() and path.exists() and output.samefile(path):
            raise CloisterError(f"{output} would be written over, and it is read", "give another file to write to")


def human(size: float) -> str:
    """Bytes as people read them: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; numbers to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    rows = [list(row) for row in rows]
    for i, column in enumerate(columns):
        right = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    Console().print(table)


def show_facts(facts: dict[str, object]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {value}")


def show_json(data: object) -> None:
    """Print JSON for other programs."""
    click.echo(json.dumps(data, indent=2))

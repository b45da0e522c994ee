# SPDX-License-Identifier: BSD-2-Clause
"""Where a study is kept: a file, or a database for workers on several machines."""

from __future__ import annotations

import fcntl
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from cloister.search.errors import SearchError

#: Seconds between a worker's signs of life in a database, and after which one that gives none is taken for gone.
HEARTBEAT_S, GONE_S = 20, 90
#: Tries to make a database's tables: two workers that begin at once disturb each other.
TRIES = 5


class _Lock:
    """The kernel's lock on a file beside the study's: unlike Optuna's own, none is left when a worker is killed."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        """Wait for the lock and take it."""
        self._held = self._path.open("ab")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give it back."""
        if self._held is not None:
            self._held.close()
            self._held = None


def is_url(place: str | Path) -> bool:
    """Whether a study's place is a database."""
    return "://" in str(place)


def shown(place: str | Path) -> str:
    """The place as it may be printed: without a password."""
    if not is_url(place):
        return str(place)
    url = _parsed(str(place))
    return str(place).split("://")[0] + "://..." if url is None else str(url.render_as_string(hide_password=True))


def _parsed(url: str) -> sqlalchemy.URL | None:
    """None where it cannot be read, or not safely: what a password has behind an @ would be the host's, and shown."""
    try:
        found = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # ValueError: a port that is no number
        return None
    return None if "@" in (found.host or "") else found


def open_storage(place: str | Path, *, create: bool = True) -> BaseStorage:
    """Open where a study is kept.

    A file is an append-only journal rather than SQLite, since that takes 57 ms to keep one of thousands of estimates
    where the journal takes 4.

    Args:
        place: a file's path, or a database's URL such as ``postgresql://user@host/name``.
        create: make a file that is not there.

    Raises:
        SearchError: there is no such file, it is no study, or the database cannot be reached.
    """
    return _database(str(place)) if is_url(place) else _journal(Path(place), create)


def _journal(path: Path, create: bool) -> BaseStorage:
    remedy = "give another file, or `cloister search run` to begin a study"
    if not path.exists() and not create:
        raise SearchError(f"{path}: there is no such study", remedy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _Lock(path)
        lock.acquire()
        try:
            _repair(path)
        finally:
            lock.release()
        backend: BaseJournalBackend = JournalFileBackend(str(path), lock_obj=lock)
        return JournalStorage(backend)
    except OSError as error:
        raise SearchError(f"{path}: {error.strerror}", "check the path and its permissions") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SearchError(f"{path} is no study", remedy) from error


def _repair(path: Path) -> None:
    """Cut off a last line that was not written to its end, as when power failed: nothing could be appended to it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        if file.read(1) != b"{":
            raise ValueError("no journal")
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _database(url: str) -> BaseStorage:
    # psycopg 3 is what the extra installs; SQLAlchemy before 2.1 takes psycopg2 where no driver is named
    scheme, _, rest = url.partition("://")
    url = f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else url
    if _parsed(url) is None:  # not with SQLAlchemy's own words, which tell parts of it
        raise SearchError(
            f"{shown(url)}: the URL cannot be read",
            "write it as postgresql://user:password@host:port/database with a number as port, and in a password %40 "
            "for @",
        )
    for attempt in range(TRIES):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return RDBStorage(
                    url,
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=HEARTBEAT_S,
                    grace_period=GONE_S,
                )
        except (sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.IntegrityError) as error:
            if attempt == TRIES - 1:
                raise SearchError(f"{shown(url)}: {_first_line(error)}", "check the rights of the user") from error
            time.sleep(0.2 * (attempt + 1))
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            raise SearchError(
                f"{shown(url)}: {_first_line(error)}",
                "check that the server runs and the URL, such as postgresql://user:password@host/database; databases "
                "other than PostgreSQL need their driver installed",
            ) from error
    raise AssertionError


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return next(iter(str(cause).strip().splitlines()), type(error).__name__)


@contextmanager
def told() -> Iterator[None]:
    """Turn a database's errors into one that names what to do.

    Raises:
        SearchError: the database was lost. What was told to it before is kept.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise SearchError(
            f"the study's database does not answer: {_first_line(error)}",
            "check the server, then run the same command again: it goes on where it was",
        ) from error

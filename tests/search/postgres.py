# SPDX-License-Identifier: BSD-2-Clause
"""A private PostgreSQL server in a temporary folder, run by an unprivileged user, reached by a socket alone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NoServer(Exception):
    """Why none can be run here."""


def programs() -> Path:
    """The folder of initdb and pg_ctl: on PATH, or where Debian puts them."""
    for place in (shutil.which("pg_ctl"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)):
        if place is not None and (Path(place).resolve().parent / "initdb").exists():
            return Path(place).resolve().parent
    raise NoServer("PostgreSQL is not installed (Debian's package is postgresql)")


@contextmanager
def server() -> Iterator[str]:
    """URL of a database of a server that runs while the context is open.

    Raises:
        NoServer: PostgreSQL is not installed, or root finds no other user to run it as: it refuses to run as root.
    """
    folder = programs()
    account = None
    if os.geteuid() == 0:
        account = next((entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")), None)
        if account is None:
            raise NoServer("tests run as root, PostgreSQL does not, and there is neither a user postgres nor nobody")
    place = Path(tempfile.mkdtemp(prefix="cloister-pg-"))
    user, group = (account.pw_uid, account.pw_gid) if account else (None, None)
    if account is not None:
        os.chown(place, account.pw_uid, account.pw_gid)

    def run(*command: str) -> None:
        with (place / "commands.log").open("ab") as log:
            done = subprocess.run(
                command, cwd=place, user=user, group=group, extra_groups=[] if account else None, stdout=log,
                stderr=log, env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(place)}, timeout=120,
            )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"{command[0]}: {(place / 'commands.log').read_text()[-2000:]}")

    data = place / "data"
    try:
        run(str(folder / "initdb"), "-D", str(data), "-U", "cloister", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-k {place} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
        run(str(folder / "pg_ctl"), "-D", str(data), "-w", "-o", options, "-l", str(place / "server.log"), "start")
        try:
            yield f"postgresql://cloister@/postgres?host={place}"
        finally:
            run(str(folder / "pg_ctl"), "-D", str(data), "-w", "-m", "fast", "stop")
    finally:
        shutil.rmtree(place)

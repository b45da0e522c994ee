# SPDX-License-Identifier: BSD-2-Clause
"""The cache: results of steps under the hash of everything that they were made from.

A result is made in a work folder and renamed into place, so that what exists is whole. It is never changed afterwards.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import inspect
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloister_build.process import RETRY, disk_full, is_disk_full, output, run
from cloister_build.report import Report

META = "meta.json"
KEEP_S = 30 * 86400.0


@dataclass(frozen=True)
class Artifact:
    """A finished result.

    path: its folder. versions: what it was made from, by package name.
    """

    step: str
    path: Path
    versions: dict[str, str]

    @property
    def identity(self) -> dict[str, Any]:
        """What a step that uses this result puts into its own hash."""
        return {"artifact": self.path.name, "versions": self.versions}


@dataclass
class Workshop:
    """The place where a step works: ``out`` becomes the artifact, ``tmp`` is thrown away."""

    step: str
    out: Path
    tmp: Path
    log: Path
    report: Report
    versions: dict[str, str] = field(default_factory=dict)

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        remedy: str = RETRY,
    ) -> None:
        """Run a command, its output in the step's log."""
        run(self.step, command, self.log, cwd=cwd, env=env, remedy=remedy)

    def output(self, *command: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run a command and return what it printed."""
        return output(self.step, command, self.log, env=env)


def hash_tree(paths: Iterable[Path], base: Path) -> str:
    """Return the hash of files and folders: names relative to base, executable bits and contents."""
    digest = hashlib.sha256()
    files: set[Path] = set()
    for path in paths:
        if path.is_dir():
            files.update(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        elif path.exists():
            files.add(path)
    for file in sorted(files):
        data = file.read_bytes()
        mode = "x" if os.access(file, os.X_OK) else "-"
        digest.update(f"{file.relative_to(base)}\0{mode}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _hash_code(function: Callable[..., object]) -> str:
    """Return the hash of the code of a function's module: comments and layout do not count."""
    module = ast.parse(Path(inspect.getsourcefile(function) or __file__).read_text())
    return hashlib.sha256(ast.dump(module).encode()).hexdigest()


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


class Store:
    """The artifacts of one cache folder."""

    def __init__(self, root: Path, report: Report) -> None:
        self.root = root
        self.report = report
        self.artifacts = root / "artifacts"
        self.work = root / "work"
        self.logs = root / "logs"
        self.downloads = root / "downloads"
        for path in (self.artifacts, self.work, self.logs, self.downloads):
            path.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other builds out of this cache; waits for one that runs."""
        with (self.root / "lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip() or "?"
                self.report.note(f"another build (process {owner}) uses the cache: waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            handle.truncate()
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def prune(self) -> None:
        """Remove artifacts that no build has used for a month."""
        oldest = time.time() - KEEP_S
        for path in self.artifacts.iterdir():
            with contextlib.suppress(OSError):
                if (path / META).stat().st_mtime < oldest:
                    _remove(path)

    def _finished(self, step: str, path: Path) -> Artifact | None:
        try:
            meta = json.loads((path / META).read_text())
            os.utime(path / META)  # used: see prune()
        except (OSError, ValueError):
            return None
        return Artifact(step, path, meta["versions"])

    def make(
        self,
        step: str,
        what: str,
        inputs: Mapping[str, Any],
        build: Callable[[Workshop], None],
        sources: Sequence[Path] = (),
        code: bool = True,
    ) -> Artifact:
        """Return the artifact of a step, from the cache or made now.

        inputs: everything else than code that the result depends on (JSON). sources: files and folders of the
        repository that it depends on. code: whether the code of the module of ``build`` belongs to the hash.
        Raises BuildError when the step fails; nothing half made stays behind.
        """
        key = {
            "inputs": inputs,
            "module": _hash_code(build) if code else "",
            "sources": hash_tree(sources, Path(os.path.commonpath([*sources]))) if sources else "",
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        path = self.artifacts / f"{step}-{digest}"
        if done := self._finished(step, path):
            self.report.hit(step)
            return done
        with self.lock():
            if done := self._finished(step, path):
                return done
            self.prune()
            with self.report.step(step, what):
                return self._make(step, path, inputs, build)

    def _make(self, step: str, path: Path, inputs: Mapping[str, Any], build: Callable[[Workshop], None]) -> Artifact:
        # the lock is held: whatever lies in the work folder was left by a build that was killed
        for stale in self.work.iterdir():
            _remove(stale)
        place = self.work / path.name
        log = self.logs / f"{step}.log"
        log.unlink(missing_ok=True)
        shop = Workshop(step, place / "out", place / "tmp", log, self.report)
        began = time.monotonic()
        try:
            shop.out.mkdir(parents=True)
            shop.tmp.mkdir()
            build(shop)
            meta = {
                "step": step,
                "inputs": inputs,
                "versions": shop.versions,
                "seconds": round(time.monotonic() - began, 1),
            }
            (shop.out / META).write_text(json.dumps(meta, indent=1) + "\n")
            if path.exists():
                _remove(path)
            shop.out.rename(path)
        except OSError as err:
            if is_disk_full(err):
                raise disk_full(step, self.root) from err
            raise
        finally:
            _remove(place)
        return Artifact(step, path, shop.versions)

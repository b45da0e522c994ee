# SPDX-License-Identifier: BSD-2-Clause
"""The Debian archive, through a private apt: nothing of the machine's own package state is read or changed.

Only the mirror's address and apt's own settings (proxy, certificates) come from the machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cloister_build.errors import BuildError
from cloister_build.paths import BUILD
from cloister_build.process import run
from cloister_build.store import Artifact, Store, Workshop

SUITES = ("trixie", "sid")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Part of the cache key instead of this module's code; raise it when a change here makes other artifacts.
LAYOUT = 1
# Depends on the package of the current kernel, whose name holds its version.
KERNEL_META = "linux-image-arm64"
LISTS_FRESH_S = 3600.0
OFFLINE = "check the network; what is cached already needs none. See docs/building.md, 'When something is missing'"


@dataclass(frozen=True)
class Pin:
    """One line of packages.lock."""

    group: str
    suite: str
    arch: str
    name: str
    version: str


def read_lock(path: Path = BUILD / "packages.lock") -> list[Pin]:
    """Read the pinned packages."""
    pins = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 5 or words[1] not in SUITES:
            raise BuildError(f"{path}:{number}: not 'group suite architecture name version'", "mend the line")
        pins.append(Pin(*words))
    return pins


def host_arch() -> str:
    """Debian's name of this machine's architecture."""
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


def _mirror_from_sources(root: Path) -> str | None:
    """Find the mirror in apt's source lists themselves, for a machine whose package lists were deleted."""
    files = [root / "sources.list", *sorted((root / "sources.list.d").glob("*"))]
    for file in files:
        if not file.is_file() or file.suffix not in (".list", ".sources"):
            continue
        text = file.read_text(errors="replace")
        one_line = re.search(r"^deb\s+(?:\[[^]]*\]\s+)?(\S*/debian/?)\s+\S+", text, re.MULTILINE)
        deb822 = re.search(r"^URIs:\s*(\S*/debian/?)(?:\s|$)", text, re.MULTILINE)
        if match := one_line or deb822:
            return match.group(1)
    return None


def mirror() -> str:
    """Return the address of the Debian mirror that this machine uses.

    Raises BuildError when none is configured.
    """
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(CODENAME) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "APT_CONFIG"},
    ).stdout
    for line in listed.splitlines():
        words = line.split()
        # Debian-Security has a label of its own; -updates and -backports share the mirror
        if len(words) == 4 and words[:2] == ["Debian", "Debian"]:
            return words[3]
    if found := _mirror_from_sources(Path("/etc/apt")):
        return found
    raise BuildError(
        "apt on this machine knows no Debian mirror", "add one to /etc/apt/sources.list.d, then apt-get update"
    )


def _network_settings() -> str:
    """Return apt's own network settings on this machine (proxy, certificates, time limits) in its own syntax."""
    dumped = subprocess.run(
        ["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire"],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "APT_CONFIG"},
    ).stdout
    kept = re.compile(r"^Acquire::(http|https|ftp|Check-Valid-Until|Check-Date|ForceIPv4|ForceIPv6)\b", re.IGNORECASE)
    return "".join(f"{line}\n" for line in dumped.splitlines() if kept.match(line))


class Archive:
    """The packages of Debian trixie and sid."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.root = store.root / "apt"
        self.arch = host_arch()
        self._ready = False
        self._kernel: dict[str, str] = {}

    @property
    def env(self) -> dict[str, str]:
        """Environment that makes apt use the private configuration."""
        return {"APT_CONFIG": str(self.root / "apt.conf")}

    def _configure(self) -> None:
        if not KEYRING.exists():
            raise BuildError(f"the Debian archive keyring {KEYRING} is missing", "run build/setup")
        for sub in ("lists/partial", "archives/partial", "etc"):
            (self.root / sub).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        arches = ["arm64"] + ([self.arch] if self.arch != "arm64" else [])
        address = mirror()
        lines = []
        for suite in SUITES:
            lines.append(f"deb [arch={','.join(arches)} signed-by={KEYRING}] {address} {suite} main")
            lines.append(f"deb-src [signed-by={KEYRING}] {address} {suite} main")
        (self.root / "sources.list").write_text("\n".join(lines) + "\n")
        quoted = " ".join(f'"{arch}";' for arch in arches)
        (self.root / "apt.conf").write_text(
            f"""Dir::State "{self.root}";
Dir::State::lists "{self.root}/lists";
Dir::State::status "{self.root}/status";
Dir::State::extended_states "{self.root}/extended_states";
Dir::Cache "{self.root}";
Dir::Cache::archives "{self.root}/archives";
Dir::Etc::sourcelist "{self.root}/sources.list";
Dir::Etc::sourceparts "{self.root}/etc";
Dir::Etc::preferences "{self.root}/etc/none";
Dir::Etc::preferencesparts "{self.root}/etc";
Dir::Etc::main "{self.root}/etc/none";
Dir::Etc::parts "{self.root}/etc";
APT::Architecture "arm64";
APT::Architectures {{ {quoted} }};
APT::Sandbox::User "";
{_network_settings()}Acquire::Languages "none";
Acquire::Retries "3";
"""
        )

    def prepare(self, shop: Workshop) -> None:
        """Bring the private package lists up to date, at most once an hour."""
        if self._ready:
            return
        self._configure()
        stamp = self.root / "updated"
        wanted = (self.root / "sources.list").read_text()
        try:
            fresh = time.time() - stamp.stat().st_mtime < LISTS_FRESH_S and stamp.read_text() == wanted
        except OSError:
            fresh = False
        if not fresh:
            self._update(shop)
            stamp.write_text(wanted)
        self._ready = True

    def _update(self, shop: Workshop) -> None:
        command = ["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"]
        try:
            run(shop.step, command, shop.log, env=self.env, remedy=OFFLINE)
        except BuildError:
            if "is expired" not in shop.log.read_text(errors="replace"):
                raise
            # A mirror that stands still. The lists are signed all the same; what is pinned is older than they are.
            self.store.report.note(
                "the mirror's package lists have passed their date: using them, their signatures hold"
            )
            run(shop.step, [*command, "-o", "Acquire::Check-Valid-Until=false"], shop.log, env=self.env, remedy=OFFLINE)

    def _offered(self, shop: Workshop, pin: Pin) -> list[str]:
        """Versions of a package that the pinned suite offers, newest first."""
        name = pin.name if pin.arch in ("source", "all") else f"{pin.name}:{self._real_arch(pin)}"
        want = "Sources" if pin.arch == "source" else "Packages"
        found = []
        for line in shop.output("apt-cache", "madison", name, env=self.env).splitlines():
            fields = [part.strip() for part in line.split("|")]
            if len(fields) == 3 and f" {pin.suite}/" in f" {fields[2]}" and fields[2].endswith(want):
                found.append(fields[1])
        return found

    def _real_arch(self, pin: Pin) -> str:
        return self.arch if pin.arch == "host" else pin.arch

    def choose(self, shop: Workshop, pin: Pin) -> str:
        """Return the version to take: the pinned one, or the newest that is offered, and say so."""
        offered = self._offered(shop, pin)
        if pin.version in offered:
            return pin.version
        if not offered:
            raise BuildError(
                f"step '{shop.step}': Debian {pin.suite} offers no package {pin.name} ({pin.arch})",
                "put a package that it offers into build/packages.lock. " + OFFLINE,
            )
        self.store.report.note(f"{pin.name} {pin.version} has left the archive: using {offered[0]} of {pin.suite}")
        return offered[0]

    def _download(self, shop: Workshop, specs: Sequence[str]) -> list[Path]:
        """Fetch binary packages into the downloads, except those that lie there already and are whole."""
        listed = shop.output("apt-get", "download", "--print-uris", *specs, env=self.env)
        files: list[Path] = []
        missing: list[str] = []
        offered = {}
        for line in listed.splitlines():
            if line.startswith("'"):
                _, name, _, checksum = line.split()
                offered[name.split("_")[0]] = (name, checksum)
        for spec in specs:
            package = re.split("[:=]", spec)[0]
            if package not in offered:
                raise BuildError(f"step '{shop.step}': apt knows no file of {spec}", OFFLINE)
            name, checksum = offered[package]
            target = self.store.downloads / name
            kind, _, value = checksum.partition(":")
            if not target.exists() or hashlib.new(kind.lower(), target.read_bytes()).hexdigest() != value:
                missing.append(spec)
            files.append(target)
        if missing:
            aside = shop.tmp / "download"
            aside.mkdir()
            shop.run("apt-get", "-q", "download", *missing, cwd=aside, env=self.env, remedy=OFFLINE)
            for path in aside.glob("*.deb"):
                path.replace(self.store.downloads / path.name)
        return files

    def _kernel_package(self, shop: Workshop, meta: str, version: str) -> str:
        """Return the package of the kernel proper, which the meta package depends on."""
        shown = shop.output("apt-cache", "show", f"{meta}={version}", env=self.env)
        match = re.search(r"^Depends:.*?\b(linux-image-\S+-arm64) \(=", shown, re.MULTILINE)
        if not match:
            raise BuildError(f"step '{shop.step}': {meta} {version} names no kernel package", OFFLINE)
        return match.group(1)

    def fetch(self, group: str) -> Artifact:
        """Return the unpacked packages of a group: each binary package, or source, unpacked below ``root``."""
        pins = [pin for pin in read_lock() if pin.group == group]
        inputs = {"layout": LAYOUT, "pins": [[p.suite, self._real_arch(p), p.name, p.version] for p in pins]}

        def build(shop: Workshop) -> None:
            self.prepare(shop)
            root = shop.out / "root"
            specs = []
            for pin in pins:
                version = self.choose(shop, pin)
                shop.versions[pin.name] = version
                if pin.arch == "source":
                    self._unpack_source(shop, pin.name, version, root)
                    continue
                name = pin.name
                if name == KERNEL_META:
                    name = self._kernel_package(shop, name, version)
                arch = "" if pin.arch == "all" else f":{self._real_arch(pin)}"
                specs.append(f"{name}{arch}={version}")
            for file in self._download(shop, specs) if specs else ():
                shop.run("dpkg", "-x", file, root)

        return self.store.make(f"fetch-{group}", f"fetch {_few([p.name for p in pins])}", inputs, build, code=False)

    def _unpack_source(self, shop: Workshop, name: str, version: str, root: Path) -> None:
        aside = self.store.downloads / f"{name}_{version.replace(':', '%3a')}"
        if not list(aside.glob("*.dsc")):
            fresh = shop.tmp / "source"
            fresh.mkdir()
            # apt checks every file against the signed package lists, so dpkg-source need not know the uploader's key
            shop.run(
                "apt-get",
                "-q",
                "source",
                "--download-only",
                f"{name}={version}",
                cwd=fresh,
                env=self.env,
                remedy=OFFLINE,
            )
            if aside.exists():
                shutil.rmtree(aside)
            fresh.rename(aside)
        dsc = next(aside.glob("*.dsc"))
        shop.run("dpkg-source", "--no-check", "-x", dsc, root)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more packages"

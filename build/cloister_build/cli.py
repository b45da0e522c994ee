# SPDX-License-Identifier: BSD-2-Clause
"""The command line of the firmware build."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence

from cloister.errors import CloisterError
from cloister_build import pipeline
from cloister_build.archive import read_lock
from cloister_build.paths import cache_dir, firmware_index, index_without_crypto
from cloister_build.process import disk_full, handle_interruption, is_disk_full
from cloister_build.report import Report
from cloister_build.store import Store

DESCRIPTION = """Build what the emulated device runs: OP-TEE OS, Trusted Firmware-A, U-Boot, Linux, a root file system,
and Cloister's own trusted application. Results are kept in the cache; nothing that did not change is built again."""
EPILOG = """examples:
  python -m cloister_build all         everything, as build/demo does
  python -m cloister_build firmware    the device without Cloister's own parts
  python -m cloister_build versions    what the last build used
  python -m cloister_build clean       remove the cache (never the keys)"""


def _firmware(report: Report) -> None:
    store = Store(cache_dir(), report)
    system = pipeline.build_firmware(store)
    entry = pipeline.index(system, None)
    pipeline.keep_application(entry)
    path = pipeline.write_index(entry)
    report.summary(f"firmware is ready: {path}")


def _all(report: Report) -> None:
    store = Store(cache_dir(), report)
    system = pipeline.build_firmware(store)
    application = pipeline.build_application(store, system)
    path = pipeline.write_index(pipeline.index(system, application))
    report.summary(f"firmware and trusted application are ready: {path}")


def _without_crypto(report: Report) -> None:
    store = Store(cache_dir(), report)
    system = pipeline.build_firmware(store, crypto=False)
    application = pipeline.build_application(store, system, crypto=False)
    path = pipeline.write_index(pipeline.index(system, application), index_without_crypto())
    report.summary(f"firmware without crypto instructions is ready: CLOISTER_FIRMWARE={path}")


def _clean(report: Report) -> None:
    root = cache_dir()
    if root.exists():
        with Store(root, report).lock():
            for name in ("artifacts", "work", "native", "downloads", "logs", "apt"):
                shutil.rmtree(root / name, ignore_errors=True)
    firmware_index().unlink(missing_ok=True)
    index_without_crypto().unlink(missing_ok=True)
    report.summary(f"removed the cache below {root}")


def _versions(report: Report) -> None:
    try:
        built = json.loads(firmware_index().read_text())["versions"]
    except (OSError, ValueError, KeyError):
        built = None
    if built is None:
        report.note("nothing is built yet: these are the versions that a build asks for")
        built = {pin.name: pin.version for pin in read_lock()}
    for name, version in sorted(built.items()):
        print(f"{name:<36} {version}")


def _path(_: Report) -> None:
    print(firmware_index())


COMMANDS: dict[str, tuple[Callable[[Report], None], str]] = {
    "firmware": (_firmware, "build the device's system"),
    "ta": (_all, "the same as all: the trusted application needs the system's dev kit"),
    "all": (_all, "build the system, the trusted application, the engine and the bridge"),
    "without-crypto": (_without_crypto, "the same as all for a CPU without crypto instructions, beside it"),
    "clean": (_clean, "remove everything that is cached; keys and devices stay"),
    "versions": (_versions, "list the versions that the last build used"),
    "path": (_path, "print where the firmware index lies"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cloister_build",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print only what is built and what goes wrong")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, description=text)
    chosen = parser.parse_args(arguments)
    report = Report(quiet=chosen.quiet)
    handle_interruption()
    try:
        COMMANDS[chosen.command][0](report)
    except CloisterError as err:
        report.error(str(err))
        return 1
    except OSError as err:
        report.error(str(disk_full(chosen.command, cache_dir())) if is_disk_full(err) else str(err))
        return 1
    except KeyboardInterrupt:
        report.error("interrupted; nothing half made was left, the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

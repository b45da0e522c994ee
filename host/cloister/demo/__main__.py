# SPDX-License-Identifier: BSD-2-Clause
"""``python -m cloister.demo``: a model is protected within a budget, runs on a device, and is tampered with.

The first run trains and counts for about two minutes; what it made is kept for later runs. Writes ``result.json``,
the bundle, its licence and the report of ``cloister protect``. Exit status 1 where an answer differs or something is
not refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from cloister.demo.kept import Kept, find, place
from cloister.demo.protecting import LOG, protect
from cloister.demo.running import Run, firmware_versions, host_versions
from cloister.demo.settings import DemoSettings
from cloister.demo.story import Story
from cloister.device import connect
from cloister.errors import CloisterError
from cloister.seal import VendorKey
from cloister.seal.files import write_aside

#: A log that is older says nothing of a failure.
RECENT_S = 60.0
#: Lines of it that are shown.
TAIL = 4


def protected(out: Path, settings: DemoSettings, story: Story, *, fresh: bool) -> tuple[Kept, bool]:
    """The protected model, and whether it was made now."""
    folder = place(out, settings)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    kept = find(folder)
    if kept is not None:
        story.say(f"kept from an earlier run, which took {kept.seconds:.0f} s ({folder}; --fresh trains anew)")
        return kept, False
    VendorKey.load_or_generate()
    story.say("this takes about two minutes on two idle cores; a later run keeps what it made")
    return protect(folder, settings, story.say), True


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; exit status 0 when everything held."""
    parser = argparse.ArgumentParser(
        prog="build/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target", default="qemu:demo", help="device: qemu:NAME or ssh://root@host (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="directory to write to (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="train and protect anew")
    chosen = parser.parse_args(arguments)
    story, settings, began = Story(Console(highlight=False)), DemoSettings(), time.monotonic()
    try:
        versions = host_versions() | (firmware_versions() if chosen.target.startswith("qemu") else {})
        story.begin(settings)
        story.step("Protect it: cloister protect, within that budget")
        kept, now = protected(chosen.out, settings, story, fresh=chosen.fresh)
        story.chosen(kept)
        run = Run(kept, chosen.out, story.say)
        run.result.trained_now, run.result.versions = now, versions
        story.step("Run it: the backbone in Linux, the CPM inside OP-TEE")
        story.say(f"starting {chosen.target}")
        started = time.monotonic()
        with connect(chosen.target) as device:
            run.answer(device)
            story.step("Tamper with it")
            run.tamper(device)
    except CloisterError as error:
        story.failed(str(error))
        log = place(chosen.out, settings) / LOG
        if log.exists() and time.time() - log.stat().st_mtime < RECENT_S:
            tail = log.read_text(errors="replace").splitlines()[-TAIL:]
            story.failed("\n".join([f"the end of {log}:", *(f"  | {line}" for line in tail)]))
        return 1
    except KeyboardInterrupt:
        story.failed("interrupted; the device was stopped. The same command goes on where it was")
        return 130
    done = time.monotonic()
    run.result.seconds = {
        "training": kept.seconds, "device": round(done - started, 1), "all": round(done - began, 1),
    }  # fmt: skip
    path = chosen.out / "result.json"
    write_aside(path, json.dumps(asdict(run.result), indent=2).encode() + b"\n")
    story.end(run.result, path)
    for failure in run.failures:
        story.failed(failure)
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: BSD-2-Clause
"""What the chosen strategy takes on the emulated device, counted by the benchmark of a checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cloister.errors import CloisterError
from cloister.estimate.pair import predict
from cloister.protect.automatic.costs import VICTIM_FILE
from cloister.protect.automatic.evaluator import protected_files
from cloister.protect.strategy import Strategy
from cloister.search.budget import size

#: What is counted, whatever the unit of predictions.
UNIT = "instructions"
#: Stem of the protected model's file where there is no backbone.
PROTECTED = "protected"


def check_measurable() -> None:
    """Refuse early.

    Raises:
        CloisterError: the benchmark is not here.
    """
    if find_spec("cloister_bench") is None:
        raise CloisterError(
            "measuring needs the benchmark, which is not here",
            "work in a checkout of Cloister with build/ and qemu/ on PYTHONPATH, after build/setup",
        )


def measured(folder: Path, place: Path, strategy: Strategy, victim: Path) -> dict[str, float]:
    """Instructions of one inference and the memory that USAGE tells, by the names that a prediction has.

    Everything stays resident: where the budget makes the TA swap partitions, that is not measured here.

    Args:
        folder: gets the files that are measured, and the benchmark's records.
        place: holds the strategy's files.
        strategy: trained in full.
        victim: the unprotected model as ONNX, of the strategy's precision.

    Raises:
        CloisterError: the benchmark is not here, or fails.
    """
    check_measurable()
    shutil.rmtree(folder, ignore_errors=True)
    models = folder / strategy.digest
    models.mkdir(parents=True)
    files = protected_files(place, strategy)
    pair = "backbone" in files
    shutil.copyfile(victim, models / VICTIM_FILE)
    for what, path in files.items():
        shutil.copyfile(path, models / (f"{what}.onnx" if pair else f"{PROTECTED}.onnx"))
    records = folder / "records.json"
    suite = ["--suite", "mirror", "--pairs"] if pair else ["--suite", "models", "--quick", "--models"]
    command = [sys.executable, "-m", "cloister_bench", *suite, str(models), "--without-onnxruntime",
               "--json", str(records)]  # fmt: skip
    done = subprocess.run(command, check=False, stdout=sys.stderr.fileno(), env=os.environ)
    if not records.exists():
        raise CloisterError(f"the benchmark ended with status {done.returncode}", f"try: {' '.join(command)}")
    found: dict[tuple[str, str, str], float] = {}
    for record in json.loads(records.read_text()):
        found[record["name"], record["where"], record["metric"]] = record["value"]
    try:
        return _of_pair(found, strategy.digest) if pair else _of_model(found)
    except KeyError as error:
        raise CloisterError(
            f"the benchmark did not measure {error}", f"see what it says: {' '.join(command)}"
        ) from error


def resident(place: Path, strategy: Strategy, victim: Path, memory: int | None) -> dict[str, Any] | None:
    """What is predicted with everything resident, as it is measured; None where the budget swaps nothing anyway.

    Args:
        place, strategy, victim: as for :func:`measured`.
        memory: of the budget, in bytes.
    """
    files = protected_files(place, strategy)
    found = predict(victim, files["model" if "model" in files else "cpm"], files.get("backbone"))
    return None if memory is None or found.secure_memory <= memory else found.as_json()


def told(report: Mapping[str, Any]) -> str:
    """What was measured of a report, in a line."""
    overhead, limit = report["measured"]["overhead"], report["budget"]["overhead"]
    line = f"{100 * overhead:.2f} % more {UNIT} on the emulated device"
    if report["resident"] is not None:
        return (
            f"{line} with everything resident, where {100 * report['resident']['overhead']:.2f} % were predicted; "
            f"within {size(report['budget']['memory'])} partitions are swapped, which was not measured"
        )
    if limit is not None and report["prediction"]["unit"] == UNIT and overhead > limit:
        line += f": MORE THAN THE BUDGET of {100 * limit:.4g} %; give a smaller one, and run it again"
    return line


def _of_pair(found: Mapping[tuple[str, str, str], float], name: str) -> dict[str, float]:
    total, victim = found[name, "", "pair"], found[name, "normal", "victim"]
    secure, boundary = found[name, "ta", "cpm"], found[name, "", "boundary"]
    return {
        "unprotected": victim,
        "normal_world": total - secure - boundary,  # the copies of what crosses are its own, as in a prediction
        "secure_world": secure,
        "boundary": boundary,
        "total": total,
        "overhead": total / victim - 1,
        "loaded": found[name, "", "peak"],
        "bytes_in": found[name, "", "taps"],
    }


def _of_model(found: Mapping[tuple[str, str, str], float]) -> dict[str, float]:
    victim = found[Path(VICTIM_FILE).stem, "normal", "instructions"]
    total = found[PROTECTED, "ta", "instructions"]
    return {
        "unprotected": victim,
        "normal_world": 0.0,
        "total": total,
        "overhead": total / victim - 1,
        "loaded": found[PROTECTED, "ta", "peak"],
    }

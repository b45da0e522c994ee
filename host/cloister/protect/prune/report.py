# SPDX-License-Identifier: BSD-2-Clause
"""What each step of a pruning costs on the device: memory, instructions; as JSON, a table and a plot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cloister.estimate.plan import plan_model
from cloister.protect.prune.choose import PLENTY
from cloister.protect.prune.plot import draw
from cloister.protect.prune.prune import MODEL_FILE, STATE_FILE, Pruned, within
from cloister.protect.training.data import Splits
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.evaluate import onnx_accuracy
from cloister.protect.training.export import export_onnx
from cloister.quantization import quantize_model

REPORT_FILE, TABLE_FILE, PLOT_FILE, INT8_FILE = "report.json", "report.md", "report.svg", "pruned_int8.onnx"
#: All that a run writes beside its checkpoints and the models of each step.
FILES = (MODEL_FILE, STATE_FILE, INT8_FILE, REPORT_FILE, TABLE_FILE, PLOT_FILE)
#: Training images from which the ranges of 8-bit tensors are measured.
CALIBRATION = 200

Row = dict[str, Any]


def costs(path: Path) -> Row:
    """What ``cloister plan`` tells of an ONNX file: multiply-accumulates, bytes of secure memory, instructions."""
    plan = plan_model(path, PLENTY)
    assert plan.instructions is not None
    return {
        "model_macs": plan.macs,
        "peak_memory": plan.loaded,
        "activations": plan.arena,
        "weights": plan.weights,
        "instructions": round(plan.instructions.total),
        "instructions_error": plan.instructions.error,
    }


def quantise(source: Path, splits: Splits, output: Path) -> Path:
    """``cloister quantize`` of an exported network, with ranges from training images."""
    part = splits.train.take(np.linspace(0, len(splits.train) - 1, CALIBRATION).astype(int).tolist())
    output.parent.mkdir(parents=True, exist_ok=True)
    quantize_model(str(source), splits.normalise(part.pixels.cpu()).numpy(), output)
    return output


def full_report(pruned: Pruned, splits: Splits, folder: Path, *, int8: bool = True, measure: bool = False) -> Row:
    """The report of a pruning, with a row for each step; written as JSON, table and plot beside the pruned model.

    Args:
        pruned: what ``prune_model`` made.
        splits: of the data it was pruned on.
        folder: gets ``report.json``, ``report.md``, ``report.svg``, ``pruned_int8.onnx`` where any channel was removed,
            and in ``models`` every network of the table as ONNX.
        int8: also tell of the unpruned and the pruned network in 8 bits.
        measure: count the instructions of every network on the emulated device, beside the estimate.

    Returns:
        ``pruned.report`` and ``rows``: step, precision, accuracies and costs. ``accepted`` is, of steps, whether
        pruning went on from there; of 8 bits, whether what was lost is within the budget.

    Raises:
        TrainingError: measuring failed.
    """
    models = folder / "models"
    rows: list[Row] = []
    for step in [*pruned.steps, *pruned.refused, pruned.final]:
        last = step is pruned.final and pruned.final.number > 0
        label = "pruned" if last else ("unpruned" if step.number == 0 else f"step {step.number}")
        label += " trained on" if step in pruned.refused else ""
        if any(row["step"] == label for row in rows):
            continue
        file = export_onnx(step.module, pruned.shape, models / f"{label.replace(' ', '-')}.onnx")
        figures = {"validation": step.validation, "lost": step.lost, "accepted": step.accepted}
        about = {"macs": step.macs, "parameters": step.parameters}
        if label in pruned.report["test"]:
            figures["test"] = pruned.report["test"][label]
        rows.append({"step": label, "precision": "fp32", "file": file.name, **figures, **about, **costs(file)})
        if int8 and label in ("unpruned", "pruned"):
            small = quantise(file, splits, models / f"{label}-int8.onnx")
            validation = onnx_accuracy(small, splits.validation, splits)
            lost = 100 * (pruned.steps[0].validation - validation)
            figures = {
                "validation": validation, "lost": lost, "accepted": within(lost, pruned.report["settings"]["budget"]),
                "test": onnx_accuracy(small, splits.test, splits),
            }  # fmt: skip
            rows.append({"step": label, "precision": "int8", "file": small.name, **figures, **about, **costs(small)})
            if label == "pruned":
                (folder / INT8_FILE).write_bytes(small.read_bytes())
    report = {**pruned.report, "rows": rows}
    _write(report, f"Pruning of a network for {splits.name}", folder)  # measuring takes long, and may fail
    if measure:
        for row, found in zip(rows, measured(models, [row["file"] for row in rows]), strict=True):
            row.update(found)
        _write(report, f"Pruning of a network for {splits.name}", folder)
    return report


def _write(report: Row, title: str, folder: Path) -> None:
    rows = report["rows"]
    for name, text in (
        (REPORT_FILE, json.dumps(report, indent=1) + "\n"),
        (TABLE_FILE, markdown(rows)),
        (PLOT_FILE, draw(title, rows)),
    ):
        aside = folder / (name + ".new")
        aside.write_text(text)
        aside.replace(folder / name)


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table."""
    measured_too = any("measured" in row for row in rows)
    heads = ["network", "precision", "validation", "points lost", "test", "multiply-accumulates", "of unpruned",
             "parameters", "peak secure memory", "instructions, estimated"]  # fmt: skip
    heads += ["measured in the TA"] if measured_too else []
    whole = rows[0]["macs"]
    table = []
    for row in rows:
        fault = "over the budget" if row["precision"] == "int8" else "refused"
        name = row["step"] if row["accepted"] else f"{row['step']} ({fault})"
        line = [
            name, row["precision"], f"{row['validation']:.2%}", f"{row['lost']:z.2f}",
            f"{row['test']:.2%}" if "test" in row else "", f"{row['macs']:,}", f"{row['macs'] / whole:.3f}",
            f"{row['parameters']:,}", f"{row['peak_memory'] / 1024:,.0f} KiB", f"{row['instructions']:,}",
        ]  # fmt: skip
        table.append([*line, *([f"{row['measured']:,.0f}" if "measured" in row else ""] if measured_too else [])])
    return heads, table


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    heads, table = cells(rows)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(line) + " |" for line in table)]) + "\n"


def check_bench() -> None:
    """Check that what measures is here.

    Raises:
        TrainingError: it is not.
    """
    if find_spec("cloister_bench") is None:
        raise TrainingError(
            "measuring needs the benchmark, which is not here",
            "prune from a checkout of Cloister with build/ and qemu/ on PYTHONPATH, after build/setup",
        )


def measured(models: Path, files: Sequence[str]) -> list[Row]:
    """Instructions and peak memory of ONNX files on the emulated device, as ``build/bench --suite models`` measures.

    Raises:
        TrainingError: the benchmark is not here, or it failed.
    """
    check_bench()
    output = models / "measured.json"
    command = [sys.executable, "-m", "cloister_bench", "--suite", "models", "--models", str(models),
               "--without-onnxruntime", "--json", str(output)]  # fmt: skip
    output.unlink(missing_ok=True)
    done = subprocess.run(command, check=False, stdout=sys.stderr.fileno(), env=os.environ)
    if not output.exists():
        raise TrainingError(f"the benchmark ended with status {done.returncode}", f"try: {' '.join(command)}")
    found: dict[str, dict[str, float]] = {}
    for record in json.loads(output.read_text()):
        if record["where"] == "ta":
            found.setdefault(record["name"], {})[record["metric"]] = record["value"]
    rows = []
    for file in files:
        figures = found.get(Path(file).stem, {})
        if "instructions" not in figures:
            raise TrainingError(f"{file} was not measured", f"see what it says: {' '.join(command)}")
        rows.append({"measured": figures["instructions"], "measured_peak": figures.get("peak")})
    return rows

# SPDX-License-Identifier: BSD-2-Clause
"""What the demo's protection left in its folder. Needs no torch, so that a second run begins at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from cloister.demo.settings import DemoSettings
from cloister.seal.files import write_aside

#: Written last, when all of the others are there.
MARK = "demo.json"
NEEDED = ("backbone.onnx", "cpm.onnx", "report.json", "report.html")

Array = npt.NDArray[Any]


def place(out: Path, settings: DemoSettings) -> Path:
    """The folder of what these settings make."""
    return out / f"protected-{settings.digest}"


@dataclass(frozen=True)
class Kept:
    """A protected model.

    Attributes:
        folder: as ``cloister.protect`` fills it.
        mean, std: that the model's images are normalised with.
        seconds: that training, search and measuring took; of an interrupted run, behind the interruption.
        report: ``report.json``.
    """

    folder: Path
    mean: float
    std: float
    seconds: float
    report: dict[str, Any]

    @property
    def page(self) -> Path:
        """The report to read."""
        return self.folder / "report.html"

    def normalised(self, images: Array) -> Array:
        """What the network takes: float32 (N, 1, 8, 8)."""
        return ((images - np.float32(self.mean)) / np.float32(self.std)).astype(np.float32)

    def expected(self, images: Array) -> tuple[Array, Array]:
        """Logits of pair and backbone by onnxruntime on this machine, each float32 (N, 10), for normalised images."""
        backbone, cpm = (_session(self.folder / name) for name in ("backbone.onnx", "cpm.onnx"))
        names, wanted = [output.name for output in backbone.get_outputs()], [info.name for info in cpm.get_inputs()]
        pair, own = [], []
        for image in images:
            known = {"image": image[None]}
            known.update(zip(names, backbone.run(names, known), strict=True))
            pair.append(cpm.run(None, {name: known[name] for name in wanted})[0])
            own.append(known["logits"])
        return np.concatenate(pair), np.concatenate(own)

    def save(self) -> None:
        """Say that all is there."""
        told = {"mean": self.mean, "std": self.std, "seconds": round(self.seconds, 1)}
        write_aside(self.folder / MARK, (json.dumps(told) + "\n").encode())


def find(folder: Path) -> Kept | None:
    """What an earlier run left there; None if it is not whole."""
    try:
        told = json.loads((folder / MARK).read_text())
        report = json.loads((folder / "report.json").read_text())
        if not all((folder / name).is_file() for name in NEEDED) or report["measured"] is None:
            return None
        return Kept(folder, float(told["mean"]), float(told["std"]), float(told["seconds"]), report)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

# SPDX-License-Identifier: BSD-2-Clause
"""``python -m cloister.demo``: a real model, answered inside a real TA, and four attempts that are refused.

Writes ``out/demo/result.json``; exit status 1 where an answer differs or an attempt is not refused.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from cloister.cli.common import human
from cloister.compile import compile_onnx
from cloister.demo.data import MODEL, digits
from cloister.demo.refusals import attempts, refused
from cloister.device import Device, connect
from cloister.errors import CloisterError
from cloister.seal import VendorKey, issue_licence, seal_bundle
from cloister.seal.ciphers import AUTO, choose
from cloister.seal.files import write_aside
from cloister.seal.keys import save_content_key
from cloister.teec.errors import TeecError

#: Small partitions, so that there is something to swap.
MAX_PARTITION = 96 << 10
#: Largest error of an output, relative to the range of all outputs.
TOLERANCE = 1e-4


@dataclass
class Result:
    """What ``result.json`` holds.

    ``label_agreement`` is the share (0 to 1) of images whose label from the TA is onnxruntime's; ``max_abs_error`` is
    over the full output; ``output_range`` is onnxruntime's largest minus smallest output.
    """

    optee_version: str = ""
    images: int = 0
    label_agreement: float = 0.0
    max_abs_error: float = float("inf")
    output_range: float = 0.0
    accuracy: float = 0.0
    secure_memory_peak: int = 0
    partitions: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def firmware_versions() -> dict[str, str]:
    """What the emulated device was built from, by name."""
    from cloister_qemu.firmware import load_firmware

    return {name: str(value) for name, value in load_firmware().versions.items()}


def host_versions() -> dict[str, str]:
    """Versions of what computed and compared."""
    packages = ("cloister", "onnx", "onnxruntime", "numpy", "cryptography", "cffi", "paramiko")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


class Demo:
    """The demo's steps on a device; ``result`` fills as they pass and ``failures`` names what went wrong."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.result = Result()
        self.failures: list[str] = []

    def say(self, text: str) -> None:
        """One line of progress."""
        self.console.print(f"  {text}")

    def run(self, device: Device) -> None:
        """All steps."""
        result = self.result
        _, _, images, truth = digits()
        result.images = len(images)
        vendor = VendorKey.load_or_generate()
        compiled = compile_onnx(MODEL, max_partition=MAX_PARTITION)
        record = device.record()
        cipher = choose(AUTO, [record.ciphers])
        bundle, content_key = seal_bundle(compiled, vendor, name="demo digits", cipher=cipher)
        save_content_key(bytes(bundle.header.content_key_id), content_key)
        result.partitions = len(bundle.partitions)
        self.say(
            f"compiled {MODEL.name}: {len(bundle.partitions)} sealed partitions, {human(len(bundle.payload))}, {cipher}"
        )

        result.optee_version = device.optee_version()
        device_key = record.public_key
        self.say(f"device is up: OP-TEE {result.optee_version}, its key {device_key.hex()[:16]}...")
        label_licence = issue_licence(bundle, content_key, device_key, vendor)
        full_licence = issue_licence(bundle, content_key, device_key, vendor, output="full")

        expected = self.reference(images)
        result.output_range = float(expected.max() - expected.min())
        with device.load(bundle, label_licence) as model:
            labels = model.run(images, progress=self.progress("labels")).labels
            result.secure_memory_peak = model.usage().peak_bytes
        with device.load(bundle, full_licence) as model:
            outputs = model.run(images, "full", progress=self.progress("full outputs")).outputs
        assert outputs is not None
        result.label_agreement = float(np.mean(labels == expected.argmax(1)))
        result.accuracy = float(np.mean(labels == truth))
        result.max_abs_error = float(np.abs(next(iter(outputs.values())) - expected).max())
        if result.label_agreement != 1.0:
            self.failures.append(f"{np.sum(labels != expected.argmax(1))} labels differ from onnxruntime's")
        if not result.max_abs_error <= TOLERANCE * result.output_range:
            self.failures.append(f"largest error {result.max_abs_error:.3g} of range {result.output_range:.3g}")

        for attempt in attempts(compiled, bundle, content_key, label_licence, device_key, vendor):
            name, code = refused(device, attempt, images[:1], TeecError)
            result.refused[attempt.name] = name
            if code != attempt.expected:
                self.failures.append(f"{attempt.name}: {name} (0x{code:08x}) instead of 0x{attempt.expected:08x}")

    def reference(self, images: Any) -> Any:
        """onnxruntime's outputs on the host, float32 (n, 10)."""
        session = ort.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])

    def progress(self, what: str) -> Any:
        """A callback that shows how far the TA is; a line at the end where no terminal is."""
        started = time.monotonic()

        def show(done: int, total: int) -> None:
            if self.console.is_terminal and done < total:
                self.console.print(f"  {what}: {done} of {total} images", end="\r")
            elif done == total:
                self.say(f"{what}: {total} images inside the TA in {time.monotonic() - started:.1f} s (emulated)")

        return show

    def table(self) -> Table:
        """What was found, to read."""
        result = self.result
        table = Table(title="Cloister demo", title_justify="left", show_header=False)
        table.add_row("OP-TEE", result.optee_version)
        table.add_row("images answered in the TA", str(result.images))
        table.add_row("labels equal to onnxruntime's", f"{result.label_agreement:.2%}")
        table.add_row("accuracy", f"{result.accuracy:.2%}")
        table.add_row("largest error of an output", f"{result.max_abs_error:.2e} (range {result.output_range:.3g})")
        table.add_row("secure memory at most", human(result.secure_memory_peak))
        for name, error in result.refused.items():
            table.add_row(name, f"refused: {error}")
        return table


def main() -> int:
    """Run the demo; exit status 0 when everything held."""
    parser = argparse.ArgumentParser(
        prog="build/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target", default="qemu:demo", help="device: qemu:NAME or ssh://root@host (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="directory of result.json")
    arguments = parser.parse_args()
    console = Console()
    demo = Demo(console)
    demo.result.versions = host_versions()
    try:
        if arguments.target.startswith("qemu"):
            demo.result.versions |= firmware_versions()
        with connect(arguments.target) as device:
            demo.run(device)
    except CloisterError as error:
        console.print(f"[red]demo: {error}[/red]")
        return 1
    except KeyboardInterrupt:
        console.print("demo: interrupted; the device was stopped")
        return 130
    path = arguments.out / "result.json"
    write_aside(path, json.dumps(asdict(demo.result), indent=2).encode() + b"\n")
    console.print(demo.table())
    for failure in demo.failures:
        console.print(f"[red]failed: {failure}[/red]")
    console.print(f"written: {path}")
    return 1 if demo.failures else 0


if __name__ == "__main__":
    sys.exit(main())

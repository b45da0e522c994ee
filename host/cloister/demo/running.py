# SPDX-License-Identifier: BSD-2-Clause
"""The demo's second half: the protected model on a device, and what the device refuses."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import cloister
from cloister.cli.common import human
from cloister.demo.data import digits
from cloister.demo.kept import Kept
from cloister.demo.refusals import attempts, refused
from cloister.device import Device
from cloister.seal import VendorKey
from cloister.seal.keys import load_content_key

#: Bytes of a plain partition: small, so that even the smallest CPM has two that can be swapped.
MAX_PARTITION = 1 << 10
#: Least share of labels that are onnxruntime's, and largest error of an output relative to the range of all outputs. In
#: 8 bits onnxruntime's own kernels differ by a step from one processor to the next.
TOLERANCE = {"fp32": (1.0, 1e-4), "int8": (0.99, 0.02)}
#: Seconds between two lines of progress.
PATIENCE_S = 10.0
BUNDLE_FILE, LICENCE_FILE = "digits.clb", "digits.lic"

Say = Callable[[str], None]


@dataclass
class Result:
    """What ``result.json`` holds.

    Attributes:
        accuracy, victim_accuracy, backbone_accuracy: of the pair on the device, of the unprotected model, and of the
            backbone's own answers: shares of the test images, 0 to 1.
        gap: points between pair and backbone.
        label_agreement: share of the images whose label from the TA is onnxruntime's.
        max_abs_error: over the full output; ``output_range`` is onnxruntime's largest minus smallest output.
        secure_memory_peak: bytes that the pair took, beside the TA; ``secure_memory_session``: with it, as predicted.
        attack: accuracies of one who fine-tunes with so many labelled ``images`` for ``steps`` steps: on what is
            exposed (``backbone``), from scratch (``scratch``), on the unprotected model (``white_box``).
        instructions: of one inference, counted on QEMU; ``overhead`` is a share of ``unprotected``.
        predicted_overhead: what the emulator had said.
        refused: the error that each attempt was answered with.
        trained_now: or kept from an earlier run.
        seconds: ``training`` is what search, training and measuring took when they were done, ``device`` this run's.
    """

    optee_version: str = ""
    images: int = 0
    strategy: str = ""
    accuracy: float = 0.0
    victim_accuracy: float = 0.0
    backbone_accuracy: float = 0.0
    gap: float = 0.0
    label_agreement: float = 0.0
    max_abs_error: float = float("inf")
    output_range: float = 0.0
    secure_memory_peak: int = 0
    secure_memory_session: int = 0
    partitions: int = 0
    attack: dict[str, float] = field(default_factory=dict)
    instructions: dict[str, float] = field(default_factory=dict)
    predicted_overhead: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    report: str = ""
    trained_now: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def firmware_versions() -> dict[str, str]:
    """What the emulated device was built from, by name."""
    from cloister_qemu.firmware import load_firmware

    return {name: str(value) for name, value in load_firmware().versions.items()}


def host_versions() -> dict[str, str]:
    """Versions of what trained, computed and compared, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in ("cloister", "onnx", "onnxruntime", "numpy", "cryptography", "cffi", "paramiko", "torch", "optuna"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Run:
    """The steps on a device; ``result`` fills as they pass and ``failures`` names what went wrong.

    Args:
        kept: the protected model.
        out: directory that gets bundle and licence.
        say: told a line of progress.
    """

    def __init__(self, kept: Kept, out: Path, say: Say) -> None:
        self.kept, self.out, self.say = kept, out, say
        self.result = Result(report=str(kept.page), strategy=kept.report["chosen"]["summary"])
        self.failures: list[str] = []
        _, _, images, self._truth = digits()
        self._images = kept.normalised(images)
        self._from_report()

    def _from_report(self) -> None:
        report, result = self.kept.report, self.result
        result.victim_accuracy = report["accuracy"]["victim"]
        result.instructions = dict(report["measured"])
        result.predicted_overhead = report["prediction"]["overhead"]
        result.secure_memory_session = round(report["prediction"]["secure_memory"])
        about = report["attacks"]["about"]
        bounds = {about["black_box"]: "scratch", about["white_box"]: "white_box"}
        for record in report["attacks"]["records"]:
            if record["attack"].partition(",")[0] == "finetune":
                result.attack[bounds.get(record["target"], "backbone")] = record["accuracy"]
        share = about["effort"]["shares"][0]
        result.attack |= {"images": round(share * about["training_images"]), "steps": about["effort"]["steps"]}

    def answer(self, device: Device) -> None:
        """Compile, license, and ask for all test images."""
        result, kept = self.result, self.kept
        vendor = VendorKey.load_or_generate()
        record = device.record()
        bundle = cloister.compile(
            kept.folder / "cpm.onnx", backbone=kept.folder / "backbone.onnx", name="demo digits", devices=[record],
            max_partition=MAX_PARTITION,
        )  # fmt: skip
        bundle.save(self.out / BUNDLE_FILE)
        result.partitions = len(bundle.partitions)
        result.optee_version = device.optee_version()
        self.say(f"up: OP-TEE {result.optee_version}; its TA's public key begins with {record.public_key.hex()[:12]}")
        self.say(
            f"compiled {self.out / BUNDLE_FILE}: the CPM in {len(bundle.partitions)} sealed partitions "
            f"({human(len(bundle.payload))}), the backbone in clear ({human(len(bundle.section))})"
        )
        licence = cloister.licence(bundle, record.public_key)
        licence.save(self.out / LICENCE_FILE)
        self.say(f"licensed to this device alone, labels only: {self.out / LICENCE_FILE}")

        expected, exposed = kept.expected(self._images)
        with device.load(bundle, licence) as model:
            labels = model.run(self._images, progress=self._progress("labels")).labels
            result.secure_memory_peak = model.usage().peak_bytes
        full = cloister.licence(bundle, record.public_key, output="full")
        with device.load(bundle, full) as model:
            answers = model.run(self._images, "full", progress=self._progress("all outputs, to compare")).outputs
        assert answers is not None
        self._compare(labels, next(iter(answers.values())), expected, exposed)

        key = load_content_key(bytes(bundle.header.content_key_id))
        other = cloister.compile(
            kept.folder / "cpm.onnx", backbone=kept.folder / "backbone.onnx", name="another model", devices=[record],
            max_partition=MAX_PARTITION,
        )  # fmt: skip
        self._attempts = attempts(bundle, other, key, licence, record.public_key, vendor)

    def _compare(self, labels: Any, outputs: Any, expected: Any, exposed: Any) -> None:
        result = self.result
        result.images = len(labels)
        result.accuracy = float(np.mean(labels == self._truth))
        result.backbone_accuracy = float(np.mean(exposed.argmax(1) == self._truth))
        result.gap = 100 * (result.accuracy - result.backbone_accuracy)
        result.label_agreement = float(np.mean(labels == expected.argmax(1)))
        result.output_range = float(expected.max() - expected.min())
        result.max_abs_error = float(np.abs(outputs - expected).max())
        least, most = TOLERANCE[self.kept.report["chosen"]["strategy"]["precision"]]
        if result.label_agreement < least:
            self.failures.append(f"{np.sum(labels != expected.argmax(1))} labels differ from onnxruntime's")
        if not result.max_abs_error <= most * result.output_range:
            self.failures.append(f"largest error {result.max_abs_error:.3g} of range {result.output_range:.3g}")

    def tamper(self, device: Device) -> None:
        """Try what must be refused."""
        for attempt in self._attempts:
            name, right = refused(device, attempt, self._images[:1])
            self.result.refused[attempt.name] = name
            self.say(f"{attempt.name + ':':<38}{'refused, ' if name != 'not refused' else ''}{name}")
            if not right:
                self.failures.append(f"{attempt.name}: {name} instead of what it should be refused with")

    def _progress(self, what: str) -> Any:
        started = last = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if done == total:
                self.say(f"{what}: {total} images in {now - started:.1f} s (emulated)")
            elif now - last > PATIENCE_S:
                last = now
                self.say(f"  {what}: {done} of {total} images")

        return show

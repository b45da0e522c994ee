# SPDX-License-Identifier: BSD-2-Clause
"""The demo's half on the device, with a pair of random weights in place of the trained one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pair_models import IMAGE, backbone, cpm, floats

from cloister.demo import running
from cloister.demo.kept import Kept
from cloister.demo.running import Run
from cloister.device import Device
from cloister.protect.strategy import Strategy

COUNT = 12
STRATEGY = Strategy(taps=("0", "1"))


def attacked(target: str, accuracy: float) -> dict[str, Any]:
    return {"target": target, "attack": "finetune", "budget": "10 % of the data", "accuracy": accuracy}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    onnx.save(backbone(), tmp_path / "backbone.onnx")
    onnx.save(cpm(), tmp_path / "cpm.onnx")
    report = {
        "chosen": {"summary": str(STRATEGY), "strategy": json.loads(STRATEGY.to_json())},
        "accuracy": {"victim": 0.5},
        "measured": {"unprotected": 10.0, "total": 11.0, "overhead": 0.1, "boundary": 1.0},
        "prediction": {"overhead": 0.11, "secure_memory": 1000},
        "attacks": {
            "about": {
                "black_box": "nothing",
                "white_box": "all",
                "effort": {"shares": [0.1], "steps": 7},
                "training_images": 1146,
            },
            "records": [attacked("nothing", 0.3), attacked("all", 0.5), attacked("protected", 0.4)],
        },
    }
    return Kept(tmp_path, 0.0, 1.0, 1.0, report)


def test_the_pair_answers_on_the_device_and_tampering_is_refused(
    device: Device, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, truth = floats(COUNT, *IMAGE[1:], seed=6), np.arange(COUNT, dtype=np.int64) % 10
    monkeypatch.setattr(running, "digits", lambda: (images, truth, images, truth))
    said: list[str] = []
    run = Run(kept, tmp_path, said.append)
    run.answer(device)
    run.tamper(device)
    found, (expected, exposed) = run.result, kept.expected(images)
    assert run.failures == []
    assert found.images == COUNT and found.label_agreement == 1.0 and found.partitions >= 2
    assert found.accuracy == np.mean(expected.argmax(1) == truth)
    assert found.backbone_accuracy == np.mean(exposed.argmax(1) == truth)
    assert found.gap == pytest.approx(100 * (found.accuracy - found.backbone_accuracy))
    assert 0 < found.secure_memory_peak < 1 << 20
    assert found.attack == {"scratch": 0.3, "white_box": 0.5, "backbone": 0.4, "images": 115, "steps": 7}
    assert found.refused == {
        "flipped bit in a partition": "MAC_INVALID",
        "swapped partitions": "WRONG_PARTITION",
        "manifest of another model": "WRONG_MODEL",
        "licence for another device": "WRONG_DEVICE",
        "changed backbone": "BackboneError",
        "changed backbone, its digest forged": "SIGNATURE_INVALID",
    }
    json.dumps(asdict(found))
    assert (tmp_path / "digits.clb").exists() and (tmp_path / "digits.lic").exists()


def test_answers_of_another_model_are_told(
    device: Device, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, truth = floats(COUNT, *IMAGE[1:], seed=6), np.zeros(COUNT, np.int64)
    monkeypatch.setattr(running, "digits", lambda: (images, truth, images, truth))
    run = Run(kept, tmp_path, lambda _: None)
    pair, own = kept.expected(images)
    monkeypatch.setattr(Kept, "expected", lambda *_: (pair + 1.0, own))
    run.answer(device)
    assert len(run.failures) == 1 and run.failures[0].startswith("largest error 1")

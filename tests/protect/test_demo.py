# SPDX-License-Identifier: BSD-2-Clause
"""The demo's half that trains, with far less training than the demo's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloister.attack.attacker import METHOD
from cloister.demo.data import digits
from cloister.demo.kept import find
from cloister.demo.protecting import LOG, protect, protect_settings
from cloister.demo.settings import DemoSettings
from cloister.seal import VendorKey

TINY = DemoSettings(
    victim_epochs=2, budget_accuracy="90", estimates=4, proxies=2, epochs=2, final=1, batch=192, attack_steps=8
)


def test_a_pair_is_made_of_a_model_that_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_KEYS", str(tmp_path / "keys"))
    VendorKey.load_or_generate()
    said: list[str] = []
    folder = tmp_path / "protected"
    kept = protect(folder, TINY, said.append, measure=False)
    assert kept.page.exists() and (folder / "pair.clb").exists() and (folder / LOG).stat().st_size
    assert sum(line.startswith("trained briefly") for line in said) == 2
    assert sum(line.startswith("trained in full") for line in said) == 1
    assert find(folder) is None, "it was not measured"
    _, _, images, truth = digits()
    pair, own = kept.expected(kept.normalised(images))
    assert np.mean(pair.argmax(1) == truth) == pytest.approx(kept.report["accuracy"]["protected"], abs=0.02)
    assert np.mean(own.argmax(1) == truth) == pytest.approx(kept.report["accuracy"]["exposed_alone"], abs=0.02)


def test_only_pairs_with_a_backbone_are_searched() -> None:
    settings = protect_settings(DemoSettings())
    assert settings.forms == ("tampered",) and settings.search.trainings == 1
    assert settings.full.effort.steps == DemoSettings().attack_steps
    assert protect_settings(replace(DemoSettings(), seed=1)).digest != settings.digest


def test_what_was_kept_of_other_attacks_is_not_taken() -> None:
    assert DemoSettings().attackers == METHOD
    assert DemoSettings(attackers="others").digest != DemoSettings().digest

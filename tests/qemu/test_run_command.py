# SPDX-License-Identifier: BSD-2-Clause
"""`cloister run` on the device: answers, and refusals that name the files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import cloister
from cloister.cli.main import main
from cloister.demo.data import MODEL
from cloister.device import Device
from cloister.seal.keys import VendorKey, default_key_dir


@pytest.fixture
def run(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command on the tests' device; its exit status."""
    VendorKey.load_or_generate(default_key_dir())
    monkeypatch.setattr("cloister.device.connect", lambda _: nullcontext(device))
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((2, 1, 8, 8), np.float32))
    for name in ("mine", "other"):
        bundle = cloister.compile(MODEL, name=name)
        bundle.save(f"{name}.clb")
        cloister.licence(bundle, device.public_key()).save(f"{name}.lic")
    stranger = X25519PrivateKey.generate().public_key().public_bytes_raw()
    cloister.licence(cloister.compile(MODEL, name="mine"), stranger).save("stranger.lic")

    def called(*arguments: str) -> int:
        try:
            main(["run", *arguments])
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    return called


def test_answers_are_printed_and_saved(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mine.clb", "mine.lic", "x.npy", "--save", "answers.npz") == 0
    told = capsys.readouterr()
    labels = np.load("answers.npz")["labels"]
    assert told.out.splitlines() == [f"{index}: {label}" for index, label in enumerate(labels)] and len(labels) == 2
    assert "secure memory at most" in told.err and "answers.npz" in told.err


@pytest.mark.parametrize(("licence", "code"), [("other.lic", "WRONG_MODEL"), ("stranger.lic", "WRONG_DEVICE")])
def test_refusals_name_bundle_and_licence(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], licence: str, code: str
) -> None:
    assert run("mine.clb", licence, "x.npy") == 1
    told = capsys.readouterr().err
    assert f"the device refuses mine.clb with {licence}: " in told and code in told and "issue a licence for" in told

# SPDX-License-Identifier: BSD-2-Clause
"""docs/protecting.md from its first command to its last, as it is written, on an emulated device of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloister.demo.data import digits
from cloister_build.paths import REPO

GUIDE = REPO / "docs" / "protecting.md"
#: The guide's device, and the test's, which may run beside it.
THEIRS, OURS = "protect", "guide-test"
#: Trains, prunes and locks a small network, and boots.
pytestmark = pytest.mark.timeout(1500)


def blocks() -> list[tuple[str, str]]:
    """Language and text of each, in order."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path, text: str) -> str:
    paths = [os.environ.get("PYTHONPATH", ""), str(folder)]
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(filter(None, paths)), "CLOISTER_TARGET": f"qemu:{OURS}",
    }  # fmt: skip
    done = subprocess.run(
        command, input=text, cwd=folder, env=environment, text=True, check=False, capture_output=True
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What all commands printed."""
    folder = tmp_path_factory.mktemp("guide")
    x, y, x_test, y_test = digits()
    for part, images, labels in (("train", x, y), ("test", x_test, y_test)):  # a reader's own pictures
        for number, (image, label) in enumerate(zip(images[:320], labels[:320], strict=True)):
            path = folder / "images" / part / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image[0] * 255).astype(np.uint8)).save(path)
    printed = ""
    started = False
    try:
        for number, (language, written) in enumerate(blocks()):
            text = re.sub(rf"(qemu:|--name ){THEIRS}\b", rf"\g<1>{OURS}", written)
            if number == 0:
                assert text.splitlines()[-1] == "mkdir -p out/protect && cd out/protect", "where the reader works"
            elif language == "sh":
                started = started or "device start" in text
                printed += run(["bash", "-e"], folder, text)
            elif "def network()" in text:
                (folder / "my_models.py").write_text(text)
            else:
                if "cloister.connect" in text:  # the guide stopped it before
                    run(["bash", "-e"], folder, f"cloister device start --name {OURS}")
                printed += run([sys.executable, "-"], folder, text)
    finally:
        if started:
            run(["bash"], folder, f"cloister device stop --name {OURS} || true")
    assert np.load(folder / "my-samples.npy").shape[1:] == (1, 32, 32)
    return printed


def share(said: str, pattern: str) -> float:
    found = re.search(pattern, said)
    assert found is not None, said
    return float(found[1].rstrip("%")) / (100 if "%" in found[1] else 1)


def test_the_owner_is_answered_and_nobody_else(said: str) -> None:
    assert share(said, r"with password\s+([\d.]+%)") > 0.93
    assert share(said, r"owner\.lic: ([\d.]+%) of 450 images") > 0.93
    assert share(said, r"none\.lic: ([\d.]+%) of 450 images") < 0.25
    assert share(said, r"\n(0\.\d+)\n") > 0.93, "in 8 bits"

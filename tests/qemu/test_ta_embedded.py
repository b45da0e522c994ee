# SPDX-License-Identifier: BSD-2-Clause
"""A model that is linked into the TA: built with the dev kit, installed, run, and the device put back as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ta_driver import BAD_FORMAT, MAC_INVALID, SAMPLE_INPUT, Sample, Ta

from cloister.compile.emit_c import write_embedded
from cloister.device import Device
from cloister.device.ta import CLOISTER_TA
from cloister.seal import VendorKey
from cloister.wire import C
from cloister_qemu.paths import firmware_file

ROOT = Path(__file__).parents[2]
INSTALLED = f"/lib/optee_armtz/{CLOISTER_TA}.ta"


def build(sample: Sample, work: Path, payload: bytes) -> Path:
    index = json.loads(firmware_file().read_text())
    write_embedded(work / "embed", sample.bundle.manifest, payload)
    settings = {
        "CROSS_COMPILE": "aarch64-linux-gnu-",
        "TA_DEV_KIT_DIR": index["ta_dev_kit"],
        "TA_SIGN_KEY": index["ta_sign_key"],
        "CLOISTER_VENDOR_KEY": sample.vendor.public.hex(),
        "CLOISTER_EMBED": work / "embed",
        "O": work / "out",
    }
    done = subprocess.run(
        ["make", "-C", str(ROOT / "ta"), *(f"{name}={value}" for name, value in settings.items())],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return work / "out" / f"{CLOISTER_TA}.ta"


@pytest.fixture(scope="module")
def sample(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    made = Sample.make(VendorKey.load(), device.public_key())
    # One bit wrong in the last partition's tag: what is linked in is checked like what is sent.
    payload = bytearray(made.bundle.payload)
    offset, size, _ = made.bundle.partitions[-1]
    payload[offset + size - 1] ^= 1
    original = device.download(INSTALLED)
    try:
        device.install_ta(build(made, tmp_path_factory.mktemp("embedded"), bytes(payload)))
        yield made
    finally:
        device.upload(original, INSTALLED)


def test_embedded_model(device: Device, sample: Sample) -> None:
    count = len(sample.bundle.partitions)
    with Ta(device) as ta:
        assert device.info()["ta"]["embedded"]
        params = ta.load_params(b"", sample.licence())
        assert ta.code(C.CL_CMD_LOAD, *params) == 0
        # The damaged partition is refused where it is linked in, and accepted when sent whole.
        assert ta.run_code(b"") == MAC_INVALID
        assert ta.run(sample.bundle.payload) == (SAMPLE_INPUT, 1), "the others stayed resident"
        assert ta.run(b"") == (SAMPLE_INPUT, 0)
        assert ta.begin().a == count, "nothing is wanted from the caller"
        answer, _ = ta.invoke(C.CL_CMD_FINISH, *ta.finish_params())
        assert bytes(answer) == SAMPLE_INPUT


def test_another_bundle_in_the_same_ta(device: Device, sample: Sample) -> None:
    other = Sample.make(sample.vendor, sample.device_key)
    with Ta(device) as ta:
        ta.works(other)
        assert ta.load_code(b"", other.licence()) == C.CL_ERROR_WRONG_MODEL
        assert ta.load_code(b"x", sample.licence()) == BAD_FORMAT
        assert ta.state() == C.CL_STATE_OPEN

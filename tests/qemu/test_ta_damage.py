# SPDX-License-Identifier: BSD-2-Clause
"""Secure storage whose file was damaged: refused with a code, while the session lives on, and the device is a new one.

On a device of its own, because the damage costs its identity.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from ta_driver import SUCCESS, Sample, Ta

from cloister.device import Device
from cloister.seal import VendorKey
from cloister.wire import C

CORRUPT_OBJECT = 0xF0100001

#: In OP-TEE's files (core/tee/tee_ree_fs.c, get_offs_size): where the two versions of the second data block lie.
BLOCK = 4096
SECOND_BLOCK = 4
#: More records than the first block holds, each 40 bytes.
RECORDS = BLOCK // 40 + 1


@pytest.fixture(scope="module")
def doomed() -> Iterator[Device]:
    from cloister.device.qemu import start_device
    from cloister_qemu.files import InstanceFiles

    name = f"pytest-damage-{os.getpid()}"
    try:
        with start_device(name) as emulated:
            yield emulated
    finally:
        shutil.rmtree(InstanceFiles(name).directory, ignore_errors=True)


def damage_second_block(device: Device) -> None:
    """Overwrite what OP-TEE does not read when it opens the object, but when the records are looked through."""
    path = device.run("ls -S /var/lib/tee/* | grep -v dirf.db | head -n 1").text.strip()
    size = int(device.run(f"stat -c %s {path}").text)
    assert size > SECOND_BLOCK * BLOCK, f"{path} has one block only: {size} bytes"
    device.run(f"dd if=/dev/zero of={path} bs={BLOCK} seek={SECOND_BLOCK} count=2 conv=notrunc && sync")


def test_records_that_were_damaged(doomed: Device) -> None:
    """OP-TEE closes the object when it finds it damaged; closing it again would panic the TA."""
    vendor, key = VendorKey.load(), doomed.public_key()
    with Ta(doomed) as ta:
        for _ in range(RECORDS):
            ta.load(Sample.make(vendor, key, [64]))
        unknown = Sample.make(vendor, key, [64])
        damage_second_block(doomed)
        assert ta.load_code(unknown.bundle.manifest, unknown.licence()) == CORRUPT_OBJECT
        assert ta.state() == C.CL_STATE_OPEN, "the session lives on"
        assert ta.load_code(unknown.bundle.manifest, unknown.licence()) == C.CL_ERROR_WRONG_DEVICE
    assert doomed.public_key() != key, "the counters went with the identity"
    again = Sample.make(vendor, doomed.public_key(), [64])
    with Ta(doomed) as ta:
        assert ta.load_code(again.bundle.manifest, again.licence(queries=5)) == SUCCESS
        assert ta.run_code(again.bundle.payload) == SUCCESS

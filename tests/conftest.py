# SPDX-License-Identifier: BSD-2-Clause
"""The device that all tests of a run share: one emulator, booted once, or any other target.

CLOISTER_TARGET names another one (`ssh://root@board`, or `qemu:NAME` of a daemon), which the tests
leave as it was: running, with its own key and storage.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from cloister.device import Device, connect

# What a shell script starts in the background ignores SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def device() -> Iterator[Device]:
    """A device with OP-TEE, the Cloister TA and OP-TEE's own; a panic of a world fails the test that runs."""
    target = os.environ.get("CLOISTER_TARGET")
    if target:
        with connect(target, quiet=True) as board:
            yield board
        return
    from cloister.device.qemu import start_device
    from cloister_qemu.files import InstanceFiles

    name = f"pytest-{os.getpid()}"
    try:
        with start_device(name) as emulated:
            yield emulated
    finally:
        shutil.rmtree(InstanceFiles(name).directory, ignore_errors=True)


@pytest.fixture(autouse=True)
def both_worlds_live(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test during which a world panicked, and not one that comes after it."""
    yield
    if "device" in request.fixturenames:
        request.getfixturevalue("device").check()

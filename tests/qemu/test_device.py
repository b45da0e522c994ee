# SPDX-License-Identifier: BSD-2-Clause
"""What every device can do, whatever it is: commands, files, applications, errors. Runs on boards as well."""

from __future__ import annotations

import hashlib
import os
import threading
import time

import pytest

from cloister.device import Device
from cloister.device.errors import AgentError, CommandFailed, CommandTimeout
from cloister.teec import BadParameters, ItemNotFound, TargetDead, TempMemory, Value

CRYPT = "cb3e5ba0-adf1-11e0-998b-0002a5d5c51b"  # of xtest
OS_TEST = "5b9e0e40-2636-11e1-ad9e-0002a5d5c51b"
SHA256 = 2  # TA_CRYPT_CMD_SHA256
PANIC = 6  # TA_OS_TEST_CMD_PANIC


def test_command_gives_output_errors_and_status(device: Device) -> None:
    done = device.run("echo out; echo err >&2; exit 3", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    with pytest.raises(CommandFailed, match="ended with status 3") as caught:
        device.run("echo why >&2; exit 3")
    assert "why" in str(caught.value)


def test_command_reads_its_input_and_streams_its_output(device: Device) -> None:
    data = os.urandom(300_000)
    pieces: list[bytes] = []
    done = device.run("cat", stdin=data, on_output=pieces.append)
    assert done.stdout == data == b"".join(pieces)
    assert len(pieces) > 1


def test_command_that_does_not_read_its_input_does_not_hang(device: Device) -> None:
    assert device.run("true", stdin=bytes(1 << 20), timeout=30).returncode == 0


def test_command_that_takes_too_long_is_given_up(device: Device) -> None:
    begin = time.monotonic()
    with pytest.raises(CommandTimeout):
        device.run("sleep 60", timeout=1.0)
    assert time.monotonic() - begin < 10


def test_files_go_up_and_come_down_whole(device: Device) -> None:
    data = os.urandom(100_001)
    device.upload(data, "/tmp/up load/it's here")
    assert device.download("/tmp/up load/it's here") == data
    assert device.run("ls -A '/tmp/up load'").text == "it's here"
    with pytest.raises(CommandFailed, match="nothing"):
        device.download("/tmp/nothing")


def test_placed_bytes_can_be_read_there(device: Device) -> None:
    data = os.urandom(70_000)
    path = device.place(data)
    if path is not None:
        assert device.run(f"sha256sum {path}").text.split()[0] == hashlib.sha256(data).hexdigest()


def test_another_application_is_driven_from_the_host(device: Device) -> None:
    with device.open_ta(CRYPT) as ta:
        _, digest = ta.invoke(SHA256, TempMemory(b"abc"), TempMemory(32, "out"))
        assert digest == hashlib.sha256(b"abc").digest()
        with pytest.raises(BadParameters) as caught:
            ta.invoke(SHA256, Value(1, 2))
    assert (caught.value.code, caught.value.origin.name) == (0xFFFF0006, "TRUSTED_APP")


def test_unknown_application_is_named(device: Device) -> None:
    with pytest.raises(ItemNotFound, match="00000000-0000-0000-0000-00000000c0de"):
        device.open_ta("00000000-0000-0000-0000-00000000c0de")


def test_agent_that_dies_is_told_of_and_replaced(device: Device) -> None:
    agent = device.agent
    pid = agent.about["pid"]
    device.run(f"kill -9 {pid}")
    with pytest.raises(AgentError, match="failed at 'hello'"):
        agent.call("hello")
    assert device.agent.about["pid"] != pid


def test_calls_from_several_threads_do_not_mix(device: Device) -> None:
    agent = device.agent
    failures: list[BaseException] = []

    def digest(number: int) -> None:
        try:
            data = bytes([number]) * (1000 + number)
            with device.open_ta(CRYPT) as ta:
                assert ta.invoke(SHA256, TempMemory(data), TempMemory(32, "out"))[1] == hashlib.sha256(data).digest()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=digest, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert device.agent is agent


def test_panic_of_an_application_is_expected_only_inside_the_block(device: Device) -> None:
    with device.expect_ta_panic() as lines, device.open_ta(OS_TEST) as ta, pytest.raises(TargetDead):
        ta.invoke(PANIC)
    if device.target.startswith("qemu"):
        assert any("panicked" in line or "Status of TA" in line for line in lines), lines
    device.check()


def test_device_key_is_the_same_each_time(device: Device) -> None:
    key = device.public_key()
    assert len(key) == 32 and key != bytes(32)
    assert device.public_key() == key


def test_info_says_what_the_device_is(device: Device) -> None:
    info = device.info()
    assert info["machine"] == "aarch64"
    assert info["optee"].startswith("4.")
    assert info["ta"]["interface_version"] == 3

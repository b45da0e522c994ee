# SPDX-License-Identifier: BSD-2-Clause
"""The launcher with the real QEMU and OP-TEE: a second device beside the shared one, its storage, its ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from cloister.device import Device
from cloister.device.errors import (
    ConnectionFailed,
    InstanceBusy,
    InstanceNotRunning,
    SecureWorldPanic,
    TrustedApplicationPanic,
)
from cloister.device.qemu import (
    QemuDevice,
    endpoint,
    join_device,
    reset_device,
    start_device,
    stop_device,
)
from cloister.device.script import run_script
from cloister.device.ssh import Endpoint, Ssh
from cloister_qemu.files import InstanceFiles
from cloister_qemu.keys import ensure_keys
from cloister_qemu.paths import firmware_file

OS_TEST = "5b9e0e40-2636-11e1-ad9e-0002a5d5c51b"
INVOKE_TESTS = "d96a5b40-c3e5-21e3-8794-1002a5d5c61b"  # OP-TEE's pta_invoke_tests.h
SELF_TESTS = 2
PANIC = 6


@pytest.fixture
def name() -> Iterator[str]:
    """A name of an instance that is gone afterwards, whatever happened."""
    chosen = f"pytest-{os.getpid()}-second"
    yield chosen
    files = InstanceFiles(chosen)
    if files.locked():
        stop_device(chosen)
    shutil.rmtree(files.directory, ignore_errors=True)


@pytest.fixture
def emulated(device: Device) -> QemuDevice:
    if not isinstance(device, QemuDevice):
        pytest.skip("the target is a board: there is no emulator to look at")
    return device


def test_listens_on_loopback_only(emulated: QemuDevice) -> None:
    port = f"{emulated.instance.note.ssh_port:04X}"
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A"
    ]
    assert listening == [f"0100007F:{port}"]


def test_host_key_of_another_device_is_refused(emulated: QemuDevice, tmp_path: Path) -> None:
    right = endpoint(emulated.instance)
    wrong = Endpoint(right.host, right.port, host_key=ensure_keys(tmp_path).host_public(), identity=right.identity)
    with pytest.raises(ConnectionFailed, match="host key that is not the device's"):
        Ssh(wrong)
    unknown = Endpoint(right.host, right.port, identity=right.identity)
    with pytest.raises(ConnectionFailed, match="is not known"):
        Ssh(unknown)


def test_client_key_of_another_device_is_refused(emulated: QemuDevice, tmp_path: Path) -> None:
    right = endpoint(emulated.instance)
    with pytest.raises(ConnectionFailed, match="refuses the login"):
        Ssh(Endpoint(right.host, right.port, host_key=right.host_key, identity=ensure_keys(tmp_path).client))


def test_running_device_is_not_started_or_reset_again(emulated: QemuDevice) -> None:
    name = emulated.instance.name
    with pytest.raises(InstanceBusy, match="already running"):
        start_device(name)
    with pytest.raises(InstanceBusy, match="deletes its secure storage"):
        reset_device(name)


def test_unexpected_panic_of_an_application_is_an_error_once(emulated: QemuDevice) -> None:
    ta = emulated.open_ta(OS_TEST)
    with pytest.raises(TrustedApplicationPanic, match=OS_TEST) as caught:
        ta.invoke(PANIC)
    assert "last lines of" in str(caught.value)
    emulated.check()
    assert emulated.run("echo lives").text == "lives"
    ta.close()


USER = """
import sys, time
from cloister.device.qemu import start_device
with start_device(sys.argv[1]) as device:
    key = device.public_key().hex()
    mark = device.run("cat /var/lib/tee/mark 2>/dev/null; echo $((1 + $(cat /var/lib/tee/mark 2>/dev/null || echo 0))) "
                      "> /var/lib/tee/mark; sync").text
    print(device.instance.note.qemu.pid, key, mark or "none", flush=True)
    time.sleep(600)
"""


def user_process(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", USER, name], stdout=subprocess.PIPE, text=True)


def test_second_device_keeps_its_storage_and_leaves_no_orphan(emulated: QemuDevice, name: str) -> None:
    """Ctrl-C and SIGKILL of the user's process end QEMU; secure storage stays through both, until the reset."""
    seen = []
    for number in (signal.SIGINT, signal.SIGKILL):
        with user_process(name) as user:
            assert user.stdout is not None
            words = user.stdout.readline().split()
            files = InstanceFiles(name)
            note = files.read_note()
            assert note is not None and note.qemu.pid == int(words[0])
            assert note.ssh_port != emulated.instance.note.ssh_port
            assert emulated.run("echo first").text == "first"
            if number == signal.SIGINT:
                with pytest.raises(InstanceBusy, match=f"belongs to the running process {user.pid}"):
                    join_device(name)
            seen.append(words[1:])
            user.send_signal(number)
            user.wait(60)
        assert note.qemu.wait(15)
        assert note.guard.wait(15)
        assert not files.locked()
    (key, first), (again, second) = seen
    assert (first, second) == ("none", "1")
    assert key == again != emulated.public_key().hex()
    with pytest.raises(InstanceNotRunning):
        join_device(name)
    reset_device(name)
    assert not files.storage.exists()


@pytest.fixture
def broken_firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's firmware with one instruction of OP-TEE made invalid: the first of core_self_tests()."""
    index = json.loads(firmware_file().read_text())
    with Path(index["optee_elf"]).open("rb") as file:
        elf = ELFFile(file)
        symbol = next(s for s in elf.get_section_by_name(".symtab").iter_symbols() if s.name == "core_self_tests")
        section = elf.get_section(symbol["st_shndx"])
        code = section.data()[symbol["st_value"] - section["sh_addr"] :][: symbol["st_size"]]
    flash = bytearray(Path(index["flash"]).read_bytes())
    assert flash.count(code) == 1
    place = flash.index(code)
    flash[place : place + 4] = bytes(4)  # UDF #0 (Arm ARM, C6.2)
    (tmp_path / "flash.rom").write_bytes(flash)
    index["flash"] = str(tmp_path / "flash.rom")
    (tmp_path / "qemu.json").write_text(json.dumps(index))
    monkeypatch.setenv("CLOISTER_FIRMWARE", str(tmp_path / "qemu.json"))


@pytest.mark.usefixtures("broken_firmware")
def test_abort_of_the_secure_world_interrupts_what_runs_although_linux_lives(name: str) -> None:
    with start_device(name) as device:
        ended: list[tuple[BaseException, float]] = []

        def wait() -> None:
            try:
                device.run("while :; do echo alive; sleep 1; done")
            except BaseException as error:
                ended.append((error, time.monotonic()))

        waiting = threading.Thread(target=wait)
        waiting.start()
        ta = device.open_ta(INVOKE_TESTS)
        begin = time.monotonic()
        with pytest.raises(SecureWorldPanic) as caught:
            ta.invoke(SELF_TESTS)
        assert time.monotonic() - begin < 20
        waiting.join(20)
        assert [type(error) for error, _ in ended] == [SecureWorldPanic]
        assert "Core undef-abort" in str(caught.value)
        assert str(device.instance.files.secure_log) in str(caught.value)
        with pytest.raises(SecureWorldPanic):
            device.public_key()


def test_script_at_boot_counts_the_same_instructions_each_time() -> None:
    """The deterministic profile: a loop's instructions, counted by the guest's own clock, in two boots.

    Timer interrupts add some thousand instructions to whatever is measured, so the loop is long: medians of nine
    spread by 8e-5 over eight boots at this length, by 1.6e-3 at a fiftieth of it (docs/devices.md).
    """
    program = (
        "import time\n"
        "def count():\n"
        "    begin = time.monotonic_ns()\n"
        "    for _ in range(1000000): pass\n"
        "    return time.monotonic_ns() - begin\n"
        "print(sorted(count() for _ in range(9))[4])\n"
    )
    counts = []
    for _ in range(2):
        result = run_script('python3 "$INPUT/p.py" > "$RESULTS/count"; exit 4', {"p.py": program.encode()})
        assert result.returncode == 4
        counts.append(int(result.files["count"]))
    assert abs(counts[0] - counts[1]) <= counts[0] / 1000, counts


def test_daemon_is_shared_and_stopped(name: str) -> None:
    started = start_device(name, daemon=True)
    note = started.instance.note
    started.close()
    assert note.qemu.alive()
    with join_device(name) as one, join_device(name) as two:
        assert one.run("echo one").text == "one"
        assert two.public_key() == one.public_key()
    assert note.qemu.alive()
    stop_device(name)
    assert not note.qemu.alive() and not InstanceFiles(name).locked()

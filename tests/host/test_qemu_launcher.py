# SPDX-License-Identifier: BSD-2-Clause
"""The launcher's logic that needs no QEMU: machine definitions, command line, firmware index, console lines."""

from __future__ import annotations

import json
import re
import socket
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from cloister.device.errors import DeviceError, FirmwareMissing, MachineDefinitionError
from cloister_qemu import process
from cloister_qemu.command import Wiring, build_command, option_value
from cloister_qemu.console import ConsoleWatcher, EventKind, LogFollower, World, classify, tail
from cloister_qemu.firmware import Firmware, load_firmware
from cloister_qemu.machine import load_machine
from cloister_qemu.paths import instance_directory, machine_file
from cloister_qemu.uboot import environment


def firmware(tmp_path: Path) -> Firmware:
    for name in ("flash", "kernel", "initrd", "rootfs"):
        (tmp_path / name).write_bytes(name.encode())
    index = tmp_path / "qemu.json"
    index.write_text(
        json.dumps({name: str(tmp_path / name) for name in ("flash", "kernel", "initrd", "rootfs")} | {"append": "a=1"})
    )
    return load_firmware(index)


def test_shipped_machine_is_a_secure_armv8_board() -> None:
    machine = load_machine(machine_file())
    assert "secure=on" in machine.type and "gic-version=3" in machine.type and "acpi=off" in machine.type
    assert (machine.cpu, machine.memory_mib, machine.profile("default").smp) == ("cortex-a53", 1024, 2)
    icount = machine.profile("icount")
    assert icount.smp == 1
    assert "shift=0,sleep=off" in icount.options


GOOD = """
[machine]
binary = "qemu"
type = "virt"
cpu = "max"
memory_mib = 64
[u_boot]
size = 64
environment = {}
[ready]
secure = "up"
normal = "READY"
failed = "FAILED"
timeout_s = 1.5
[profile.default]
smp = 1
"""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("memory_mib = 64", "memory_mib = 0", "[machine] memory_mib must be above 0"),
        ("memory_mib = 64", 'memory_mib = "64"', "[machine] memory_mib has a wrong type"),
        ("memory_mib = 64", "memory_mib = true", "[machine] memory_mib has a wrong type"),
        ("memory_mib = 64", "memory = 64", "[machine] memory_mib is missing"),
        ('cpu = "max"', 'cpu = "max"\ncpus = 2', "unknown in [machine]: cpus"),
        ('secure = "up"', 'secure = "("', "[ready] secure is no regular expression"),
        ("[ready]", "[redy]", "unknown tables: redy"),
        ("environment = {}", "environment = {a = 1}", "[u_boot.environment] values must be strings"),
        ("smp = 1", "smp = 1\noptions = [1]", "[profile.default] options must be a list of strings"),
        ("[machine]", "[machine", "not valid TOML"),
    ],
)
def test_bad_machine_definition_names_file_and_field(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    assert load_machine(path).timeout_s == 1.5
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(MachineDefinitionError, match=re.escape(complaint)) as caught:
        load_machine(path)
    assert str(path) in str(caught.value)


def test_unknown_profile_names_those_that_exist(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(GOOD)
    with pytest.raises(MachineDefinitionError, match="it has default"):
        load_machine(path).profile("fast")


def command(tmp_path: Path, profile: str, writable: bool) -> list[str]:
    machine = load_machine(machine_file())
    wiring = Wiring(
        share=tmp_path / "a,b",
        share_writable=writable,
        environment=tmp_path / "env",
        storage=tmp_path / "tee.img",
        ssh_port=4022,
        normal_log=tmp_path / "n.log",
        secure_log=tmp_path / "s.log",
    )
    return build_command(machine, machine.profile(profile), firmware(tmp_path), wiring)


def test_command_listens_on_loopback_only_and_has_no_way_out(tmp_path: Path) -> None:
    line = command(tmp_path, "default", False)
    (network,) = [word for word in line if word.startswith("user,")]
    assert "hostfwd=tcp:127.0.0.1:4022-:22" in network and "restrict=on" in network
    assert not [word for word in line if word in ("-vnc", "-gdb", "-s", "-qmp")]
    assert line[line.index("-monitor") + 1] == "none"


def test_command_order_of_serial_ports_and_read_only_images(tmp_path: Path) -> None:
    line = command(tmp_path, "default", False)
    serial = [line[i + 1] for i, word in enumerate(line) if word == "-serial"]
    assert serial == ["chardev:normal", "chardev:secure"]
    for part in ("id=rootfs", "if=pflash"):
        drives = [word for word in line if part in word and word.startswith("if=")]
        assert drives and all("readonly=on" in drive for drive in drives), drives
    (share,) = [word for word in line if word.startswith("local,")]
    assert share.endswith("readonly=on") and f"path={tmp_path}/a,,b" in share
    assert line[line.index("-append") + 1] == "a=1"
    (share,) = [word for word in command(tmp_path, "icount", True) if word.startswith("local,")]
    assert share.endswith("readonly=off")


def test_icount_profile_reaches_the_command_line(tmp_path: Path) -> None:
    line = command(tmp_path, "icount", True)
    assert line[line.index("-icount") + 1] == "shift=0,sleep=off"
    assert line[line.index("-smp") + 1] == "1"
    assert "-icount" not in command(tmp_path, "default", False)


def test_u_boot_environment_has_its_checksum_first() -> None:
    image = environment({"bootdelay": "-2", "bootcmd": "booti"}, 64)
    assert len(image) == 64
    assert image[4:].rstrip(b"\0") == b"bootdelay=-2\0bootcmd=booti"
    assert int.from_bytes(image[:4], "little") == zlib.crc32(image[4:])
    with pytest.raises(ValueError, match="does not fit"):
        environment({"a": "b" * 64}, 64)


def test_commas_are_doubled() -> None:
    assert option_value(Path("/a,b/c")) == "/a,,b/c"


def test_firmware_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(FirmwareMissing, match="build/demo"):
        load_firmware(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(FirmwareMissing, match=re.escape("broken.json cannot be read")):
        load_firmware(tmp_path / "broken.json")


def test_firmware_lists_all_missing_files_at_once(tmp_path: Path) -> None:
    built = firmware(tmp_path)
    built.kernel.unlink()
    built.rootfs.unlink()
    with pytest.raises(FirmwareMissing) as caught:
        load_firmware(built.index)
    assert "kernel" in str(caught.value) and "rootfs" in str(caught.value) and "flash (" not in str(caught.value)


def test_firmware_digest_follows_the_files(tmp_path: Path) -> None:
    built = firmware(tmp_path)
    before = built.digest()
    assert load_firmware(built.index).digest() == before
    built.flash.write_bytes(b"another")
    assert load_firmware(built.index).digest() != before


# Lines as OP-TEE 4.10, TF-A 2.12 and Linux 6.12 print them.
LINES: list[tuple[World, str, EventKind | None]] = [
    (World.SECURE, "E/TC:0 0 Panic 'bad lock' at core/kernel/mutex.c:12 <mutex_lock>", EventKind.SECURE_PANIC),
    (World.SECURE, "E/TC:0 0 Panic at core/arch/arm/kernel/boot.c:1171 <boot_init>", EventKind.SECURE_PANIC),
    (World.SECURE, "E/TC:1 0 Core data-abort at address 0x0 (translation fault)", EventKind.SECURE_PANIC),
    (World.SECURE, "E/TC:1 0 Core prefetch-abort at address 0x10 (permission fault)", EventKind.SECURE_PANIC),
    (World.SECURE, "E/TC:00 0000 Core data-abort at address 0x0 (translation fault)", EventKind.SECURE_PANIC),
    (World.SECURE, "E/TC:0 0 [abort] abort in abort handler (trap CPU)", EventKind.SECURE_PANIC),
    (World.SECURE, "E/TC:0   Dead canary at start of 'stack_thread[0]'", EventKind.SECURE_PANIC),
    (World.SECURE, "E/TC:? 0 TA panicked with code 0xffff0006", EventKind.TA_PANIC),
    (World.SECURE, "E/LD:  Status of TA 5b9e0e40-2636-11e1-ad9e-0002a5d5c51b", EventKind.TA_PANIC),
    (World.SECURE, "E/TC:? 0 User mode data-abort at address 0x0 (translation fault)", EventKind.TA_PANIC),
    (World.SECURE, "E/TC:? 0 User mode undef-abort at address 0x40001000", EventKind.TA_PANIC),
    (World.SECURE, "PANIC at PC : 0x000000000e0a1234", EventKind.SECURE_PANIC),
    (World.NORMAL, "ASSERT: bl31/bl31_main.c:120", EventKind.SECURE_PANIC),
    (World.NORMAL, "BACKTRACE: START: panic", EventKind.SECURE_PANIC),
    (World.NORMAL, "[    3.141592] Kernel panic - not syncing: Attempted to kill init!", EventKind.NORMAL_PANIC),
    (World.NORMAL, "[   12.000001][    T1] Kernel panic - not syncing: hung", EventKind.NORMAL_PANIC),
    (World.NORMAL, "[    9.000000] Internal error: Oops: 0000000096000004 [#1] SMP", EventKind.NORMAL_PANIC),
    # What must not be taken for one: an application's own words, an error that is none, words of a program.
    (World.SECURE, "E/TA:  main:10 Panic at the disco", None),
    (World.SECURE, "I/TA: TA panicked with code 0x0", None),
    (World.SECURE, "E/TC:? 0 tee_ta_open_session:767 Failed. Return error 0xffff0008", None),
    (World.SECURE, "I/TC: Primary CPU switching to normal world boot", None),
    (World.NORMAL, "Kernel panic - not syncing: said a program", None),
    (World.NORMAL, "E/TC:0 0 Panic at the normal world's console", None),
    (World.NORMAL, "[    0.000000] Linux version 6.12 (panic=-1)", None),
]


@pytest.mark.parametrize(("world", "line", "kind"), LINES)
def test_console_lines(world: World, line: str, kind: EventKind | None) -> None:
    assert classify(world, line) is kind


def test_follower_gives_each_line_once_and_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = LogFollower(path)
    assert follower.poll() == []
    path.write_bytes(b"one\r\ntw")
    assert follower.poll() == ["one"]
    assert follower.poll() == []
    assert follower.rest() == "tw"
    with path.open("ab") as file:
        file.write(b"o\n\x1b[0mthree\xff\n")
    assert follower.poll() == ["two", "three�"]


def test_tail_of_a_long_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {i}\n" for i in range(100_000)))
    assert tail(path, 3) == "line 99997\nline 99998\nline 99999"
    assert tail(tmp_path / "none", 3) == ""


def watcher(tmp_path: Path, alive: Any = lambda: None) -> ConsoleWatcher:
    logs = {World.NORMAL: tmp_path / "normal", World.SECURE: tmp_path / "secure"}
    for path in logs.values():
        path.touch()
    return ConsoleWatcher(logs, alive, interval=0.01)


def test_watcher_wakes_those_who_wait(tmp_path: Path) -> None:
    watched = watcher(tmp_path)
    ready = re.compile("READY")
    watched.expect(World.NORMAL, ready)
    watched.start()
    try:
        (tmp_path / "normal").write_text("CLOISTER READY\n")
        waiter = threading.Event()
        for _ in range(200):
            if watched.found(World.NORMAL, ready):
                break
            waiter.wait(0.01)
        assert watched.found(World.NORMAL, ready)
        assert not watched.failed.is_set()
        (tmp_path / "secure").write_text("E/TC:0 0 Panic at core/x.c:1 <f>\n")
        assert watched.failed.wait(2.0)
        assert [event.kind for event in watched.events()] == [EventKind.SECURE_PANIC]
    finally:
        watched.stop()


def test_watcher_reads_the_last_words_of_an_emulator_that_ended(tmp_path: Path) -> None:
    ended: list[str] = []
    watched = watcher(tmp_path, lambda: ended[0] if ended else None)
    (tmp_path / "secure").write_text("E/TC:0 0 Panic at core/x.c:1 <f>")  # no end of line
    watched.poll()
    assert watched.events() == []
    ended.append("QEMU ended with status 1")
    watched.poll()
    watched.poll()
    assert [event.kind for event in watched.events()] == [EventKind.SECURE_PANIC, EventKind.EXITED]


def test_watcher_forgets_what_was_expected(tmp_path: Path) -> None:
    watched = watcher(tmp_path)
    (tmp_path / "secure").write_text("E/TC:? 0 TA panicked with code 0x1\n")
    watched.poll()
    assert watched.failed.is_set()
    watched.forget([EventKind.TA_PANIC])
    assert not watched.failed.is_set() and watched.events() == []
    watched.poll()
    assert watched.events() == []


def test_free_port_can_be_bound() -> None:
    ports = {process.free_port() for _ in range(8)}
    for port in ports:
        assert 1024 < port < 65536
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "ü"])
def test_names_that_are_no_directory_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="cannot name a device"):
        instance_directory(name)

# SPDX-License-Identifier: BSD-2-Clause
"""The firmware build's machinery: cache, lock, interruption, errors, fallback of versions, keys."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloister_build import archive, keys, pipeline, store
from cloister_build.archive import Archive, Pin, read_lock
from cloister_build.errors import BuildError
from cloister_build.report import Report
from cloister_build.steps.device import SHDR, SHDR_BOOTSTRAP_TA, SHDR_MAGIC, SHDR_SUBKEY, ta_payload
from cloister_build.store import Store, Workshop

ROOT = Path(__file__).parents[2]
UUID = "dbe59725-a3e1-4a5c-b8a0-8519676a26b3"


@pytest.fixture
def cache(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", Report())


def hello(shop: Workshop) -> None:
    (shop.out / "hello").write_text("hello")
    shop.versions["hello"] = "1"


def test_a_result_is_made_once(cache: Store) -> None:
    calls = []

    def build(shop: Workshop) -> None:
        calls.append(shop.step)
        hello(shop)

    first = cache.make("greet", "say hello", {"flag": 1}, build)
    again = cache.make("greet", "say hello", {"flag": 1}, build)
    assert again == first
    assert calls == ["greet"]
    assert (first.path / "hello").read_text() == "hello"
    assert first.versions == {"hello": "1"}


def test_other_inputs_or_sources_make_another_result(cache: Store, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "a.c").write_text("1")
    paths = {cache.make("greet", "", {"flag": flag}, hello, [source]).path for flag in (1, 2)}
    (source / "a.c").write_text("2")
    paths.add(cache.make("greet", "", {"flag": 1}, hello, [source]).path)
    (source / "a.c").chmod(0o755)
    paths.add(cache.make("greet", "", {"flag": 1}, hello, [source]).path)
    assert len(paths) == 4


def test_failure_names_step_log_and_remedy_and_leaves_nothing(cache: Store) -> None:
    def build(shop: Workshop) -> None:
        (shop.out / "half").touch()
        shop.run("sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 3")

    with pytest.raises(BuildError) as caught:
        cache.make("broken", "", {}, build)
    text = str(caught.value)
    assert "step 'broken' failed: sh ended with status 3" in text
    assert "| line 40" in text and "| line 16\n" in text and "| line 15\n" not in text
    assert str(cache.logs / "broken.log") in text
    assert "remedy: " in text
    assert list(cache.artifacts.iterdir()) == []
    assert list(cache.work.iterdir()) == []


def test_a_missing_program_is_named(cache: Store) -> None:
    with pytest.raises(BuildError, match=r"needs the program 'no-such-program'.*\n.*build/setup"):
        cache.make("tool", "", {}, lambda shop: shop.run("no-such-program"))


def test_full_disk_is_told_apart(cache: Store) -> None:
    def python(_: Workshop) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def child(shop: Workshop) -> None:
        shop.run("sh", "-c", "echo 'cp: error writing x: No space left on device' >&2; exit 1")

    for build in (python, child):
        with pytest.raises(BuildError, match=r"no space left on the disk.*\n.*CLOISTER_CACHE"):
            cache.make("full", "", {}, build)
    assert list(cache.work.iterdir()) == []


SLEEPER = """
import sys
from pathlib import Path
from cloister_build import cli, pipeline
from cloister_build.report import Report
from cloister_build.store import Store

def build(shop):
    (shop.out / "half").touch()
    shop.run("sh", "-c", "echo $$ > " + sys.argv[1] + "/pid; sleep 300 & wait")

def firmware(store):
    return store.make("sleeper", "sleep", {}, build)

pipeline.build_firmware = firmware
sys.exit(cli.main(["firmware"]))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interruption_kills_children_and_leaves_nothing(tmp_path: Path, ending: signal.Signals) -> None:
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER)
    env = {**os.environ, "CLOISTER_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen([sys.executable, script, tmp_path], env=env, stderr=subprocess.PIPE, text=True) as build:
        pid = tmp_path / "pid"
        for _ in range(200):
            if pid.exists() and pid.read_text().strip():
                break
            time.sleep(0.05)
        group = int(pid.read_text())
        build.send_signal(ending)
        _, errors = build.communicate(timeout=20)
    assert build.returncode == 130
    assert "interrupted" in errors and "Traceback" not in errors
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("children of the interrupted build still run")
    assert list((tmp_path / "cache/work").iterdir()) == []
    assert list((tmp_path / "cache/artifacts").iterdir()) == []


def test_a_second_build_waits_for_the_first(cache: Store, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code, cache.root / "lock"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        began = time.monotonic()
        cache.make("greet", "", {}, hello)
    assert time.monotonic() - began > 0.5
    assert "another build" in capfd.readouterr().err


def test_unused_results_are_removed_after_a_month(cache: Store) -> None:
    old = cache.make("old", "", {}, hello).path
    then = time.time() - store.KEEP_S - 1
    os.utime(old / store.META, (then, then))
    new = cache.make("new", "", {}, hello).path
    assert not old.exists()
    assert new.exists()


def test_the_locked_packages_are_well_formed() -> None:
    pins = read_lock()
    groups = {pin.group for pin in pins}
    assert {"optee-os", "tf-a", "u-boot", "linux", "guest", "sysroot", "xtest", "compiler"} == groups
    assert len({(pin.group, pin.name) for pin in pins}) == len(pins)


def test_a_malformed_lock_names_its_line(tmp_path: Path) -> None:
    lock = tmp_path / "packages.lock"
    lock.write_text("# fine\nguest trixie arm64 libc6\n")
    with pytest.raises(BuildError, match=r"packages.lock:2"):
        read_lock(lock)


class FakeApt(Workshop):
    """Answers apt-cache madison as the archive would at another day."""

    answer = ""

    def output(self, *command: str | Path, env: object = None) -> str:
        assert command[:2] == ("apt-cache", "madison")
        return self.answer


def test_a_version_that_left_the_archive_falls_back_and_says_so(
    cache: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shop = FakeApt("fetch", tmp_path, tmp_path, tmp_path / "log", cache.report)
    pin = Pin("guest", "trixie", "arm64", "libc6", "2.41-1")
    shop.answer = (
        "libc6 | 2.42-9 | http://mirror.invalid/debian sid/main arm64 Packages\n"
        "libc6 | 2.41-12 | http://mirror.invalid/debian trixie/main arm64 Packages\n"
    )
    place = Archive(cache)
    assert place.choose(shop, pin) == "2.41-12"
    assert "2.41-1 has left the archive: using 2.41-12 of trixie" in capfd.readouterr().err
    assert place.choose(shop, Pin("guest", "sid", "arm64", "libc6", "2.42-9")) == "2.42-9"
    assert capfd.readouterr().err == ""
    with pytest.raises(BuildError, match="offers no package libc6 "):
        place.choose(shop, Pin("x", "trixie", "source", "libc6", "1"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("debian.sources", "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: bookworm\nComponents: main\n"),
        ("extra.list", "# no\ndeb [signed-by=/x] http://mirror.invalid/debian bookworm main\n"),
    ],
)
def test_the_mirror_is_read_from_the_source_lists(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / name).write_text(text)
    assert archive._mirror_from_sources(tmp_path) == "http://mirror.invalid/debian"


def test_the_signing_key_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_KEYS", str(tmp_path / "keys"))
    path = keys.ta_sign_key()
    digest = keys.public_digest(path)
    assert keys.public_digest(keys.ta_sign_key()) == digest
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_text("no key")
    with pytest.raises(BuildError, match="no RSA key"):
        keys.public_digest(path)


def test_the_dev_kit_signs_with_the_users_key_alone() -> None:
    index = Path(os.environ.get("CLOISTER_FIRMWARE", ROOT / "out/firmware/qemu.json"))
    kit = Path(json.loads(index.read_text())["ta_dev_kit"])
    (key,) = (kit / "keys").iterdir()
    assert key.is_symlink()
    assert key.resolve() == keys.ta_sign_key().resolve()


def signed(kind: int, image: bytes, uuid: str = UUID) -> bytes:
    head = SHDR.pack(SHDR_MAGIC, kind, len(image), 0x70414930, 32, 384) + bytes(32 + 384)
    if kind == SHDR_BOOTSTRAP_TA:
        head += bytes.fromhex(uuid.replace("-", "")) + (7).to_bytes(4, "little")
    return head + image


def test_a_signed_ta_is_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / f"{UUID}.ta"
    path.write_bytes(signed(SHDR_BOOTSTRAP_TA, b"\x7fELF" + bytes(20)))
    assert ta_payload(path) == (b"\x7fELF" + bytes(20), 7)
    path.write_bytes(signed(SHDR_SUBKEY, b""))
    assert ta_payload(path) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        bytes(500),
        signed(SHDR_BOOTSTRAP_TA, b"\x7fELF" + bytes(20))[:-1],
        signed(SHDR_BOOTSTRAP_TA, b"MZ" + bytes(20)),
        signed(SHDR_BOOTSTRAP_TA, b"\x7fELF", uuid="00" * 16),
    ],
)
def test_what_is_no_signed_ta_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / f"{UUID}.ta"
    path.write_bytes(data)
    with pytest.raises(BuildError, match="is no signed TA"):
        ta_payload(path)


def test_the_index_is_kept_when_nothing_changed(tmp_path: Path) -> None:
    path = tmp_path / "out/qemu.json"
    pipeline.write_index({"flash": "a"}, path)
    before = path.stat().st_mtime_ns
    pipeline.write_index({"flash": "a"}, path)
    assert path.stat().st_mtime_ns == before
    pipeline.write_index({"flash": "b"}, path)
    assert json.loads(path.read_text()) == {"flash": "b"}
    assert [each.name for each in path.parent.iterdir()] == ["qemu.json"]


@pytest.mark.parametrize("command", ["setup", "demo", "test"])
def test_help_is_printed(command: str) -> None:
    done = subprocess.run([ROOT / "build" / command, "--help"], capture_output=True, text=True, check=True)
    assert f"build/{command}" in done.stdout

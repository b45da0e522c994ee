# SPDX-License-Identifier: BSD-2-Clause
"""The addition to the public OP-TEE build, as far as it can be checked without the public servers.

The Buildroot package is run as Buildroot would, with the TA dev kit of the OP-TEE that was built here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cloister_build.keys import ta_sign_key
from cloister_build.steps.device import ta_make_command, ta_payload

ROOT = Path(__file__).parents[2]
HERE = ROOT / "optee_manifest"
PACKAGE = HERE / "br-ext/package/cloister/cloister.mk"
PLATFORMS = ("qemu_v8", "rpi3")
RELEASE = "refs/tags/4.10.0"
TA = "dbe59725-a3e1-4a5c-b8a0-8519676a26b3"
VENDOR = bytes(range(32)).hex()


def index() -> dict[str, str]:
    path = Path(os.environ.get("CLOISTER_FIRMWARE", ROOT / "out/firmware/qemu.json"))
    if not path.is_file():
        pytest.fail(f"no firmware at {path}: run build/test, or python -m cloister_build all")
    entry: dict[str, str] = json.loads(path.read_text())
    return entry


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_revision_is_pinned(platform: str) -> None:
    manifest = ElementTree.parse(HERE / f"{platform}.xml").getroot()
    assert manifest.tag == "manifest"
    extended = {each.get("name"): each.get("revision") for each in manifest.iter("extend-project")}
    assert {"OP-TEE/optee_os.git", "OP-TEE/optee_client.git", "OP-TEE/build.git"} <= extended.keys()
    assert set(extended.values()) == {RELEASE}
    (project,) = manifest.iter("project")
    assert re.fullmatch(r"refs/tags/v\d+\.\d+\.\d+|[0-9a-f]{40}", project.get("revision") or "")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_linked_files_exist(platform: str) -> None:
    manifest = ElementTree.parse(HERE / f"{platform}.xml").getroot()
    links = {each.get("dest"): each.get("src") for each in manifest.iter("linkfile")}
    assert links.keys() == {"build/cloister.mk", "build/br-ext/package/cloister"}
    for source in links.values():
        assert source is not None
        assert (ROOT / source).exists()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_attach_pins_this_clone(tmp_path: Path, platform: str) -> None:
    (tmp_path / ".repo").mkdir()
    clone = tmp_path / "cloister"
    subprocess.run(["git", "init", "-q", "-b", "work", clone], check=True)
    subprocess.run(["cp", "-r", HERE, clone], check=True)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    subprocess.run(["git", "-C", clone, "add", "."], check=True)
    subprocess.run(["git", "-C", clone, *identity, "commit", "-q", "-m", "x"], check=True)
    subprocess.run([clone / "optee_manifest/attach", tmp_path, platform], check=True, capture_output=True)
    manifest = ElementTree.parse(tmp_path / ".repo/local_manifests/cloister.xml").getroot()
    head = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (project,) = manifest.iter("project")
    assert project.get("revision") == head.stdout.strip()
    assert project.get("upstream") == "refs/heads/work"
    (remote,) = manifest.iter("remote")
    assert Path((remote.get("fetch") or "").removeprefix("file://")) / (project.get("name") or "") == clone


def test_attach_refuses_what_is_no_workspace(tmp_path: Path) -> None:
    done = subprocess.run([HERE / "attach", tmp_path, "qemu_v8"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is no repo workspace" in done.stderr


def settings_of(command: list[str]) -> list[str]:
    return [word.split("=")[0] for word in command if re.match(r"[A-Z_]+=", word)]


def test_fragment_calls_make_as_the_dev_kit_build_does() -> None:
    text = PACKAGE.read_text().split("define CLOISTER_BUILD_CMDS")[1].split("\n\t$(MAKE) -C $(@D)/ta/engine")[0]
    words = text.replace("\\\n", " ").split()
    assert words[:3] == ["$(MAKE)", "-C", "$(@D)/ta"]
    ours = settings_of(ta_make_command(Path("ta"), Path("kit"), Path("out"), VENDOR))
    extra = {"TA_SIGN_KEY", "PYTHON3"}
    assert [name for name in settings_of(words) if name not in extra] == ours


@pytest.mark.parametrize("platform", PLATFORMS)
def test_build_fragment_registers_the_package_once(tmp_path: Path, platform: str) -> None:
    """With a stand-in for the public makefiles: what make would run, and what it hands to Buildroot."""
    build = tmp_path / "build"
    (build / "br-ext").mkdir(parents=True)
    (build / "br-ext/Config.in").write_text('source "$BR2_EXTERNAL_OPTEE_PATH/package/optee_os_ext/Config.in"\n')
    (build / f"{platform}.mk").write_text(
        "ROOT ?= $(CURDIR)/..\nOPTEE_OS_COMMON_FLAGS ?= $(OPTEE_OS_COMMON_EXTRA_FLAGS)\n"
        "all: buildroot\nbuildroot: optee-os\n\t@echo 'package $(BR2_PACKAGE_CLOISTER)'\n"
        "optee-os:\n\t@echo 'flags $(OPTEE_OS_COMMON_FLAGS)'\n"
    )
    (build / "cloister.mk").symlink_to(HERE / f"build/{platform}.mk")
    (tmp_path / "cloister").symlink_to(ROOT)
    key = tmp_path / "key.pem"
    key.touch()
    command = ["make", "-C", str(build), "-f", "cloister.mk", "--no-print-directory"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "give CLOISTER_VENDOR_KEY" in refused.stderr
    for _ in range(2):
        done = subprocess.run(
            [*command, f"CLOISTER_VENDOR_KEY={VENDOR}", f"CLOISTER_TA_SIGN_KEY={key}"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert "package y" in done.stdout
    assert f"TA_SIGN_KEY={key}" in done.stdout
    assert ("CFG_CRYPTO_WITH_CE=y" in done.stdout) == (platform == "qemu_v8")
    sources = (build / "br-ext/Config.in").read_text().splitlines()
    assert sources.count('source "$BR2_EXTERNAL_OPTEE_PATH/package/cloister/Config.in"') == 1


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target folder, filled by the package's own commands under a stand-in for Buildroot's package macros."""
    place = tmp_path_factory.mktemp("buildroot")
    entry = index()
    source = place / "source"
    source.mkdir()
    for name in ("ta", "host", "optee_manifest", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    python = place / "host/bin/python3"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    staging = place / "staging"
    staging.mkdir()
    (staging / "usr").symlink_to(entry["sysroot"])
    (place / "Makefile").write_text(
        f"""qstrip = $(strip $(subst ",,$(1)))
generic-package =
INSTALL = install
HOST_DIR = {place}/host
STAGING_DIR = {staging}
TARGET_DIR = {place}/target
TARGET_CC = aarch64-linux-gnu-gcc
PYTHON3_VERSION_MAJOR = 3.13
BR2_PACKAGE_CLOISTER_SDK = "{entry["ta_dev_kit"]}"
BR2_PACKAGE_CLOISTER_CROSS_COMPILE = "aarch64-linux-gnu-"
BR2_PACKAGE_CLOISTER_VENDOR_KEY = "{VENDOR}"
BR2_PACKAGE_CLOISTER_TA_SIGN_KEY = "{ta_sign_key()}"
include {PACKAGE}
{source}/.stamp:
	$(CLOISTER_BUILD_CMDS)
	$(CLOISTER_INSTALL_TARGET_CMDS)
"""
    )
    # Buildroot sets @D by its stamp files' folder, as make does here
    done = subprocess.run(
        ["make", "-f", place / "Makefile", source / ".stamp"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return place / "target"


def test_package_installs_a_signed_ta(installed: Path) -> None:
    payload = ta_payload(installed / f"lib/optee_armtz/{TA}.ta")
    assert payload is not None
    assert bytes.fromhex(VENDOR) in payload[0]


def test_package_installs_what_a_device_needs(installed: Path) -> None:
    site = installed / "usr/lib/python3.13/site-packages"
    assert (site / "cloister/device/agent.py").is_file()
    assert list(site.glob("_teec*.so"))
    engine = (installed / "usr/lib/libcloister_engine.so").read_bytes()
    # ELF, 64 bit, machine 183 (AArch64)
    assert engine[:5] == b"\x7fELF\x02"
    assert int.from_bytes(engine[18:20], "little") == 183

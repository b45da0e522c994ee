# SPDX-License-Identifier: BSD-2-Clause
"""Every cipher suite on the device: opened, streamed, resident, in steps; damaged, mixed up, and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ta_driver import HEADER, MAC_INVALID, SAMPLE_INPUT, SIGNATURE_INVALID, Sample, SampleModel, Ta, plain_partition
from test_ta_hostile import resealed_manifest

from cloister.device import Device
from cloister.device.ta import CLOISTER_TA
from cloister.seal import VendorKey, seal_bundle
from cloister.seal.ciphers import SUITES, suites_of
from cloister.teec.errors import TeecError
from cloister.teec.params import TempMemory
from cloister.wire import C, unpack
from cloister_qemu.paths import firmware_file

ROOT = Path(__file__).parents[2]
INSTALLED = f"/lib/optee_armtz/{CLOISTER_TA}.ta"
#: Around the ciphers' groups and the TA's chunks of 64 KiB.
SIZES = (64, 128, 192, 256, 320, 1024, 65472, 65536, 65600, 131072, 131136, 262144 + 64)


@pytest.fixture
def ta(device: Device) -> Iterator[Ta]:
    with Ta(device) as session:
        yield session


def make(device: Device, cipher: str, sizes: tuple[int, ...] = SIZES) -> Sample:
    return Sample.make(VendorKey.load(), device.public_key(), sizes, cipher=cipher)


def test_the_device_says_what_it_opens(device: Device) -> None:
    """The emulated CPU has AES instructions; another target may not."""
    ciphers = device.info()["ta"]["ciphers"]
    assert {"aes-256-gcm", "chacha20-poly1305"} <= set(ciphers) <= set(SUITES)
    if device.target.startswith("qemu"):
        assert ciphers == list(SUITES)


def test_the_ciphers_as_compiled_for_armv8(device: Device, tmp_path: Path) -> None:
    """The C tests, in the normal world: vectors, every length, pieces, AES instructions against none."""
    command = ["make", "-C", str(ROOT / "ta/aead"), f"O={tmp_path}", "aarch64-test"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    device.upload(tmp_path / "aarch64/aead_test", "/tmp/aead_test")
    text = device.run("chmod 755 /tmp/aead_test && /tmp/aead_test; rm /tmp/aead_test").text
    assert text.count(": passed") == (3 if "aegis-128l" in device.info()["ta"]["ciphers"] else 2), text


@pytest.mark.parametrize("cipher", SUITES)
def test_partitions_of_any_size_open(device: Device, ta: Ta, cipher: str) -> None:
    if cipher not in device.info()["ta"]["ciphers"]:
        pytest.skip(f"{device.target} has no {cipher}")
    sample = make(device, cipher)
    count = len(SIZES)
    ta.works(sample)
    # Too little memory for all of them: what is streamed is decrypted each time, at each alignment of the pages.
    loaded = ta.load(sample, memory=512 << 10)
    assert 0 < loaded.resident_count < count
    for _ in range(2):
        answer, decrypted = ta.run(sample.bundle.payload)
        assert answer == SAMPLE_INPUT
        assert decrypted >= count - loaded.resident_count
    wanted = ta.begin()
    while wanted.a < count:
        offset, size, _ = sample.bundle.partitions[wanted.a]
        assert wanted.b == size
        wanted = ta.step(sample.bundle.payload[offset : offset + size])
    ta.invoke(C.CL_CMD_FINISH, *ta.finish_params())


@pytest.mark.parametrize("cipher", SUITES)
def test_damage_is_refused_wherever_it_is(device: Device, ta: Ta, cipher: str) -> None:
    if cipher not in device.info()["ta"]["ciphers"]:
        pytest.skip(f"{device.target} has no {cipher}")
    size = 65600
    sample = make(device, cipher, (size,))
    (_, sealed, plain), tag = sample.bundle.partitions[0], HEADER + size
    assert plain == size
    for place in (HEADER, HEADER + 255, HEADER + 256, HEADER + 65535, HEADER + 65536, tag - 1, tag, sealed - 1):
        payload = bytearray(sample.bundle.payload)
        payload[place] ^= 0x10
        ta.load(sample)
        assert ta.run_code(bytes(payload)) == MAC_INVALID
        assert ta.run(sample.bundle.payload)[0] == SAMPLE_INPUT


@pytest.mark.parametrize("cipher", SUITES)
def test_partitions_are_bound_to_manifest_and_suite(device: Device, ta: Ta, cipher: str) -> None:
    """The same plain partitions under the same content key, sealed once more with each suite: none opens another's."""
    ciphers = device.info()["ta"]["ciphers"]
    if cipher not in ciphers:
        pytest.skip(f"{device.target} has no {cipher}")
    vendor = VendorKey.load()
    plain = [plain_partition(1024)]
    sample = Sample.make(vendor, device.public_key(), partitions=plain, cipher=cipher)

    ta.load(sample)
    for other in ciphers:
        again, _ = seal_bundle(
            SampleModel(plain), vendor, name=sample.bundle.name, cipher=other, content_key=sample.content_key
        )
        assert ta.run_code(again.payload) == MAC_INVALID
    # The manifest of another suite over these partitions, signed: the vendor's own mistake.
    for name, number in SUITES.items():
        if name != cipher and name in ciphers:
            manifest = resealed_manifest(sample, suite=number)
            if ta.load_code(manifest, sample.licence()) == 0:
                assert ta.run_code(sample.bundle.payload) == MAC_INVALID
            ta.load(sample)


@pytest.fixture
def ta_without_aes(device: Device, tmp_path: Path) -> Iterator[Ta]:
    """A TA as it is built for a CPU without AES instructions, in place of the device's own."""
    index = json.loads(firmware_file().read_text())
    settings = {
        "CROSS_COMPILE": "aarch64-linux-gnu-",
        "TA_DEV_KIT_DIR": index["ta_dev_kit"],
        "TA_SIGN_KEY": index["ta_sign_key"],
        "CLOISTER_VENDOR_KEY": VendorKey.load().public.hex(),
        "CLOISTER_CPU_AES": "n",
        "O": tmp_path / "out",
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
    original = device.download(INSTALLED)
    try:
        device.install_ta(tmp_path / "out" / f"{CLOISTER_TA}.ta")
        with Ta(device) as session:
            yield session
    finally:
        device.upload(original, INSTALLED)


def test_a_ta_without_aes_instructions_refuses_what_needs_them(device: Device, ta_without_aes: Ta) -> None:
    ta = ta_without_aes
    info = unpack("struct cl_info", ta.invoke(C.CL_CMD_INFO, TempMemory(bytearray(120), "out"))[0])
    assert suites_of(info.suites) == ["chacha20-poly1305", "aes-256-gcm"]
    fast = make(device, "aegis-128l", (1024,))
    assert ta.load_code(fast.bundle.manifest, fast.licence()) == C.CL_ERROR_CIPHER
    assert ta.state() == C.CL_STATE_OPEN
    for cipher in ("chacha20-poly1305", "aes-256-gcm"):
        ta.works(make(device, cipher, (1024, 65600)))


def test_a_user_reads_what_to_do_about_a_missing_cipher(device: Device, ta_without_aes: Ta) -> None:
    fast = make(device, "aegis-128l", (1024,))
    del ta_without_aes  # the same device opens sessions of its own with it
    with pytest.raises(TeecError, match=r"(?s)CIPHER.*cloister provision.*--cipher chacha20-poly1305") as caught:
        device.load(fast.bundle, fast.licence())
    assert caught.value.code == C.CL_ERROR_CIPHER


def test_a_suite_that_the_ta_lacks_is_refused_after_the_signature(device: Device, ta: Ta) -> None:
    sample = make(device, "chacha20-poly1305", (64,))
    manifest = resealed_manifest(sample, suite=int(C.CL_SUITE_COUNT))
    assert ta.load_code(manifest, sample.licence()) == C.CL_ERROR_CIPHER
    missing = [name for name in SUITES if name not in device.info()["ta"]["ciphers"]]
    for cipher in missing:
        other = make(device, cipher, (64,))
        assert ta.load_code(other.bundle.manifest, other.licence()) == C.CL_ERROR_CIPHER
        forged = other.bundle.manifest[:-1] + bytes([other.bundle.manifest[-1] ^ 1])
        assert ta.load_code(forged, other.licence()) == SIGNATURE_INVALID
    ta.works(replace(sample))

# SPDX-License-Identifier: BSD-2-Clause
"""The TA, built with the plain dev kit of the OP-TEE that was built, exactly as the public OP-TEE build calls it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.compile.inspect_ta import TaError, inspect_ta
from cloister.device.ta import CLOISTER_TA
from cloister.wire import C

ROOT = Path(__file__).parents[2]
TA = ROOT / "ta"
VENDOR = bytes(range(1, 33))
#: Most secure memory that a session may take before a model is loaded.
BUDGET = 512 * 1024


def dev_kit() -> Path:
    index = Path(os.environ.get("CLOISTER_FIRMWARE", ROOT / "out/firmware/qemu.json"))
    if not index.is_file():
        pytest.fail(f"no firmware at {index}: run build/test, or build/setup and the firmware's build")
    return Path(json.loads(index.read_text())["ta_dev_kit"])


def make(out: Path, *settings: str, source: Path = TA) -> subprocess.CompletedProcess[str]:
    # The dev kit's signing script runs under "python3" and needs what this interpreter has.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [
            "make",
            "-C",
            str(source),
            "CROSS_COMPILE=aarch64-linux-gnu-",
            f"TA_DEV_KIT_DIR={dev_kit()}",
            f"O={out}",
            *settings,
        ],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ta")
    result = make(out, f"CLOISTER_VENDOR_KEY={VENDOR.hex()}", "CFG_WERROR=y", "V=1")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    (out / "log").write_text(result.stdout)
    return out


@pytest.mark.parametrize("suffix", ["elf", "stripped.elf", "ta"])
def test_inspection_finds_nothing_wrong(built: Path, suffix: str) -> None:
    report = inspect_ta(built / f"{CLOISTER_TA}.{suffix}")
    report.check(BUDGET)
    assert str(report.uuid) == CLOISTER_TA
    names = dict(report.sections)
    assert names[".text"] > 0 and names[".bss"] > 0
    assert report.code_size + report.data_size > names[".text"] + names[".bss"]
    with pytest.raises(TaError, match="the budget is 4096"):
        report.check(4096)


def test_kernels_are_compiled_for_speed(built: Path) -> None:
    """The dev kit's own -Os and -mstrict-align come earlier on the line: the last of each wins."""
    lines = [line for line in (built / "log").read_text().splitlines() if "engine/gemm.c" in line and " -c " in line]
    assert lines
    for line in lines:
        words = line.split()
        assert [word for word in words if word.startswith("-O")][-1] == "-O3"
        assert [word for word in words if word.endswith("strict-align")][-1] == "-mno-strict-align"


def test_vendor_key_is_in_the_binary(built: Path) -> None:
    assert VENDOR in (built / f"{CLOISTER_TA}.stripped.elf").read_bytes()


def aes_instructions(elf: Path) -> int:
    listing = subprocess.run(["aarch64-linux-gnu-objdump", "-d", str(elf)], capture_output=True, text=True, check=True)
    return len(re.findall(r"\t(?:aes(?:e|d|mc|imc)|pmull2?|sha256\w+)\t", listing.stdout))


def test_crypto_instructions_only_where_the_platform_has_them(built: Path, tmp_path: Path) -> None:
    """A TA cannot ask its CPU, and would be killed by one: nothing of them is in it unless the build says so."""
    assert aes_instructions(built / f"{CLOISTER_TA}.stripped.elf") == 0
    source = shutil.copytree(TA, tmp_path / "ta")
    result = make(tmp_path / "out", "CLOISTER_CPU_AES=y", "CFG_WERROR=y", source=source)
    assert result.returncode == 0, result.stderr[-4000:]
    assert aes_instructions(tmp_path / "out" / f"{CLOISTER_TA}.stripped.elf") > 100


@pytest.mark.parametrize("value", ["yes", "1", "", "Y"])
def test_other_words_for_the_cpu_are_refused(tmp_path: Path, value: str) -> None:
    result = make(tmp_path, f"CLOISTER_CPU_AES={value}")
    assert result.returncode != 0
    assert "CLOISTER_CPU_AES must be y or n" in result.stderr


@pytest.mark.parametrize("key", ["12", "g" * 64, "0" * 63, "0" * 65, "0" * 64 + " 00"])
def test_malformed_vendor_keys_are_refused(tmp_path: Path, key: str) -> None:
    result = make(tmp_path, f"CLOISTER_VENDOR_KEY={key}")
    assert result.returncode != 0
    assert "CLOISTER_VENDOR_KEY must be 64 hexadecimal digits" in result.stderr


def test_embedded_model_is_linked_in(tmp_path: Path) -> None:
    model = tmp_path / "embed"
    model.mkdir()
    marker = bytes(range(64, 128))
    (model / "model.c").write_text(
        '#include "embed.h"\n'
        f"_Alignas(CL_ALIGN) const uint8_t cl_embedded_manifest[] = {{{', '.join(map(str, marker))}}};\n"
        "const uint32_t cl_embedded_manifest_size = sizeof(cl_embedded_manifest);\n"
        f"_Alignas(CL_ALIGN) const uint8_t cl_embedded_payload[{1 << 20}] = {{1}};\n"
        "const uint64_t cl_embedded_payload_size = sizeof(cl_embedded_payload);\n"
    )
    out = tmp_path / "out"
    # A copy: the build's output of another configuration must not be mixed in.
    source = shutil.copytree(TA, tmp_path / "ta")
    result = make(out, f"CLOISTER_EMBED={model}", source=source)
    assert result.returncode == 0, result.stderr[-4000:]
    path = out / f"{CLOISTER_TA}.stripped.elf"
    assert marker in path.read_bytes()
    report = inspect_ta(path)
    report.check(BUDGET + (1 << 20))
    with pytest.raises(TaError, match=r"budget.*\.rodata"):
        report.check(BUDGET)
    assert C.CL_ALIGN == 64

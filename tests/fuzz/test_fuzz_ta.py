# SPDX-License-Identifier: BSD-2-Clause
"""Fuzzes the TA's parsers for a few seconds (``CLOISTER_FUZZ_SECONDS`` for longer), from valid seeds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.layers import layer_id, layers_of, pack_password
from cloister.password import Lock, Password
from cloister.seal.bundle import TensorInfo, seal_bundle
from cloister.seal.keys import VendorKey
from cloister.seal.licence import issue_licence
from cloister.wire import C, ffi, new, pack

HERE = Path(__file__).parent
TA = HERE.parents[1] / "ta"
SOURCES = {
    "manifest": ["manifest.c", "plan.c", "sealed.c", "answer.c", "engine/password.c"],
    "aead": [
        *("aead/chacha20.c", "aead/chacha20poly1305.c", "aead/poly1305.c"),
        *("aead/aegis128l.c", "aead/aegis128l_portable.c", "aead/usable.c"),
    ],
    "licence": ["licence.c", "quota.c", "engine/password.c"],
}


def partition_with_sites(*tensors: str) -> bytes:
    """As much of a partition as says which layers it has."""
    head = ffi.sizeof("struct cl_partition")
    header = new("struct cl_partition", magic=C.CL_MAGIC_PARTITION, ops_offset=head, site_count=len(tensors))
    sites = [new("struct cl_site", layer=list(layer_id(tensor)), channels=9) for tensor in tensors]
    return pack(header) + b"".join(map(pack, sites))


class SampleModel:
    """Enough of a compiled model to be sealed."""

    partitions = (bytes(64), bytes(5000), bytes(200), partition_with_sites("a", "b"))
    inputs = (TensorInfo("x", C.CL_DTYPE_F32, (1, 3, 4, 4), 0, 192), TensorInfo("n", C.CL_DTYPE_I64, (), 192, 8))
    outputs = (TensorInfo("y", C.CL_DTYPE_F32, (2, 5), 0, 40),)
    arena_size = 256

    @property
    def layers(self) -> dict[bytes, int]:
        return layers_of(self.partitions)


def seeds() -> dict[str, list[bytes]]:
    vendor = VendorKey.generate()
    bundle, key = seal_bundle(SampleModel(), vendor, name="fuzz")
    pair, _ = seal_bundle(SampleModel(), vendor, name="fuzz", section=b"backbone", first_uses=[1, 2])
    device = X25519PrivateKey.generate().public_key().public_bytes_raw()
    locks = [
        Lock(tensor, *(np.arange(3, dtype=kind) for kind in (np.uint16, np.float32, np.float32))) for tensor in "ab"
    ]
    password = Password("fuzz", locks)
    licences = [issue_licence(bundle, key, device, vendor, password=given).data for given in (None, password)]
    return {
        "manifest": [bundle.manifest, pair.manifest],
        "licence": [*licences, pack_password(password)],
        "aead": [bytes(range(256)) * 4],
    }


@pytest.mark.parametrize("target", SOURCES)
def test_fuzz(target: str, tmp_path: Path) -> None:
    program = tmp_path / f"fuzz_{target}"
    flags = [
        "-g",
        "-O1",
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{TA}",
        f"-I{TA / 'include'}",
        f"-I{TA / 'aead'}",
    ]
    sanitizers = "-fsanitize=fuzzer,address,undefined"
    sources = [str(HERE / f"fuzz_{target}.c"), *(str(TA / name) for name in SOURCES[target])]
    compiled = subprocess.run(
        ["clang", *flags, sanitizers, "-fno-sanitize-recover=all", "-o", str(program), *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()[target]):
        (corpus / f"seed{number}").write_bytes(seed)
    seconds = int(os.environ.get("CLOISTER_FUZZ_SECONDS", "5"))
    run = subprocess.run(
        [str(program), f"-max_total_time={seconds}", "-max_len=4096", "-print_final_stats=1", str(corpus)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    executed = [line for line in run.stderr.splitlines() if "number_of_executed_units" in line]
    assert executed and int(executed[0].split()[-1]) > 1000

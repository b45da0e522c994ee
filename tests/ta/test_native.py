# SPDX-License-Identifier: BSD-2-Clause
"""The TA's portable parts, built natively: the C tests under the sanitizers, and HPKE against another library."""

from __future__ import annotations

import ctypes
import hmac
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from cloister.seal.ciphers import SUITES, derive_key
from cloister.wire import C

HERE = Path(__file__).parent
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
MAC_INVALID = 0xFFFF3071


def make(target: str, out: Path) -> None:
    result = subprocess.run(
        ["make", "-C", str(HERE), f"O={out}", target], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_portable_parts(tmp_path: Path) -> None:
    make("check", tmp_path)


class Hpke:
    """hpke.c with this library's primitives; ``key`` is the device's pair."""

    def __init__(self, path: Path, key: X25519PrivateKey) -> None:
        self.key = key
        self.agreements = 0
        self.library = ctypes.CDLL(str(path))
        void, size, u32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32
        self.callbacks: list[Any] = [
            ctypes.CFUNCTYPE(u32, void, void, size, void)(self._hmac),
            ctypes.CFUNCTYPE(u32, void, void, void, size, void)(self._open),
            ctypes.CFUNCTYPE(u32, void, void)(self._agree),
        ]
        self.library.lend(*self.callbacks)
        self.library.cl_hpke_open.restype = u32

    def _hmac(self, key: int, data: int, size: int, mac: int) -> int:
        digest = hmac.digest(ctypes.string_at(key, 32), ctypes.string_at(data, size), "sha256")
        ctypes.memmove(mac, digest, 32)
        return 0

    def _open(self, key: int, nonce: int, sealed: int, size: int, plain: int) -> int:
        try:
            cipher = AESGCM(ctypes.string_at(key, 32))
            data = cipher.decrypt(ctypes.string_at(nonce, 12), ctypes.string_at(sealed, size), b"")
        except InvalidTag:
            return MAC_INVALID
        ctypes.memmove(plain, data, len(data))
        return 0

    def _agree(self, peer: int, secret: int) -> int:
        self.agreements += 1
        shared = self.key.exchange(X25519PublicKey.from_public_bytes(ctypes.string_at(peer, 32)))
        ctypes.memmove(secret, shared, 32)
        return 0

    def open(self, enc: bytes, info: bytes, sealed: bytes) -> tuple[int, bytes]:
        plain = ctypes.create_string_buffer(max(len(sealed) - 16, 1))
        public = self.key.public_key().public_bytes_raw()
        res = self.library.cl_hpke_open(
            enc, public, info, ctypes.c_size_t(len(info)), sealed, ctypes.c_size_t(len(sealed)), plain
        )
        return res, plain.raw[: len(sealed) - 16]


@pytest.fixture(scope="module")
def hpke(tmp_path_factory: pytest.TempPathFactory) -> Hpke:
    out = tmp_path_factory.mktemp("hpke")
    make(f"{out}/libhpke.so", out)
    return Hpke(out / "libhpke.so", X25519PrivateKey.generate())


@pytest.mark.parametrize("size", [1, 16, 64, 300])
def test_hpke_opens_what_the_library_seals(hpke: Hpke, size: int) -> None:
    plain, info = os.urandom(size), os.urandom(99)
    sealed = SUITE.encrypt(plain, hpke.key.public_key(), info)
    assert hpke.open(sealed[:32], info, sealed[32:]) == (0, plain)


@pytest.mark.parametrize("cipher", SUITES)
def test_the_ta_derives_the_key_that_the_host_seals_with(hpke: Hpke, cipher: str) -> None:
    content, key = os.urandom(32), ctypes.create_string_buffer(b"\xff" * 32, 32)
    assert hpke.library.cl_suite_key(ctypes.c_uint32(SUITES[cipher]), content, key) == 0
    assert key.raw == derive_key(cipher, content).ljust(32, b"\0")
    others = {derive_key(name, content)[:16] for name in SUITES}
    assert len(others) == len(SUITES)  # no suite's key is the beginning of another's


@pytest.mark.parametrize("suite", [0, int(C.CL_SUITE_COUNT), 2**32 - 1])
def test_the_ta_derives_no_key_for_suites_that_do_not_exist(hpke: Hpke, suite: int) -> None:
    res = hpke.library.cl_suite_key(ctypes.c_uint32(suite), bytes(32), ctypes.create_string_buffer(32))
    assert ctypes.c_uint32(res).value == C.CL_ERROR_CIPHER


def _flip(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


ALTERATIONS: list[Callable[[bytes, bytes, bytes], tuple[bytes, bytes, bytes]]] = [
    lambda enc, info, sealed: (_flip(enc, 0), info, sealed),
    lambda enc, info, sealed: (enc, _flip(info, 0), sealed),
    lambda enc, info, sealed: (enc, info, _flip(sealed, 0)),
    lambda enc, info, sealed: (enc, info, _flip(sealed, len(sealed) - 1)),
    lambda enc, info, sealed: (enc, info[:-1], sealed),
]


@pytest.mark.parametrize("alteration", range(len(ALTERATIONS)))
def test_hpke_refuses_alterations(hpke: Hpke, alteration: int) -> None:
    info = b"information"
    sealed = SUITE.encrypt(bytes(64), hpke.key.public_key(), info)
    assert hpke.open(*ALTERATIONS[alteration](sealed[:32], info, sealed[32:]))[0] == MAC_INVALID


def test_hpke_refuses_another_device(hpke: Hpke) -> None:
    sealed = SUITE.encrypt(bytes(64), X25519PrivateKey.generate().public_key(), b"")
    assert hpke.open(sealed[:32], b"", sealed[32:])[0] == MAC_INVALID


P = 2**255 - 19
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)


@pytest.mark.parametrize("point", [0, 1, *ORDER_8, P - 1, P, P + 1])
@pytest.mark.parametrize("top_bit", [0, 1])
def test_hpke_refuses_points_of_low_order_before_they_reach_optee(hpke: Hpke, point: int, top_bit: int) -> None:
    enc = (point | top_bit << 255).to_bytes(32, "little")
    with pytest.raises(ValueError, match=r"(?i)error computing shared key|low"):
        hpke.key.exchange(X25519PublicKey.from_public_bytes(enc))  # it truly is of low order
    before = hpke.agreements
    assert hpke.open(enc, b"", bytes(80))[0] == MAC_INVALID
    assert hpke.agreements == before

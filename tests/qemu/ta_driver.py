# SPDX-License-Identifier: BSD-2-Clause
"""The Cloister TA's commands, one function each, without what keeps an honest user from harm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from cloister.device import Device
from cloister.device.ta import CLOISTER_TA, RemoteTa
from cloister.layers import layers_of
from cloister.seal import Bundle, VendorKey, seal_bundle
from cloister.seal.bundle import TensorInfo
from cloister.seal.ciphers import DEFAULT
from cloister.seal.licence import LICENCE_DOMAIN, SUITE, issue_licence
from cloister.teec.errors import TeecError
from cloister.teec.params import TempMemory, Value
from cloister.wire import C, ffi, new, pack, unpack

SUCCESS = 0
CANCEL = 0xFFFF0002
BAD_FORMAT = 0xFFFF0005
BAD_PARAMETERS = 0xFFFF0006
BAD_STATE = 0xFFFF0007
NOT_SUPPORTED = 0xFFFF000A
OUT_OF_MEMORY = 0xFFFF000C
SHORT_BUFFER = 0xFFFF0010
TARGET_DEAD = 0xFFFF3024
MAC_INVALID = 0xFFFF3071
SIGNATURE_INVALID = 0xFFFF3072

HEADER = ffi.sizeof("struct cl_sealed_header")
#: What the sample model takes and gives back unchanged: its partitions have no operators.
SAMPLE_INPUT = bytes(range(40))


def plain_partition(size: int) -> bytes:
    """A partition without operators that is `size` bytes long, a multiple of 64: random weights."""
    header = new(
        "struct cl_partition",
        magic=C.CL_MAGIC_PARTITION,
        version=C.CL_FORMAT_VERSION,
        header_size=ffi.sizeof("struct cl_partition"),
        total_size=size,
        ops_offset=ffi.sizeof("struct cl_partition"),
        weights_offset=64,
        weights_size=size - 64,
    )
    return pack(header).ljust(64, b"\0") + os.urandom(size - 64)


@dataclass(frozen=True)
class SampleModel:
    """A model whose output is its input: float32 (2, 5)."""

    partitions: Sequence[bytes]
    arena_size: int = 256
    inputs: Sequence[TensorInfo] = (TensorInfo("x", C.CL_DTYPE_F32, (2, 5), 0, 40),)
    outputs: Sequence[TensorInfo] = (TensorInfo("y", C.CL_DTYPE_F32, (2, 5), 0, 40),)

    @property
    def layers(self) -> dict[bytes, int]:
        return layers_of(self.partitions)


@dataclass(frozen=True)
class Sample:
    """A sealed sample model under a name of its own, so that tests share no counters on the device."""

    vendor: VendorKey
    device_key: bytes
    bundle: Bundle
    content_key: bytes

    @classmethod
    def make(
        cls,
        vendor: VendorKey,
        device_key: bytes,
        sizes: Sequence[int] = (1024, 70016, 65600, 64),
        *,
        partitions: Sequence[bytes] | None = None,
        name: str = "",
        version: int = 1,
        cipher: str = DEFAULT,
    ) -> Sample:
        model = SampleModel(partitions or [plain_partition(size) for size in sizes])
        name = name or f"sample {os.urandom(8).hex()}"
        bundle, key = seal_bundle(model, vendor, name=name, version=version, cipher=cipher)
        return cls(vendor, device_key, bundle, key)

    def licence(self, **limits: Any) -> bytes:
        return issue_licence(
            self.bundle, self.content_key, self.device_key, self.vendor, **{"output": "full", **limits}
        ).data

    def with_bundle(self, **changes: bytes) -> Sample:
        return replace(
            self, bundle=Bundle(**{"manifest": self.bundle.manifest, "payload": self.bundle.payload, **changes})
        )


def resign_licence(data: bytes, vendor: VendorKey, **fields: Any) -> bytes:
    """The licence with some clear fields changed, signed again: what only the vendor can do."""
    licence = unpack("struct cl_licence", data)
    for name, value in fields.items():
        if isinstance(value, bytes):
            ffi.buffer(getattr(licence, name))[:] = value
        else:
            setattr(licence, name, value)
    unsigned = pack(licence)
    return unsigned + vendor.sign(LICENCE_DOMAIN + unsigned)


def reseal_licence(data: bytes, vendor: VendorKey, device_key: bytes, secret: Any) -> bytes:
    """The licence with another secret inside."""
    clear = data[: ffi.offsetof("struct cl_licence", "enc")]
    sealed = SUITE.encrypt(pack(secret), X25519PublicKey.from_public_bytes(device_key), LICENCE_DOMAIN + clear)
    return clear + sealed + vendor.sign(LICENCE_DOMAIN + clear + sealed)


class Ta:
    """A session with the TA; methods return what the TA gives, `code` what it says."""

    def __init__(self, device: Device) -> None:
        self.remote = RemoteTa(device.agent, CLOISTER_TA)

    def __enter__(self) -> Ta:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remote.close()

    def invoke(self, command: int, *params: Any) -> Any:
        return self.remote.invoke(command, *params)

    def code(self, command: int, *params: Any) -> int:
        """The result code of a command, whatever it is."""
        try:
            self.remote.invoke(command, *params)
        except TeecError as error:
            return error.code
        return SUCCESS

    def state(self) -> int:
        (out,) = self.invoke(C.CL_CMD_INFO, TempMemory(bytearray(ffi.sizeof("struct cl_info")), "out"))
        return int(unpack("struct cl_info", out).state)

    @staticmethod
    def load_params(manifest: bytes, licence: bytes, memory: int = 0) -> tuple[Any, ...]:
        out = TempMemory(bytearray(ffi.sizeof("struct cl_loaded")), "out")
        return TempMemory(manifest), TempMemory(licence), out, Value(memory, 0, "inout")

    def load(self, sample: Sample, licence: bytes | None = None, memory: int = 0) -> Any:
        params = self.load_params(sample.bundle.manifest, licence or sample.licence(), memory)
        return unpack("struct cl_loaded", self.invoke(C.CL_CMD_LOAD, *params)[2])

    def load_code(self, manifest: bytes, licence: bytes, memory: int = 0) -> int:
        return self.code(C.CL_CMD_LOAD, *self.load_params(manifest, licence, memory))

    @staticmethod
    def run_params(
        payload: bytes, data: bytes = SAMPLE_INPUT, size: int = 40, output: int = C.CL_OUTPUT_FULL, k: int = 0
    ) -> tuple[Any, ...]:
        return TempMemory(data), TempMemory(payload), TempMemory(bytearray(size), "out"), Value(output, k, "inout")

    def run(self, payload: bytes, **request: Any) -> tuple[bytes, int]:
        """The answer, and how many partitions were decrypted for it."""
        _, _, answer, values = self.invoke(C.CL_CMD_RUN, *self.run_params(payload, **request))
        return bytes(answer[: values.a]), values.b

    def run_code(self, payload: bytes, **request: Any) -> int:
        return self.code(C.CL_CMD_RUN, *self.run_params(payload, **request))

    def begin(self, data: bytes = SAMPLE_INPUT) -> Any:
        return self.invoke(C.CL_CMD_BEGIN, TempMemory(data), Value(0, 0, "out"))[1]

    def step(self, sealed: bytes) -> Any:
        return self.invoke(C.CL_CMD_STEP, TempMemory(sealed), Value(0, 0, "out"))[1]

    def step_code(self, sealed: bytes) -> int:
        return self.code(C.CL_CMD_STEP, TempMemory(sealed), Value(0, 0, "out"))

    @staticmethod
    def finish_params(size: int = 40, output: int = C.CL_OUTPUT_FULL, k: int = 0) -> tuple[Any, ...]:
        return TempMemory(bytearray(size), "out"), Value(output, k, "inout")

    def usage(self) -> Any:
        (out,) = self.invoke(C.CL_CMD_USAGE, TempMemory(bytearray(ffi.sizeof("struct cl_usage")), "out"))
        return unpack("struct cl_usage", out)

    def works(self, sample: Sample) -> None:
        """The session still serves an honest user."""
        self.load(sample)
        assert self.run(sample.bundle.payload) == (SAMPLE_INPUT, len(sample.bundle.partitions))
        assert self.run(b"") == (SAMPLE_INPUT, 0)

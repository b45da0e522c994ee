# SPDX-License-Identifier: BSD-2-Clause
"""A model that is loaded on a device: inputs in, answers out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloister.device.errors import DeviceError
from cloister.device.ta import CLOISTER_TA
from cloister.teec.errors import TaError
from cloister.tensors import InputError, prepare_batch, read_output
from cloister.wire import C, ffi, unpack

if TYPE_CHECKING:
    from cloister.device.base import Device
    from cloister.seal import Bundle

Array = NDArray[Any]
Inputs = Array | Sequence[Array] | Mapping[str, Array]

OUTPUTS = {"label": C.CL_OUTPUT_LABEL, "top-k": C.CL_OUTPUT_TOP_K, "full": C.CL_OUTPUT_FULL}
_ENTRY = np.dtype([("label", "<u4"), ("score", "<f4")])
#: Whether the CPM of a pair begins while its backbone still computes.
OVERLAP = ("auto", "yes", "no")
#: Bytes of inputs sent at once, so that progress shows and Ctrl-C is heard.
_CHUNK = 1 << 20
_CHUNK_COUNT = 16


@dataclass(frozen=True)
class Answers:
    """What the TA answered; rows are the rows of the model's first output, one behind the other.

    Attributes:
        labels: int64; shape (rows,) for "label" and "full" (there the largest of the last axis), (rows, k) for "top-k".
        scores: float32 (rows, k) for "top-k", else None.
        outputs: all outputs by name for "full", inputs' answers joined along the first axis; else None.
        decrypted: partitions that the TA decrypted for them.
        mode: "whole" (one invocation for each inference) or "steps".
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None
    outputs: dict[str, Array] | None
    decrypted: int
    mode: str


@dataclass(frozen=True)
class Usage:
    """What a loaded model takes: `struct cl_usage`, sizes in bytes."""

    peak_bytes: int
    resident_bytes: int
    bytes_decrypted: int
    queries: int


class Session:
    """A model loaded in a device's TA; made by `Device.load()`, a context manager.

    Attributes:
        bundle: what is loaded.
        allowed: most that the licence lets an answer reveal: "label", "top-k" or "full".
        top_k: the largest k it allows.
        queries_left: answers that the licence had left when it was loaded; None: no limit.
        partition_count, resident_count: partitions, and how many of them stay decrypted.
        overlaps: of a pair, whether the CPM begins while the backbone still computes, as far as that is settled.
    """

    def __init__(
        self,
        device: Device,
        bundle: Bundle,
        licence: bytes,
        memory: int,
        mode: str,
        embedded: bool,
        overlap: str = "auto",
    ) -> None:
        self._agent = device.agent
        # The backbone is looked at here too, so that a damaged bundle is told of before anything is sent.
        self._inputs = bundle.user_inputs
        if overlap not in OVERLAP:
            raise DeviceError(f"overlap {overlap!r}", f"use one of {', '.join(OVERLAP)}")
        if bundle.is_pair and embedded:
            raise DeviceError(
                f"{bundle.name!r} is a pair, and its backbone needs the manifest", "load it from its bundle"
            )
        self.bundle = bundle
        self._model: int | None = None
        payload = b"" if embedded else bundle.payload
        path = device.place(payload) if payload else None
        blobs = [b"" if embedded else bundle.manifest, licence]
        if path is None:
            blobs.append(payload)
        backbone: dict[str, Any] | None = None
        if bundle.is_pair:
            section = device.place(bundle.section)
            backbone = {"name": bundle.name, "overlap": overlap, "section": section}
            if section is None:
                blobs.append(bundle.section)
        try:
            result, out = self._agent.call(
                "load",
                blobs,
                uuid=CLOISTER_TA,
                payload=path,
                partitions=[] if embedded else [[offset, size] for offset, size, _ in bundle.partitions],
                memory=memory,
                mode=mode,
                backbone=backbone,
            )
        except TaError as error:
            if error.code != C.CL_ERROR_CIPHER:
                raise
            raise TaError(
                error.code,
                error.origin,
                f"{error.where}: this device has no cipher for {bundle.name!r}, suite {bundle.header.suite}",
                name=error.name,
                remedy="compile it with --device and this device's record (cloister provision -o), "
                "or with --cipher chacha20-poly1305, which every device has",
            ) from error
        self._model = result["model"]
        self.overlaps = bool(result["overlaps"])
        loaded = unpack("struct cl_loaded", out[0])
        self.allowed = next((name for name, value in OUTPUTS.items() if value == loaded.output), str(loaded.output))
        self.top_k = int(loaded.top_k)
        self.queries_left = None if loaded.queries_left == (1 << 64) - 1 else int(loaded.queries_left)
        self.partition_count = int(loaded.partition_count)
        self.resident_count = int(loaded.resident_count)
        self.arena_size = int(loaded.arena_size)

    def run(
        self,
        x: Inputs,
        output: str = "label",
        k: int = 0,
        *,
        finite: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Answers:
        """Compute answers inside the TA; of a pair, the backbone's part beside it in the normal world.

        Args:
            x: the model's input (of a pair, the backbone's), or a sequence or mapping by name of all its inputs. Each
                has the model's dtype and shape, its first axis any multiple of the model's (that many inferences are
                run). Memory order and byte order do not matter; a wider dtype is refused, not rounded.
            output: what the answer reveals: "label", "top-k" or "full", as far as the licence allows.
            output: what the answer reveals: "label", "top-k" or "full", as far as the licence allows.
            k: entries wanted of "top-k"; 0: as many as the licence allows.
            finite: refuse NaN and infinity; False passes them on, to what IEEE 754 and ONNX make of them.
            progress: called with the inferences done and their total.

        Raises:
            InputError: names the input and what is wrong with it.
            TeecError: the TA refuses (QUERY_LIMIT, OUTPUT_LIMIT, MAC_INVALID, ...).
            WorldFailed: a world of the device panicked meanwhile.
        """
        if self._model is None:
            raise DeviceError("the session is closed", "load the model again")
        if output not in OUTPUTS:
            raise InputError(f"output {output!r}", f"use one of {', '.join(OUTPUTS)}")
        data, count = prepare_batch(self._inputs, x, finite=finite)
        k = (k or self.top_k or 1) if output == "top-k" else 1
        size = self._answer_size(output, k)
        step = len(data) // count
        per_call = max(1, min(_CHUNK_COUNT, _CHUNK // max(step, 1)))
        answers: list[bytes] = []
        decrypted, mode = 0, ""
        for start in range(0, count, per_call):
            some = min(per_call, count - start)
            result, out = self._agent.call(
                "run",
                [memoryview(data)[start * step : (start + some) * step]],
                uuid=CLOISTER_TA,
                model=self._model,
                count=some,
                output=int(OUTPUTS[output]),
                k=k if output == "top-k" else 0,
                size=size,
            )
            answers += out
            decrypted += result["decrypted"]
            self.overlaps = bool(result["overlaps"])
            mode = "steps" if result["mode"] == "steps" else "whole"
            if progress is not None:
                progress(start + some, count)
        return self._parse(answers, output, k, decrypted, mode)

    def _rows(self) -> int:
        shape = self.bundle.outputs[0].shape
        return int(np.prod(shape[:-1], dtype=np.int64)) if shape else 1

    def _answer_size(self, output: str, k: int) -> int:
        if output == "full":
            return sum(info.size for info in self.bundle.outputs)
        return self._rows() * k * int(ffi.sizeof("struct cl_answer"))

    def _parse(self, answers: list[bytes], output: str, k: int, decrypted: int, mode: str) -> Answers:
        size = self._answer_size(output, k)
        for answer in answers:
            if len(answer) != size:
                raise DeviceError(f"the TA answered with {len(answer)} bytes, {size} are right for {output!r}")
        if output != "full":
            entries = np.frombuffer(b"".join(answers), _ENTRY).reshape(-1, k)
            labels = entries["label"].astype(np.int64)
            if output == "label":
                return Answers(labels[:, 0], None, None, decrypted, mode)
            return Answers(labels, entries["score"].astype(np.float32), None, decrypted, mode)
        outputs: dict[str, Array] = {}
        offset = 0
        for info in self.bundle.outputs:
            parts = [read_output(info, memoryview(answer)[offset : offset + info.size]) for answer in answers]
            one = len(parts) == 1
            outputs[info.name] = parts[0] if one else np.concatenate(parts) if info.shape else np.stack(parts)
            offset += info.size
        first = outputs[self.bundle.outputs[0].name]
        labels = np.argmax(first, -1).reshape(-1).astype(np.int64) if first.ndim else np.zeros(1, np.int64)
        return Answers(labels, None, outputs, decrypted, mode)

    def usage(self) -> Usage:
        """What the model really takes of the secure world."""
        if self._model is None:
            raise DeviceError("the session is closed", "load the model again")
        size = ffi.sizeof("struct cl_usage")
        _, out = self._agent.call("usage", uuid=CLOISTER_TA, model=self._model, number=int(C.CL_CMD_USAGE), size=size)
        data = unpack("struct cl_usage", out[0])
        return Usage(data.peak_bytes, data.resident_bytes, data.bytes_decrypted, data.queries)

    def close(self) -> None:
        """Drop the model and give its secure memory back; again: nothing."""
        model, self._model = self._model, None
        if model is not None and self._agent.usable:
            self._agent.call("unload", uuid=CLOISTER_TA, model=model)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def payload_name(data: bytes) -> str:
    """The name under which a payload is placed on a device: its content's digest."""
    return hashlib.sha256(data).hexdigest()[:32]

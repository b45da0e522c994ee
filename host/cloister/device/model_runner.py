# SPDX-License-Identifier: BSD-2-Clause
"""Runs one model in the Cloister TA, through libteec; on the device. Commands: `ta/include/cloister_ta.h`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cloister.teec import (
    Code,
    Context,
    Generic,
    Origin,
    OutOfMemory,
    Parameter,
    PartialMemory,
    Session,
    SharedMemory,
    TeecError,
    TempMemory,
    Value,
    ValuePair,
)
from cloister.wire import C, ffi

#: How a model's partitions get into the TA.
MODES = ("auto", "whole", "steps")
#: A payload file of more bytes is read partition by partition at each inference: OP-TEE could not map it at once, and
#: it might not fit into the device's memory.
FILE_SIZE = 64 << 20


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """``enum cl_cpu`` of this machine, as Linux lists it; the TA cannot read it itself."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    # Linux gives each core its own line; what it counts on, all of them have.
    features = [line.partition(":")[2].split() for line in lines if line.startswith("Features")]
    dot_products = bool(features) and all("asimddp" in names for names in features)
    return int(C.CL_CPU_DOTPROD) if dot_products else 0


class ModelRunner:
    """A session of the TA with a model loaded, and the model's sealed payload in shared memory.

    Args:
        manifest, licence: as the TA takes them; an empty manifest means the one embedded in the TA.
        payload: all sealed partitions; registered in one block, without a copy, for as long as this lives, as far
            as the TEE can (some tens of MiB). Or the file that holds them, which is then read in steps.
        partitions: offset and sealed size of each partition in the payload, in bytes.
        memory: most bytes of secure memory to use, 0 for as much as there is.
        mode: "whole": each inference is one invocation; "steps": one for each partition; "auto": whole where the
            payload can be mapped into the TA at once, which shows at the first inference.

    Raises:
        TeecError: the TA refused manifest or licence, or there is not memory enough.
    """

    def __init__(
        self,
        context: Context,
        uuid: str,
        manifest: bytes,
        licence: bytes,
        payload: bytearray | Path,
        partitions: Sequence[tuple[int, int]],
        memory: int,
        mode: str,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}; one of {', '.join(MODES)}")
        self.mode = mode
        self._partitions = partitions
        self._resident = False
        self._session: Session = context.open_session(uuid)
        self._shared: SharedMemory | None = None
        self._apart: memoryview | None = None
        self._file: BinaryIO | None = None
        try:
            out = self._session.invoke(
                C.CL_CMD_LOAD,
                TempMemory(manifest),
                TempMemory(licence),
                TempMemory(ffi.sizeof("struct cl_loaded"), "out"),
                Value(memory, cpu_features(), "inout"),
            )
            #: `struct cl_loaded` as the TA gave it.
            self.loaded = bytes(out[2])
            info = ffi.from_buffer("struct cl_loaded *", self.loaded)
            self._all_resident = info.resident_count == info.partition_count
            self._input_size = int(info.input_size)
            if isinstance(payload, Path):
                self.mode = "steps"
                self._file = payload.open("rb", buffering=0)
                self._shared = context.register(bytearray(self._largest), "inout")
            elif payload:
                self._share(context, payload)
        except BaseException:
            self.close()
            raise

    @property
    def overlaps(self) -> bool:
        """Whether anything runs beside the TA: pairs may."""
        return False

    @property
    def _largest(self) -> int:
        """Bytes of the largest sealed partition."""
        return max((size for _, size in self._partitions), default=0)

    def _share(self, context: Context, payload: bytearray) -> None:
        """Share the whole payload; where the TEE cannot hold the list of its pages, one partition's room."""
        try:
            self._shared = context.register(payload, "inout")
        except TeecError as error:
            largest = self._largest
            # OP-TEE keeps 8 bytes for each page in its core heap, and Linux reports its refusal as GENERIC.
            if self.mode == "whole" or not isinstance(error, OutOfMemory | Generic) or largest >= len(payload):
                raise
            self.mode = "steps"
            self._apart = memoryview(payload)
            self._shared = context.register(bytearray(largest), "inout")

    def _part(self, index: int) -> PartialMemory:
        """A sealed partition, as a part of the shared memory."""
        assert self._shared is not None
        offset, size = self._partitions[index]
        if self._file is not None:
            self._file.seek(offset)
            done = 0
            while done < size:
                # What is missing of a file cut short is refused by the TA: the tag is wrong.
                got = self._file.readinto(self._shared.view[done:size])  # type: ignore[attr-defined]
                if not got:
                    break
                done += got
            return PartialMemory(self._shared, 0, size, "in")
        if self._apart is None:
            return PartialMemory(self._shared, offset, size, "in")
        self._shared.view[:size] = self._apart[offset : offset + size]
        return PartialMemory(self._shared, 0, size, "in")

    def query(self, command: int, size: int) -> bytes:
        """Invoke a command that only gives back up to `size` bytes."""
        (out,) = self._session.invoke(command, TempMemory(size, "out"))
        return bytes(out)

    def run(self, inputs: bytes, count: int, output: int, k: int, size: int) -> tuple[list[bytes], int]:
        """Run `count` inferences.

        Args:
            inputs: `count` times all inputs of the model, one after the other.
            output: a `CL_OUTPUT_` value; k: entries wanted of CL_OUTPUT_TOP_K.
            size: bytes that an answer may have.

        Returns:
            The answers, and how many partitions were decrypted for them.
        """
        step = self._input_size
        if len(inputs) != count * step:
            raise ValueError(f"{len(inputs)} bytes of inputs for {count} inferences of {step} bytes")
        answers, decrypted = [], 0
        out = bytearray(max(size, 8))
        view = memoryview(inputs)
        for index in range(count):
            one = view[index * step : (index + 1) * step]
            answer, parts = self._one(one, output, k, out)
            answers.append(answer)
            decrypted += parts
        return answers, decrypted

    def _one(self, inputs: memoryview, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        return self._answer(TempMemory(inputs), output, k, out)

    def _answer(self, inputs: Parameter, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        """One inference of the TA, however the payload gets there."""
        if self.mode == "steps":
            return self._in_steps(inputs, output, k, out)
        try:
            return self._whole(inputs, output, k, out)
        except OutOfMemory:
            # The TA allocates at LOAD only. What fails here is OP-TEE mapping the payload at once (at most
            # CFG_PGT_CACHE_ENTRIES x 2 MiB of one TA); OP-TEE 4.10 gives that error the TA's own origin.
            if self.mode == "whole" or self._shared is None:
                raise
            self.mode = "steps"
            return self._in_steps(inputs, output, k, out)

    def _whole(self, inputs: Parameter, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        payload: Any = TempMemory(b"")
        if self._shared is not None and not self._resident:
            payload = PartialMemory(self._shared, 0, self._shared.size, "in")
        _, _, answer, values = self._session.invoke(
            C.CL_CMD_RUN, inputs, payload, TempMemory(out, "out"), Value(output, k, "inout")
        )
        # Resident partitions were decrypted by this call; the TA needs the payload no more.
        self._resident = self._all_resident
        return bytes(answer[: values.a]), values.b

    def _in_steps(self, inputs: Parameter, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        if self._shared is None:
            raise ValueError("a model that is embedded in the TA cannot be run in steps")
        self._fetch(self._session.invoke(C.CL_CMD_BEGIN, inputs, Value(0, 0, "out"))[1])
        return self._finish(output, k, out)

    def _fetch(self, wanted: ValuePair) -> None:
        """Give the TA the partitions that it asks for, until it asks for none or for an input first."""
        steps = 0
        while wanted.a < len(self._partitions) and wanted.b:
            size = self._partitions[wanted.a][1]
            if size != wanted.b or steps > len(self._partitions):
                where = f"CL_CMD_BEGIN: the TA asks for {wanted.b} bytes of partition {wanted.a}, it has {size}"
                raise TeecError(Code.BAD_FORMAT, Origin.UNKNOWN, where)
            _, wanted = self._session.invoke(C.CL_CMD_STEP, self._part(wanted.a), Value(0, 0, "out"))
            steps += 1

    def _finish(self, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        try:
            answer, values = self._session.invoke(C.CL_CMD_FINISH, TempMemory(out, "out"), Value(output, k, "inout"))
        except TeecError:
            # It may be asked again for another answer; here the inference is over.
            self._give_up()
            raise
        return bytes(answer[: values.a]), values.b

    def _give_up(self) -> None:
        """End the inference in the TA, however far it is; it is not charged."""
        with contextlib.suppress(TeecError):
            # A partition of no bytes is refused, and a refused STEP ends the inference.
            self._session.invoke(C.CL_CMD_STEP, TempMemory(b""), Value(0, 0, "out"))

    def close(self) -> None:
        """End the session and give the shared memory back."""
        self._session.close()
        if self._file is not None:
            self._file.close()
        if self._shared is not None:
            self._shared.close()

# SPDX-License-Identifier: BSD-2-Clause
"""The backbone of a pair, run in the normal world by the engine that the TA has, as a shared library; on the device."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

from cloister.backbone import Backbone, BackboneError, verified
from cloister.wire import ffi

#: Where `cloister.device.stage` puts it, on the agent's library path.
LIBRARY = "libcloister_engine.so"


class NormalWorld:
    """A backbone in memory, checked by the engine, ready to run.

    Args:
        section: of the bundle, in clear; copied.
        manifest: of the bundle, which the TA has accepted: what it names is then the vendor's.
        name: of the model, for errors.
        library: the engine.

    Raises:
        BackboneError: the section is not the one that the manifest names, the engine refuses it, or there is no engine.
    """

    def __init__(self, section: bytes, manifest: bytes, name: str, library: str = LIBRARY) -> None:
        self.backbone: Backbone = verified(section, manifest, name)
        try:
            self._engine: Any = ffi.dlopen(library)
        except OSError as error:
            raise BackboneError(
                f"this device cannot run the backbone of {name!r}: {error}",
                f"run: python -m cloister_build all, which builds {library}",
            ) from error
        # Pages: the engine wants multiples of CL_ALIGN.
        self._section = mmap.mmap(-1, len(section))
        self._section[:] = section
        self._arena = mmap.mmap(-1, max(1, self.backbone.arena_size))
        self._view = memoryview(self._arena)
        base = ffi.from_buffer("uint8_t[]", self._section)
        self._space = ffi.from_buffer("uint8_t[]", self._arena)
        self._partitions = [base + offset for offset, _ in self.backbone.partitions]
        self._inputs: list[memoryview] = []
        for index, (_, size) in enumerate(self.backbone.partitions):
            status = self._engine.cl_partition_check(self._partitions[index], size, self.backbone.arena_size, ffi.NULL)
            if status:
                raise BackboneError(
                    f"the engine refuses partition {index} of the backbone of {name!r} (status {status})",
                    "compile the pair again with this version of Cloister",
                )

    def begin(self, inputs: memoryview) -> None:
        """Take all inputs of one inference, one after the other."""
        self._inputs = []
        at = 0
        for info in self.backbone.inputs:
            one = inputs[at : at + info.size]
            self._view[info.offset : info.offset + info.size] = one
            self._inputs.append(one)
            at += info.size

    def run(self, first: int, last: int) -> None:
        """Run partitions from `first` up to, without, `last`; other Python threads run meanwhile."""
        for partition in self._partitions[first:last]:
            self._engine.cl_partition_run(partition, self._space, ffi.NULL, ffi.NULL)

    def taps(self, indices: Sequence[int], target: memoryview) -> int:
        """Write taps that are ready, one after the other; returns their bytes."""
        at = 0
        for index in indices:
            tap = self.backbone.taps[index]
            source = self._view[tap.offset : tap.offset + tap.size] if tap.input is None else self._inputs[tap.input]
            target[at : at + tap.size] = source
            at += tap.size
        return at

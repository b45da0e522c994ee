# SPDX-License-Identifier: BSD-2-Clause
"""Runs a pair: the backbone here, in the normal world, and the CPM in the TA, in turn or side by side; on the device.

Data flows one way: taps lie in registered memory that the TA may only read, and its answer comes back elsewhere.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloister.device.model_runner import ModelRunner
from cloister.device.normal_world import NormalWorld
from cloister.teec import Context, PartialMemory, SharedMemory, Value
from cloister.wire import C


class PairRunner(ModelRunner):
    """A pair that is loaded: see :class:`ModelRunner`; the inputs are the backbone's.

    Args:
        section: the backbone's, in clear.
        name: of the model, for errors.
        overlap: whether the CPM begins while the backbone still computes: "yes", "no", or "auto": where there are
            several taps and processors, and the first inferences are faster so. (Each tap handed over alone is an
            invocation more, which small CPMs do not make up for.)

    Raises:
        TeecError: the TA refused manifest or licence.
        BackboneError: the section is not the one that the manifest names.
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
        *,
        section: bytes,
        name: str,
        overlap: str = "auto",
    ) -> None:
        self._taps: SharedMemory | None = None
        self._helper: _Helper | None = None
        super().__init__(context, uuid, manifest, licence, payload, partitions, memory, mode)
        try:
            # Only now is the manifest known to be the vendor's.
            self.normal = NormalWorld(section, manifest, name)
            backbone = self.normal.backbone
            self._input_size = backbone.input_size
            self._taps = context.register(bytearray(sum(tap.size for tap in backbone.taps)), "inout")
            self._stages = stages([tap.ready for tap in backbone.taps])
            several = len(self._stages) > 1 and (os.cpu_count() or 1) > 1
            if overlap == "yes" or (overlap == "auto" and several):
                self._helper = _Helper()
            self._choice = Choice(None if overlap == "auto" and several else overlap == "yes")
        except BaseException:
            self.close()
            raise

    @property
    def overlaps(self) -> bool:
        """Whether the CPM begins while the backbone still computes, as far as that is settled."""
        return self._choice.settled is True

    def _one(self, inputs: memoryview, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        beside = self._choice.next()
        begin = time.monotonic()
        result = self._inference(beside, inputs, output, k, out)
        self._choice.took(beside, time.monotonic() - begin)
        return result

    def _inference(self, beside: bool, inputs: memoryview, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        assert self._taps is not None
        self.normal.begin(inputs)
        if beside and self._helper is not None:
            return self._side_by_side(self._helper, output, k, out)
        self.normal.run(0, len(self.normal.backbone.partitions))
        indices = range(len(self.normal.backbone.taps))
        size = self.normal.taps(indices, self._taps.view)
        return self._answer(PartialMemory(self._taps, 0, size, "in"), output, k, out)

    def _side_by_side(self, helper: _Helper, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        """Hand each tap over as soon as it is ready; the TA works on it in the helper's thread."""
        assert self._taps is not None
        view = self._taps.view
        at = done = 0
        helper.begin()
        try:
            for number, (ready, indices) in enumerate(self._stages):
                self.normal.run(done, ready)
                done = ready
                size = self.normal.taps(indices, view[at:])
                part = PartialMemory(self._taps, at, size, "in")
                at += size
                if number + 1 == len(self._stages):
                    helper.put(lambda part=part: self._last(part, output, k, out))
                else:
                    helper.put(lambda part=part: self._feed(part))
        except BaseException:
            # The TA still waits for taps.
            helper.put(self._give_up)
            helper.wait()
            raise
        result: tuple[bytes, int] = helper.wait()
        return result

    def _feed(self, part: PartialMemory) -> None:
        """Hand over taps of a stage; what the TA then can run, it runs."""
        self._fetch(self._session.invoke(C.CL_CMD_FEED, part, Value(0, 0, "out"))[1])

    def _last(self, part: PartialMemory, output: int, k: int, out: bytearray) -> tuple[bytes, int]:
        """Hand over the last taps, and get the answer."""
        if self._resident:
            return self._whole(part, output, k, out)
        self._fetch(self._session.invoke(C.CL_CMD_FEED, part, Value(0, 0, "out"))[1])
        answer, decrypted = self._finish(output, k, out)
        self._resident = self._all_resident
        return answer, decrypted

    def close(self) -> None:
        """End the session and give all shared memory back."""
        if self._helper is not None:
            self._helper.close()
        super().close()
        if self._taps is not None:
            self._taps.close()


class Choice:
    """In turn or side by side: what was asked for, or what turns out to be faster.

    Args:
        settled: True: side by side; False: in turn; None: the first inferences show it.
    """

    #: The first decrypts what stays; then each way twice.
    TRIALS = (False, False, True, False, True)

    def __init__(self, settled: bool | None) -> None:
        self.settled = settled
        self._times: list[tuple[bool, float]] = []

    def next(self) -> bool:
        """How the next inference is to run."""
        return self.TRIALS[len(self._times)] if self.settled is None else self.settled

    def took(self, beside: bool, seconds: float) -> None:
        """An inference took so long."""
        if self.settled is not None:
            return
        self._times.append((beside, seconds))
        if len(self._times) == len(self.TRIALS):
            least = [min(time for way, time in self._times[1:] if way == kind) for kind in (False, True)]
            self.settled = least[1] < least[0]


def stages(ready: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Taps that become ready together: partitions of the backbone that run before, and the taps' indices."""
    found: list[tuple[int, list[int]]] = []
    for index, parts in enumerate(ready):
        if found and found[-1][0] == parts:
            found[-1][1].append(index)
        else:
            found.append((parts, [index]))
    return found


class _Helper:
    """A thread that makes the calls into the TA, in their order; the first that fails is raised by wait()."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._count = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        failed = False
        while (call := self._calls.get()) is not None:
            if call == "begin":
                failed = False
                continue
            if failed:
                # A refusal has ended the inference in the TA.
                self._results.put((None, None))
                continue
            try:
                self._results.put((call(), None))
            except BaseException as error:
                failed = True
                self._results.put((None, error))

    def begin(self) -> None:
        """The next call is the first of an inference."""
        self._count = 0
        self._calls.put("begin")

    def put(self, call: Any) -> None:
        """Have a call made."""
        self._count += 1
        self._calls.put(call)

    def wait(self) -> Any:
        """Wait for all calls of the inference; returns what the last gave."""
        results = [self._results.get() for _ in range(self._count)]
        self._count = 0
        for _, error in results:
            if error is not None:
                raise error
        return results[-1][0]

    def close(self) -> None:
        """End the thread, after the calls that were put."""
        self._calls.put(None)
        self._thread.join()

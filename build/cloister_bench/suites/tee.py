# SPDX-License-Identifier: BSD-2-Clause
"""What the boundary costs: invocations, sessions, copies, decryption, digests."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from cloister_bench.builder import Builder
from cloister_bench.device import Job, Outcome
from cloister_bench.kernels import corner
from cloister_bench.networks import dense, lenet
from cloister_bench.prepare import Workload, prepare
from cloister_bench.suites.base import Suite, normal_job, ta_job

OURS = "dbe59725-a3e1-4a5c-b8a0-8519676a26b3"
#: xtest's "sims" TA: one instance for all sessions.
SINGLE = "e6a33ed4-562b-463a-bb7e-ff5e15a493c8"
_UNLOAD, _UNKNOWN = "7", "0x7fffffff"
_SUCCESS, _NOT_SUPPORTED = "0", "0xffff000a"
_SMALL, _LARGE = 64 << 10, 1 << 20
_PAGE = 4096
_OPERATORS = 65

_OPENINGS = {
    "session, our TA not loaded": (OURS, "0"),
    "session, another of our TA open": (OURS, "1"),
    "session, single-instance TA loaded": (SINGLE, "1"),
}


def _job(name: str, step: str, *arguments: str | int) -> Job:
    return Job(f"tee-{name}", tuple(map(str, arguments)), step)


def _chain(length: int) -> onnx.ModelProto:
    """Operators on one number, one after the other."""
    b = Builder("chain", [1, 1])
    x = "x"
    for _ in range(length):
        x = b.node("Sigmoid", [x], [1, 1])
    return b.finish(x)


def _model(size: int) -> onnx.ModelProto:
    """A model that takes `size` bytes and looks at one number of them."""
    b = Builder("inputs", [1, size // 4])
    return b.finish(b.relu(corner(b, "x", (1,))))


class TeeSuite(Suite):
    """The boundary itself and the primitives behind it, without any network's arithmetic."""

    name = "tee"

    def prepare(self) -> list[Workload]:
        """A small network for LOAD, weights alone for decryption, inputs alone for the copy."""
        self.load = prepare("lenet", "tee/lenet", lenet())
        width = 256
        self.weights = {}
        for cipher in self.options.ciphers:
            work = prepare("weights", f"tee/{cipher}", dense(4, width), max_partition=width * width * 4 + 4096)
            work.cipher = cipher
            self.weights[cipher] = work
        b = Builder("idle", [1, 1])
        self.idle = prepare("one number", "tee/idle", b.finish(b.relu("x")))
        self.long = prepare("one number, many operators", "tee/long", _chain(_OPERATORS))
        self.copies = [prepare(f"inputs {size}", f"tee/inputs{size}", _model(size)) for size in (_SMALL, _LARGE)]
        return [self.load, *self.weights.values(), self.idle, self.long, *self.copies]

    def jobs(self) -> list[Job]:
        """All of them are short."""
        ours = (OURS, _UNKNOWN, _NOT_SUPPORTED)
        self._empty = _job("empty", "empty invocation", "invoke", OURS, _UNLOAD, _SUCCESS, "none", 0)
        self._memrefs = {
            (kind, size): _job(f"{kind}-{size}", f"invocation with a {kind} memref", "invoke", *ours, kind, size)
            for kind in ("registered", "temporary")
            for size in (_SMALL, _LARGE)
        }
        self._opens = {
            name: _job(f"open-{index}", name, "open", *arguments)
            for index, (name, arguments) in enumerate(_OPENINGS.items())
        }
        self._bytes = {
            (what, size): _job(f"{what}-{size}", f"{what} by xtest's crypt TA", what, size)
            for what in ("digest", "decrypt")
            for size in (_SMALL, _LARGE)
        }
        self._load = _job("load", "LOAD of lenet", "load", "$INPUT/tee/lenet", 0)
        self._resident, self._streamed = {}, {}
        for cipher, work in self.weights.items():
            assert work.compiled is not None
            least = work.compiled.arena_size + max(map(len, work.compiled.partitions)) + 4 * _PAGE
            self._resident[cipher] = ta_job(f"tee-resident-{cipher}", work, 0, f", resident, {cipher}")
            self._streamed[cipher] = ta_job(f"tee-streamed-{cipher}", work, least, f", streamed, {cipher}")
        self._idle = ta_job("tee-idle", self.idle)
        self._long = {"ta": ta_job("tee-long", self.long), "normal": normal_job("tee-long-normal", self.long)}
        self._copies = [ta_job(f"tee-copy-{index}", work) for index, work in enumerate(self.copies)]
        return [
            self._empty,
            *self._memrefs.values(),
            *self._opens.values(),
            *self._bytes.values(),
            self._load,
            *self._resident.values(),
            *self._streamed.values(),
            self._idle,
            *self._long.values(),
            *self._copies,
        ]

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> None:
        """Costs of a call as they were measured, costs of a byte as differences of two sizes."""
        self._call(outcomes, self._empty, "empty invocation")
        self._call(outcomes, self._idle, "inference of one number")
        for (kind, size), job in self._memrefs.items():
            self._call(outcomes, job, f"invocation, {kind} memref of {size >> 10} KiB")
        for name, job in self._opens.items():
            self._call(outcomes, job, name)
        self._call(outcomes, self._load, "LOAD of lenet")
        for what, name in (("digest", "SHA-256"), ("decrypt", "AES-256-GCM decrypt")):
            pair = [self._bytes[what, size] for size in (_SMALL, _LARGE)]
            self._per_byte(outcomes, pair, f"{name}, by a foreign TA", _LARGE - _SMALL)
        self._per_byte(outcomes, self._copies, "copy of inputs into the TA", _LARGE - _SMALL)
        pair = [self._memrefs["registered", size] for size in (_SMALL, _LARGE)]
        self._per_byte(outcomes, pair, "registered memref mapped", _LARGE - _SMALL)
        for cipher in self.weights:
            self._opened(outcomes, cipher)
        self._operators(outcomes)

    def _call(self, outcomes: Mapping[str, Outcome], job: Job, name: str) -> None:
        outcome = self.take(outcomes, job)
        if outcome and outcome.samples:
            self.instructions(name, "ta", outcome.samples)

    def _per_byte(self, outcomes: Mapping[str, Outcome], jobs: list[Job], name: str, size: int) -> None:
        small, large = (self.take(outcomes, job) for job in jobs)
        if small and large and small.samples and large.samples:
            value = (large.samples.median - small.samples.median) / size
            self.add(name, "ta", "per_byte", value, "instructions/byte", spread=large.samples.spread)

    def _operators(self, outcomes: Mapping[str, Outcome]) -> None:
        """What each operator costs in the TA above what it costs in the normal world."""
        ta, normal = (self.take(outcomes, self._long[where]) for where in ("ta", "normal"))
        idle = self.take(outcomes, self._idle)
        if ta and normal and idle and ta.samples and normal.samples and idle.samples:
            value = (ta.samples.median - idle.samples.median - normal.samples.median) / (_OPERATORS - 1)
            self.add("each operator, above the normal world", "ta", "instructions", value, "instructions")

    def _opened(self, outcomes: Mapping[str, Outcome], cipher: str) -> None:
        """A partition decrypted out of shared memory, its tag and numbers checked: streamed against resident."""
        resident, streamed = (self.take(outcomes, jobs[cipher]) for jobs in (self._resident, self._streamed))
        if not (resident and streamed and resident.samples and streamed.samples):
            return
        count = streamed.values.get("decrypted", 0)
        if not count or resident.values.get("decrypted"):
            self.found.problems.append(f"{self.name}: {self._streamed[cipher].step}: it decrypted {count} partitions")
            return
        compiled = self.weights[cipher].compiled
        assert compiled is not None
        size = sum(map(len, compiled.partitions)) * count / len(compiled.partitions)
        value = (streamed.samples.median - resident.samples.median) / size
        spread = streamed.samples.spread
        self.add(f"partition opened by our TA, {cipher}", "ta", "per_byte", value, "instructions/byte", spread=spread)

# SPDX-License-Identifier: BSD-2-Clause
"""The suites by name."""

from __future__ import annotations

from cloister_bench.suites.base import Suite
from cloister_bench.suites.kernels import KernelSuite
from cloister_bench.suites.locks import LockSuite
from cloister_bench.suites.mirror import MirrorSuite
from cloister_bench.suites.models import ModelSuite, SizeSuite
from cloister_bench.suites.strategies import StrategySuite
from cloister_bench.suites.stream import StreamSuite
from cloister_bench.suites.tee import TeeSuite

SUITES: dict[str, type[Suite]] = {
    "tee": TeeSuite,
    "kernels": KernelSuite,
    "models": ModelSuite,
    "stream": StreamSuite,
    "sizes": SizeSuite,
    "locks": LockSuite,
    "mirror": MirrorSuite,
    "strategies": StrategySuite,
}
#: Those that are run where none is named; the others need torch.
USUAL = [name for name in SUITES if name != "strategies"]

# SPDX-License-Identifier: BSD-2-Clause
"""onnxruntime on the device: measures one model after the other with one thread; runs on the device's Python.

usage: ort_client.py RESULTS ID=DIRECTORY ...   (a directory holds model.onnx and inputs.npz)

Prints into RESULTS/ID.txt what the client in C prints for its jobs, and the outputs into RESULTS/ID.out.
"""

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy
import onnxruntime

REPEATS = int(os.environ.get("BENCH_REPEATS", "5"))
WANTED = int(os.environ.get("BENCH_INSTRUCTIONS", "20000000"))


def nothing() -> None:
    """What the loop itself costs."""


def spent(call: Callable[[], Any], calls: int) -> int:
    """Instructions of some calls: with -icount shift=0 a nanosecond is an instruction."""
    begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    for _ in range(calls):
        call()
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) - begin


def measure(call: Callable[[], Any], out: TextIO) -> None:
    """Samples of a call, without the loop's own cost."""
    out.write(f"value first {spent(call, 1)}\n")
    once = spent(call, 1)
    calls = max(1, WANTED // once + 1) if once < WANTED else 1
    spent(nothing, calls)
    overhead = spent(nothing, calls)
    for _ in range(REPEATS):
        out.write(f"sample {calls} {max(0, spent(call, calls) - overhead)}\n")


def job(directory: str, out: TextIO, answer: Path) -> None:
    """One model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(f"{directory}/model.onnx", options, providers=["CPUExecutionProvider"])
    with numpy.load(f"{directory}/inputs.npz") as archive:
        feeds = {name: archive[name] for name in archive.files}
    measure(lambda: session.run(None, feeds), out)
    with answer.open("wb") as file:
        for array in session.run(None, feeds):
            file.write(numpy.ascontiguousarray(array).tobytes())


def main() -> None:
    """All models; one that fails does not stop the others."""
    results = Path(sys.argv[1])
    gc.disable()
    for argument in sys.argv[2:]:
        name, directory = argument.split("=", 1)
        print(f"BENCH {name}", flush=True)
        (results / f"{name}.begun").touch()
        status = 0
        with (results / f"{name}.txt").open("w") as out, (results / f"{name}.err").open("w") as err:
            try:
                job(directory, out, results / f"{name}.out")
            except Exception:
                err.write(traceback.format_exc())
                status = 1
        # The journal reads a result as soon as this file is there: it must not be seen empty.
        (results / f"{name}.end").write_text(str(status))
        (results / f"{name}.end").replace(results / f"{name}.rc")


main()

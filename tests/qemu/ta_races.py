# SPDX-License-Identifier: BSD-2-Clause
"""Runs on the device: threads that change shared memory while the TA reads it, and that cancel its work.

Arguments: a directory with `manifest`, `licence` (20 queries) and `payload`; the TA's UUID. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cloister.teec import Context, Operation, PartialMemory, Session, SharedMemory, TeecError, TempMemory, Value
from cloister.wire import C, unpack

INPUT = bytes(range(40))


def load(session: Session, folder: Path, memory: int) -> int:
    """Queries left."""
    blobs = [TempMemory((folder / name).read_bytes()) for name in ("manifest", "licence")]
    out = session.invoke(C.CL_CMD_LOAD, *blobs, TempMemory(bytearray(40), "out"), Value(memory, 0, "inout"))
    return int(unpack("struct cl_loaded", bytes(out[2])).queries_left)


def request(shared: SharedMemory) -> tuple[Any, ...]:
    whole = PartialMemory(shared, 0, shared.size, "in")
    return TempMemory(INPUT), whole, TempMemory(bytearray(40), "out"), Value(C.CL_OUTPUT_FULL, 0, "inout")


def result(session: Session, *params: Any) -> str:
    """The name of the result; "WRONG ANSWER" for an answer that is none."""
    try:
        _, _, answer, values = session.invoke(C.CL_CMD_RUN, *params)
    except TeecError as error:
        return f"0x{error.code:08x}"
    return "SUCCESS" if bytes(answer[: values.a]) == INPUT else "WRONG ANSWER"


def race(session: Session, shared: SharedMemory, places: list[int]) -> list[str]:
    """Run while another thread keeps flipping bytes of the payload back and forth."""
    stop = threading.Event()

    def flip() -> None:
        view = shared.view
        while not stop.is_set():
            for place in places:
                view[place] ^= 0xFF
            time.sleep(0.0005)
            for place in places:
                view[place] ^= 0xFF

    attacker = threading.Thread(target=flip)
    attacker.start()
    try:
        return [result(session, *request(shared)) for _ in range(8)]
    finally:
        stop.set()
        attacker.join()


def cancel(session: Session, shared: SharedMemory) -> list[str]:
    """Run, and cancel at different moments."""
    results = []
    for delay in (0.002, 0.005, 0.01, 0.02, 0.03):
        operation = Operation(*request(shared))
        timer = threading.Timer(delay, operation.cancel)
        timer.start()
        results.append(result(session, operation))
        timer.join()
    return results


def main() -> None:
    folder, uuid = Path(sys.argv[1]), sys.argv[2]
    payload = bytearray((folder / "payload").read_bytes())
    report: dict[str, Any] = {}
    with Context() as context, SharedMemory.register(context, payload) as shared:
        with context.open_session(uuid) as session:
            # Room for one partition: each run decrypts all of them anew.
            load(session, folder, len(payload) // 2 + (1 << 17))
            report["cancelled"] = cancel(session, shared)
            report["header"] = race(session, shared, [0, 8, 16])
            report["ciphertext"] = race(session, shared, [4096, 70_000, len(payload) - 100_000])
            report["after"] = result(session, *request(shared))
        with context.open_session(uuid) as session:
            report["left"] = load(session, folder, 0)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

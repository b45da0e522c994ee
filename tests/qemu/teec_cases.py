# SPDX-License-Identifier: BSD-2-Clause
"""The bridge against OP-TEE's own TAs: runs on the device, prints one JSON object, case by case.

Drives TAs that are not this project's: ``os_test`` and ``crypt`` of OP-TEE's test suite, and the pseudo TAs
``device`` and ``invoke_tests`` of its core. ``python3 teec_cases.py [case ...]`` runs all cases or those named.
Each case's entry holds ``ok``, and what it measured or the traceback of what failed.
"""

from __future__ import annotations

import gc
import hashlib
import json
import mmap
import os
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cloister import teec
from cloister.teec import (
    Context,
    Operation,
    PartialMemory,
    RegisteredMemory,
    TempMemory,
    Value,
    build_teec,
    codes,
)
from cloister.teec.native import load

CRYPT = "cb3e5ba0-adf1-11e0-998b-0002a5d5c51b"
OS_TEST = "5b9e0e40-2636-11e1-ad9e-0002a5d5c51b"
INVOKE_TESTS = "d96a5b40-c3e5-21e3-8794-1002a5d5c61b"
DEVICE = "7011a688-ddde-4053-a5a9-7b3c4ddf13b8"
ABSENT = "12345678-9abc-def0-1234-56789abcdef0"

SHA256 = 2
SET_GLOBAL, GET_GLOBAL = 40, 41
PANIC, WAIT, MEMREF_MIX, NULL_MEMREFS = 6, 9, 12, 19
PARAMS = 1
GET_DEVICES = 0

TA_DIRECTORY = Path("/lib/optee_armtz")

#: A wait during which another thread cancels, in milliseconds. OP-TEE sleeps it out in the normal world and answers
#: CANCEL instead of SUCCESS at its end.
LONG = 1500

Case = Callable[[], Any]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a case under its function's name."""
    CASES[function.__name__] = function
    return function


def descriptors() -> int:
    """How many file descriptors are open; each context and each shared memory block holds one."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def caught(kind: type[Exception], call: Callable[[], Any]) -> Any:
    """The exception of this kind that ``call`` raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def described(error: teec.TeecError) -> dict[str, Any]:
    """An error, for the report."""
    return {"class": type(error).__name__, "code": error.code, "name": error.name, "origin": error.origin.name}


@case
def constants() -> dict[str, int]:
    """The numbers in codes.py are those of the header that the extension was compiled with."""
    _, lib = load()
    wrong = {
        name: getattr(lib, name)
        for name, value in {**codes.CLIENT_CODES, **codes.CLIENT_CONSTANTS}.items()
        if getattr(lib, name) != value
    }
    wrong |= {
        name: got
        for name, value in codes.OPTIONAL_CODES.items()
        if (got := getattr(lib, build_teec.optional_name(name))) not in (0, value)
    }
    assert not wrong, wrong
    return {"checked": len(codes.CLIENT_CODES) + len(codes.CLIENT_CONSTANTS) + len(codes.OPTIONAL_CODES)}


@case
def value_in_and_out() -> list[int]:
    """Value parameters in one direction each."""
    with Context() as context, context.open_session(CRYPT) as session:
        session.invoke(SET_GLOBAL, Value(0x89ABCDEF))
        (pair,) = session.invoke(GET_GLOBAL, Value(0, 0, "out"))
        assert pair.a == 0x89ABCDEF, pair
        return list(pair)


@case
def value_inout() -> list[int]:
    """A value that goes both ways, in each of the four places, and three inputs with one output."""
    results = []
    with Context() as context, context.open_session(INVOKE_TESTS) as session:
        for place in range(4):
            params: list[Any] = [None] * 4
            params[place] = Value(40, place, "inout")
            results.append(session.invoke(PARAMS, *params)[place].a)
        out = session.invoke(PARAMS, Value(1, 10), Value(2, 20), Value(4, 40), Value(0, 0, "out"))[3]
        assert (out.a, out.b) == (7, 70), out
    assert results == [40, 41, 42, 43], results
    return results


@case
def temp_memory() -> dict[str, str]:
    """A digest of memory that is shared for one call, against hashlib's."""
    data = os.urandom(10000)
    with Context() as context, context.open_session(CRYPT) as session:
        _, digest = session.invoke(SHA256, TempMemory(data), TempMemory(32, "out"))
    assert digest == hashlib.sha256(data).digest()
    return {"sha256": bytes(digest).hex()}


def mix(session: teec.Session, params: Sequence[Any], views: Sequence[memoryview]) -> None:
    """out = ++inout + in, by the TA, for any kind of memory; ``views`` are the three parts as the client sees them."""
    source, both, target = views
    source[:], both[:], target[:] = (
        bytes([5] * len(source)),
        bytes(each & 255 for each in range(len(both))),
        bytes(len(target)),
    )
    session.invoke(MEMREF_MIX, *params)
    expected = bytes((each + 1) & 255 for each in range(len(both)))
    assert bytes(both) == expected
    assert bytes(target) == bytes((each + 5) & 255 for each in expected)
    assert bytes(source) == bytes([5] * len(source))


@case
def memory_in_inout_out() -> None:
    """All three directions of all three kinds of memory, with sizes that are no multiple of a page."""
    size = 1000
    ways = ("in", "inout", "out")
    with Context() as context, context.open_session(OS_TEST) as session:
        plain = [bytearray(size) for _ in range(3)]
        temporary = [TempMemory(each, way) for each, way in zip(plain, ways, strict=True)]
        mix(session, temporary, [memoryview(each) for each in plain])
        registered = [context.register(bytearray(size), way) for way in ways]
        mix(session, [RegisteredMemory(each) for each in registered], [each.view for each in registered])
        allocated = [context.allocate(size, way) for way in ways]
        mix(session, allocated, [each.view for each in allocated])


@case
def partial_memory() -> None:
    """Three parts of one block, registered and allocated, at odd offsets; the bytes around them stay as they were."""
    size, offsets = 200, (3, 4097, 9001)
    with Context() as context, context.open_session(OS_TEST) as session:
        for block in (context.register(bytearray(12288)), context.allocate(12288)):
            with block:
                whole = block.view
                whole[:] = b"\xa5" * len(whole)
                ways = zip(offsets, ("in", "inout", "out"), strict=True)
                parts = [PartialMemory(block, at, size, way) for at, way in ways]
                mix(session, parts, [whole[at : at + size] for at in offsets])
                kept = bytearray(whole)
                for at in reversed(offsets):
                    del kept[at : at + size]
                assert kept == b"\xa5" * (12288 - 3 * size)


@case
def registered_memory_is_not_copied() -> dict[str, int]:
    """An mmap, a numpy array if there is numpy, and read-only bytes, in one block each."""
    counts = {"buffers": 0}
    makers: list[Callable[[], Any]] = [lambda: mmap.mmap(-1, 8192), lambda: bytearray(5000)]
    try:
        import numpy
    except ImportError:
        pass
    else:
        makers.append(lambda: numpy.arange(3000, dtype=numpy.float32).reshape(30, 100))
    with Context() as context, context.open_session(CRYPT) as session:
        for make in makers:
            buffer = make()
            with context.register(buffer) as block:
                for fill in (b"\x01", b"\x02"):
                    block.view[:] = fill * block.size
                    _, digest = session.invoke(SHA256, RegisteredMemory(block, "in"), TempMemory(32, "out"))
                    assert digest == hashlib.sha256(fill * block.size).digest()
                    assert bytes(buffer[:1]) == fill or not isinstance(buffer, bytearray)
            counts["buffers"] += 1
        constant = b"read only" * 1000
        with context.register(constant, "in") as block:
            _, digest = session.invoke(SHA256, block, TempMemory(32, "out"))
        assert digest == hashlib.sha256(constant).digest()
    return counts


@case
def null_and_empty_memory() -> None:
    """The TA tells an empty buffer, which has an address, from a null reference."""
    with Context() as context, context.open_session(OS_TEST) as session:
        session.invoke(
            NULL_MEMREFS,
            TempMemory(b"", "in"),
            TempMemory(None, "in"),
            TempMemory(bytearray(), "out"),
            TempMemory(None, "out"),
        )


@case
def short_buffer() -> dict[str, Any]:
    """A buffer too small, and a question for the size, tell the size that then serves."""
    with Context() as context, context.open_session(DEVICE) as session:
        first = caught(teec.ShortBuffer, lambda: session.invoke(GET_DEVICES, TempMemory(5, "out")))
        size = first.required[0]
        assert caught(teec.ShortBuffer, lambda: session.invoke(GET_DEVICES, TempMemory(None, "out"))).required == {
            0: size
        }
        block = context.allocate(8)
        for param in (RegisteredMemory(block, "out"), PartialMemory(block, 2, 4, "out")):
            error = caught(teec.ShortBuffer, partial(session.invoke, GET_DEVICES, param))
            assert error.required == {0: size}
        (found,) = session.invoke(GET_DEVICES, TempMemory(size + 100, "out"))
        assert len(found) == size
        names = [str(uuid.UUID(bytes=bytes(found[at : at + 16]))) for at in range(0, size, 16)]
    return {**described(first), "required": size, "devices": names}


@case
def unknown_uuid() -> dict[str, Any]:
    """No TA of this UUID."""
    with Context() as context:
        return described(caught(teec.ItemNotFound, lambda: context.open_session(ABSENT)))


@case
def damaged_ta() -> dict[str, Any]:
    """A TA whose file was changed after it was signed."""
    target = TA_DIRECTORY / f"{CRYPT}.ta"
    original = target.read_bytes()
    aside = target.with_suffix(".part")
    try:
        aside.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        aside.replace(target)
        with Context() as context:
            return described(caught(teec.Security, lambda: context.open_session(CRYPT)))
    finally:
        aside.write_bytes(original)
        aside.replace(target)


@case
def bad_command() -> dict[str, Any]:
    """A command that the TA does not know."""
    with Context() as context, context.open_session(CRYPT) as session:
        return described(caught(teec.TeecError, lambda: session.invoke(0xFFFFFFFF)))


@case
def bad_parameters() -> dict[str, Any]:
    """Parameter types that the TA does not accept."""
    with Context() as context, context.open_session(CRYPT) as session:
        return described(caught(teec.BadParameters, lambda: session.invoke(SHA256, Value(1))))


@case
def registered_names() -> dict[str, Any]:
    """A name that the application gave to a code of a TA."""
    teec.register_ta_errors(CRYPT, {codes.Code.BAD_PARAMETERS: "NOT_A_DIGEST_REQUEST"})
    try:
        with Context() as context, context.open_session(CRYPT) as session:
            return described(caught(teec.TaError, lambda: session.invoke(SHA256, Value(1))))
    finally:
        teec.errors._ta_errors.clear()


@case
def panic() -> dict[str, Any]:
    """A TA that panics, what its session says then, and a new one."""
    with Context() as context:
        with context.open_session(OS_TEST) as session:
            first = caught(teec.TargetDead, lambda: session.invoke(PANIC))
            second = caught(teec.TargetDead, lambda: session.invoke(WAIT, Value(1)))
        with context.open_session(OS_TEST) as session:
            session.invoke(WAIT, Value(1))
    return {**described(first), "again": described(second)["name"]}


@case
def cancellation() -> dict[str, Any]:
    """A wait that another thread cancels ends with CANCEL; without that thread it ends with success."""
    with Context() as context, context.open_session(OS_TEST) as session:
        session.invoke(WAIT, Value(LONG))
        operation = Operation(Value(LONG))
        ended: list[bool] = []
        canceller = threading.Timer(0.3, lambda: ended.append(operation.cancel(wait=15)))
        canceller.start()
        error = caught(teec.Cancel, lambda: session.invoke(WAIT, operation))
        canceller.join()
        assert ended == [True]
    return described(error)


@case
def after_cancellation() -> None:
    """A cancelled call leaves the session usable, and the same operation too; before a call, it is not even made."""
    with Context() as context, context.open_session(OS_TEST) as session:
        operation = Operation(Value(LONG))
        threading.Timer(0.3, lambda: operation.cancel(wait=15)).start()
        caught(teec.Cancel, lambda: session.invoke(WAIT, operation))
        session.invoke(WAIT, Value(10))
        session.invoke(WAIT, operation)
        early = Operation(Value(LONG))
        early.cancel()
        assert caught(teec.Cancel, lambda: session.invoke(WAIT, early)).origin is teec.Origin.API


@case
def closing_during_a_call() -> dict[str, Any]:
    """A context that is closed while another thread's call is under way: the call ends, then everything is freed."""
    before = descriptors()
    context = Context()
    session = context.open_session(OS_TEST)
    outcome: list[str] = []

    def work() -> None:
        try:
            session.invoke(WAIT, Value(LONG))
        except teec.TeecError as error:
            outcome.append(error.name)

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.5)
    context.close()
    worker.join(15)
    assert outcome == ["CANCEL"], outcome
    assert descriptors() == before
    return {"outcome": outcome}


@case
def other_threads_run_meanwhile() -> dict[str, int]:
    """The interpreter's lock is free while the TEE works."""
    steps = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal steps
        while not stop.is_set():
            steps += 1
            time.sleep(0.01)

    worker = threading.Thread(target=count)
    with Context() as context, context.open_session(OS_TEST) as session:
        worker.start()
        session.invoke(WAIT, Value(1000))
        during = steps
        stop.set()
        worker.join()
    assert during >= 10, during
    return {"steps": during}


@case
def two_threads() -> None:
    """Two sessions of one context, used by two threads at once."""
    failures: list[BaseException] = []
    with Context() as context:

        def work(seed: int) -> None:
            try:
                with context.open_session(CRYPT) as session:
                    for turn in range(10):
                        data = bytes([seed, turn]) * 500
                        _, digest = session.invoke(SHA256, TempMemory(data), TempMemory(32, "out"))
                        assert digest == hashlib.sha256(data).digest()
            except BaseException as error:
                failures.append(error)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not failures, failures


@case
def released_in_every_path() -> dict[str, int]:
    """No descriptor is left by calls that work, calls that fail at each point, or objects that are only dropped."""

    def works() -> None:
        with Context() as context, context.open_session(CRYPT) as session:
            block, other = context.register(bytearray(5000)), context.allocate(5000)
            session.invoke(SHA256, RegisteredMemory(block, "in"), PartialMemory(other, 0, 32, "out"))

    def fails_to_open() -> None:
        with Context() as context:
            context.register(bytearray(5000))
            caught(teec.ItemNotFound, lambda: context.open_session(ABSENT))

    def fails_in_the_call() -> None:
        def work() -> None:
            with Context() as context, context.open_session(CRYPT) as session, context.allocate(5000) as block:
                session.invoke(SHA256, block, TempMemory(bytearray(5000), "inout"))

        caught(teec.BadParameters, work)

    def fails_to_register() -> None:
        with Context() as context:
            caught(teec.TeecError, lambda: context.allocate(1 << 46))

    def dropped() -> None:
        context = Context()
        ring: list[Any] = [context, context.open_session(CRYPT), context.allocate(100), context.register(bytearray(9))]
        ring.append(ring)

    def closed_twice() -> None:
        context = Context()
        session = context.open_session(CRYPT)
        block = context.allocate(100)
        context.close()
        for each in (block, session, context):
            each.close()
        caught(teec.ClosedError, lambda: session.invoke(SHA256))

    paths = (works, fails_to_open, fails_in_the_call, fails_to_register, dropped, closed_twice)
    works()
    before = descriptors()
    left = {}
    for path in paths:
        for _ in range(5):
            path()
        left[path.__name__] = descriptors() - before
    assert not any(left.values()), left
    return left


@case
def command_line() -> dict[str, str]:
    """``python3 -m cloister.teec`` calls a TA and reports an error with its name."""
    command = [sys.executable, "-m", "cloister.teec"]
    done = subprocess.run(
        [*command, "invoke", CRYPT, "2", "mem:text:abc", "out:32", "--registered"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(b"abc").digest()[:16].hex(" ") in done.stdout, done.stdout
    opened = subprocess.run([*command, "open", ABSENT], capture_output=True, text=True, check=False)
    assert opened.returncode == 1, opened
    assert "ITEM_NOT_FOUND" in opened.stderr, opened.stderr
    assert "Traceback" not in opened.stderr
    return {"stdout": done.stdout, "stderr": opened.stderr}


def main(names: list[str]) -> int:
    """Run the cases named, or all of them, and print the report."""
    report: dict[str, dict[str, Any]] = {}
    for name in names or CASES:
        start = time.monotonic()
        try:
            report[name] = {"ok": True, "result": CASES[name]()}
        except BaseException:
            report[name] = {"ok": False, "error": traceback.format_exc()}
        report[name]["seconds"] = round(time.monotonic() - start, 3)
    print(json.dumps(report))
    return 0 if all(entry["ok"] for entry in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

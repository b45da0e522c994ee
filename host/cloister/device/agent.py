# SPDX-License-Identifier: BSD-2-Clause
"""The agent: runs on the device, takes commands on its standard input, answers on its standard output.

`python3 -m cloister.device.agent`, started by the host over SSH. It ends with its input, so nothing
stays behind when the connection breaks; the sessions it holds with the TEE end with it.

Each request has a field `command` and further fields; each answer has `ok`, and `result` or `error`.
"""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from cloister.device.frames import PROTOCOL_VERSION, decode, encode
from cloister.device.model_runner import FILE_SIZE, ModelRunner
from cloister.errors import CloisterError
from cloister.teec import Context, Session, ShortBuffer, TeecError, TempMemory, Value

Blobs = list[bytes]
Answer = tuple[dict[str, Any], list[bytes | memoryview]]


class Agent:
    """The state of one connection: the TEE context, sessions with applications, loaded models."""

    def __init__(self) -> None:
        self.context = Context()
        self.sessions: dict[int, Session] = {}
        self.models: dict[int, ModelRunner] = {}
        self._next = 1
        self.commands: dict[str, Callable[[dict[str, Any], Blobs], Answer]] = {
            "hello": self.hello,
            "ta_open": self.ta_open,
            "ta_invoke": self.ta_invoke,
            "ta_close": self.ta_close,
            "query": self.query,
            "load": self.load,
            "run": self.run,
            "usage": self.usage,
            "unload": self.unload,
        }

    def hello(self, _request: dict[str, Any], _blobs: Blobs) -> Answer:
        """Who answers: protocol, Python, kernel."""
        return {
            "protocol": PROTOCOL_VERSION,
            "python": platform.python_version(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "pid": os.getpid(),
        }, []

    def _key(self) -> int:
        self._next += 1
        return self._next - 1

    def ta_open(self, request: dict[str, Any], blobs: Blobs) -> Answer:
        """Open a session with any application; `params` as of ta_invoke."""
        session = self.context.open_session(request["uuid"], *parameters(request["params"], blobs))
        key = self._key()
        self.sessions[key] = session
        values, out = results(session.opened)
        return {"session": key, "params": values}, out

    def ta_invoke(self, request: dict[str, Any], blobs: Blobs) -> Answer:
        """Invoke a command; memory that comes back is in the answer's blobs."""
        session = self.sessions[request["session"]]
        values, out = results(session.invoke(request["number"], *parameters(request["params"], blobs)))
        return {"params": values}, out

    def ta_close(self, request: dict[str, Any], _blobs: Blobs) -> Answer:
        """Close a session."""
        self.sessions.pop(request["session"]).close()
        return {}, []

    def query(self, request: dict[str, Any], _blobs: Blobs) -> Answer:
        """A command of the Cloister TA that only gives `size` bytes, in any state."""
        if self.models:
            # A session of its own could need a second instance's memory.
            return {}, [next(iter(self.models.values())).query(request["number"], request["size"])]
        with self.context.open_session(request["uuid"]) as session:
            (out,) = session.invoke(request["number"], TempMemory(request["size"], "out"))
            return {}, [bytes(out)]

    def load(self, request: dict[str, Any], blobs: Blobs) -> Answer:
        """Load a model; blobs: manifest, licence, and the payload unless `payload` is the path of a file.

        Of a pair, `backbone` holds the model's `name` and `overlap`, and the path of the `section`; without a path the
        section is the last blob.
        """
        path = request.get("payload")
        payload: bytearray | Path = bytearray(blobs[2]) if path is None else Path(path)
        mode = request["mode"]
        if isinstance(payload, Path) and (mode == "whole" or (mode == "auto" and payload.stat().st_size <= FILE_SIZE)):
            payload = bytearray(payload.read_bytes())
        partitions = [tuple(part) for part in request["partitions"]]
        loading = (self.context, request["uuid"], *blobs[:2], payload, partitions, request["memory"], request["mode"])
        backbone = request.get("backbone")
        if backbone is None:
            runner = ModelRunner(*loading)
        else:
            from cloister.device.pair_runner import PairRunner  # what plain models need not wait for

            section = blobs[-1] if backbone["section"] is None else Path(backbone["section"]).read_bytes()
            runner = PairRunner(*loading, section=section, name=backbone["name"], overlap=backbone["overlap"])
        key = self._key()
        self.models[key] = runner
        return {"model": key, "overlaps": runner.overlaps}, [runner.loaded]

    def run(self, request: dict[str, Any], blobs: Blobs) -> Answer:
        """Run `count` inferences on inputs that lie one behind the other."""
        runner = self.models[request["model"]]
        answers, decrypted = runner.run(blobs[0], request["count"], request["output"], request["k"], request["size"])
        return {"decrypted": decrypted, "mode": runner.mode, "overlaps": runner.overlaps}, [*answers]

    def usage(self, request: dict[str, Any], _blobs: Blobs) -> Answer:
        """What a model takes."""
        return {}, [self.models[request["model"]].query(request["number"], request["size"])]

    def unload(self, request: dict[str, Any], _blobs: Blobs) -> Answer:
        """Drop a model."""
        self.models.pop(request["model"]).close()
        return {}, []

    def answer(self, request: dict[str, Any], blobs: Blobs) -> Answer:
        """Carry out one request; errors become answers."""
        try:
            command = self.commands.get(request.get("command", ""))
            if command is None:
                raise CloisterError(f"unknown command {request.get('command')!r}")
            result, out = command(request, blobs)
            return {"ok": True, "result": result}, out
        except TeecError as error:
            required = error.required if isinstance(error, ShortBuffer) else {}
            described = {
                "kind": "tee",
                "code": error.code,
                "origin": int(error.origin),
                "where": error.where,
                "uuid": request.get("uuid", ""),
                "required": [[index, size] for index, size in required.items()],
            }
        except CloisterError as error:
            described = {"kind": "cloister", "message": error.message, "remedy": error.remedy}
        except Exception as error:
            described = {"kind": "other", "message": repr(error), "trace": traceback.format_exc()}
        return {"ok": False, "error": described}, []

    def close(self) -> None:
        """End all sessions."""
        for runner in self.models.values():
            runner.close()
        self.context.close()


def parameters(described: list[Any], blobs: Blobs) -> list[Value | TempMemory | None]:
    """Parameters of an operation from their description: None, ["value", dir, a, b], ["memory", dir, blob | size]."""
    result: list[Value | TempMemory | None] = []
    for item in described:
        if item is None:
            result.append(None)
        elif item[0] == "value":
            result.append(Value(item[2], item[3], item[1]))
        elif item[1] == "out":
            result.append(TempMemory(item[2], "out"))
        else:
            data = blobs[item[2]]
            result.append(TempMemory(data if item[1] == "in" else bytearray(data), item[1]))
    return result


def results(values: tuple[Any, ...]) -> tuple[list[Any], list[bytes | memoryview]]:
    """Describe what came back: None, [a, b], or {"blob": index}."""
    described: list[Any] = []
    blobs: list[bytes | memoryview] = []
    for value in values:
        if value is None:
            described.append(None)
        elif isinstance(value, memoryview):
            described.append({"blob": len(blobs)})
            blobs.append(bytes(value))
        else:
            described.append([value.a, value.b])
    return described, blobs


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until the source ends."""
    agent = Agent()
    try:
        while True:
            frame = decode(source.read)
            if frame is None:
                return
            header, out = agent.answer(*frame)
            for piece in encode(header, out):
                sink.write(piece)
            sink.flush()
    finally:
        agent.close()


def main() -> int:
    """Serve on what were standard input and output; whatever prints goes to standard error instead."""
    source = os.fdopen(os.dup(0), "rb", buffering=1 << 16)
    sink = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    try:
        serve(source, sink)
    except CloisterError as error:
        print(f"cloister agent: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

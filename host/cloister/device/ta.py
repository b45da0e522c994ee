# SPDX-License-Identifier: BSD-2-Clause
"""A session with any trusted application of a device, driven from the host; and the Cloister TA's names."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any
from uuid import UUID

from cloister.device.client import AgentClient
from cloister.device.errors import DeviceError
from cloister.teec.errors import register_ta_errors
from cloister.teec.params import Parameter, TempMemory, Value, ValuePair
from cloister.wire import HEADERS, C, header_dir


def cloister_uuid() -> str:
    """The Cloister TA's UUID, as the header `cloister_ta.h` has it."""
    text = (header_dir() / HEADERS[1]).read_text("utf-8")
    macro = text[text.index("#define CL_TA_UUID") : text.index("/* cffi: begin */")]
    digits = re.findall(r"0x([0-9a-fA-F]+)", macro)
    return str(UUID("".join(digits)))


#: The Cloister TA.
CLOISTER_TA = cloister_uuid()

register_ta_errors(
    CLOISTER_TA,
    {getattr(C, name): name.removeprefix("CL_ERROR_") for name in dir(C) if name.startswith("CL_ERROR_")},
)


class RemoteTa:
    """A session with a trusted application on a device; a context manager.

    The parameters are those of `cloister.teec` as far as a host can have them: Value, TempMemory, None.
    """

    def __init__(self, agent: AgentClient, uuid: str, *params: Parameter | None) -> None:
        self._agent = agent
        self.uuid = str(UUID(uuid))
        described, blobs = describe(params)
        result, out = agent.call("ta_open", blobs, uuid=self.uuid, params=described)
        self._session: int | None = result["session"]
        #: What the application returned in the parameters of opening.
        self.opened = results(result["params"], out)

    def invoke(self, command: int, *params: Parameter | None) -> tuple[ValuePair | bytes | None, ...]:
        """Invoke a command.

        Returns:
            One item for each parameter: a ValuePair, the bytes that the application wrote, or None for an input.

        Raises:
            TeecError: with code, origin and name.
        """
        if self._session is None:
            raise DeviceError(f"the session with {self.uuid} is closed")
        described, blobs = describe(params)
        result, out = self._agent.call(
            "ta_invoke", blobs, uuid=self.uuid, session=self._session, number=command, params=described
        )
        return results(result["params"], out)

    def close(self) -> None:
        """Close the session; again: nothing."""
        session, self._session = self._session, None
        if session is not None and self._agent.usable:
            self._agent.call("ta_close", session=session)

    def __enter__(self) -> RemoteTa:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def describe(params: tuple[Parameter | None, ...]) -> tuple[list[Any], list[bytes]]:
    """Parameters as the agent reads them, and the blobs they refer to."""
    described: list[Any] = []
    blobs: list[bytes] = []
    for param in params:
        if param is None:
            described.append(None)
        elif isinstance(param, Value):
            described.append(["value", param.direction, param.a, param.b])
        elif isinstance(param, TempMemory):
            data = bytes(param.buffer or b"")
            if param.direction == "out":
                described.append(["memory", "out", len(data)])
            else:
                described.append(["memory", param.direction, len(blobs)])
                blobs.append(data)
        else:
            raise DeviceError(
                f"{type(param).__name__} exists only on the device itself", "pass Value, TempMemory or None"
            )
    return described, blobs


def results(described: list[Any], blobs: list[bytes]) -> tuple[ValuePair | bytes | None, ...]:
    """What the agent described, as Python values."""
    return tuple(
        None if item is None else blobs[item["blob"]] if isinstance(item, dict) else ValuePair(*item)
        for item in described
    )

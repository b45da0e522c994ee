# SPDX-License-Identifier: BSD-2-Clause
"""Call any trusted application from a device's shell.

    python3 -m cloister.teec open <uuid>
    python3 -m cloister.teec invoke <uuid> <command> [parameter ...]

Up to four parameters:

    value:1,2  value-inout:1,2  value-out     two 32-bit numbers, decimal or 0x
    mem:hex:0011ff  mem:text:abc  mem:file:PATH     memory that the TA reads
    inout:hex:... inout:text:... inout:file:PATH    memory that the TA reads and writes
    out:64  out:64:PATH                       memory that the TA writes, shown or stored in PATH
    null  null-out  null-inout                a null memory reference
    none                                      nothing in this place

SHA-256 of "abc" by a TA of OP-TEE's test suite:

    python3 -m cloister.teec invoke cb3e5ba0-adf1-11e0-998b-0002a5d5c51b 2 mem:text:abc out:32
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloister.errors import CloisterError
from cloister.teec import (
    ArgumentError,
    Context,
    Login,
    Parameter,
    SharedMemory,
    TempMemory,
    Value,
    ValuePair,
)
from cloister.teec.codes import PAYLOAD_REF_COUNT

#: Bytes of an output that are shown in one line.
WIDTH = 16


def number(text: str) -> int:
    """A number in decimal, or in another base with its prefix.

    Raises:
        ArgumentError: it is none.
    """
    try:
        return int(text, 0)
    except ValueError:
        raise ArgumentError(f"{text!r} is no number", "write 255 or 0xff") from None


def content(text: str) -> bytes:
    """The bytes that ``hex:``, ``text:`` or ``file:`` stand for.

    Raises:
        ArgumentError: another form, odd hexadecimal digits, or a file that cannot be read.
    """
    form, _, rest = text.partition(":")
    try:
        if form == "hex":
            return bytes.fromhex(rest)
        if form == "text":
            return rest.encode()
        if form == "file":
            return Path(rest).read_bytes()
    except (ValueError, OSError) as error:
        raise ArgumentError(f"{text!r}: {error}", "give hex:<digits>, text:<text> or file:<path>") from error
    raise ArgumentError(f"{text!r}", "give hex:<digits>, text:<text> or file:<path>")


def parse(text: str) -> tuple[Parameter | None, Path | None]:
    """One parameter of the command line, and the file that its output goes to.

    Raises:
        ArgumentError: it is of no known form.

    >>> parse("value:1,0x10")
    (Value(0x1, 0x10, 'in'), None)
    """
    form, _, rest = text.partition(":")
    kind, _, suffix = form.partition("-")
    if kind == "value" and suffix in ("", "out", "inout"):
        first, _, second = rest.partition(",")
        return Value(number(first or "0"), number(second or "0"), suffix or "in"), None
    if kind == "null" and suffix in ("", "out", "inout") and not rest:
        return TempMemory(None, suffix or "in"), None
    if form == "mem":
        return TempMemory(content(rest), "in"), None
    if form == "inout":
        return TempMemory(bytearray(content(rest)), "inout"), None
    if form == "out":
        size, _, path = rest.partition(":")
        return TempMemory(number(size), "out"), Path(path) if path else None
    if form == "none" and not rest:
        return None, None
    raise ArgumentError(f"parameter {text!r}", "see python3 -m cloister.teec --help for the forms")


def share(context: Context, param: Parameter | None) -> Parameter | SharedMemory | None:
    """The same memory registered as a block of its own, which the TA is then given whole."""
    if isinstance(param, TempMemory) and param.buffer:
        return context.register(param.buffer, param.direction)
    return param


def show(index: int, result: Any, path: Path | None) -> None:
    """Print what a parameter came back with, or write it to ``path``."""
    if isinstance(result, ValuePair):
        print(f"[{index}] value {result.a} {result.b} (0x{result.a:x} 0x{result.b:x})")
    elif isinstance(result, memoryview) and path:
        aside = path.with_name(path.name + ".part")
        aside.write_bytes(result)
        aside.replace(path)
        print(f"[{index}] {len(result)} bytes -> {path}")
    elif isinstance(result, memoryview):
        print(f"[{index}] {len(result)} bytes")
        for start in range(0, len(result), WIDTH):
            line = bytes(result[start : start + WIDTH])
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
            print(f"    {start:06x}  {line.hex(' '):<{3 * WIDTH}} {text}")


def run(args: argparse.Namespace) -> None:
    """Open the session, make the call if one is asked for, show the results."""
    parsed = [parse(text) for text in getattr(args, "params", [])]
    if len(parsed) > PAYLOAD_REF_COUNT:
        raise ArgumentError(f"{len(parsed)} parameters", f"give at most {PAYLOAD_REF_COUNT}")
    login = Login[args.login.upper().replace("-", "_")]
    with Context() as context, context.open_session(args.uuid, login=login, group=args.group) as session:
        if args.action == "open":
            print(f"opened and closed a session with {session.uuid}")
            return
        params = [share(context, param) if args.registered else param for param, _ in parsed]
        results = session.invoke(number(args.command), *params)
        print("success")
        for index, (result, (_, path)) in enumerate(zip(results, parsed, strict=True)):
            show(index, result, path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status: 0, or 1 after an error."""
    parser = argparse.ArgumentParser(
        prog="python3 -m cloister.teec", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    opening = actions.add_parser("open", help="open a session and close it again")
    invoking = actions.add_parser("invoke", help="open a session, call one command, show what comes back")
    for action in (opening, invoking):
        action.add_argument("uuid", help="of the trusted application")
        logins = [login.name.lower().replace("_", "-") for login in Login]
        action.add_argument("--login", choices=logins, default="public", help="client identity (default: public)")
        action.add_argument("--group", type=int, help="group number, for the group logins")
    invoking.add_argument("command", help="the TA's command number")
    invoking.add_argument("params", nargs="*", metavar="parameter", help="up to four, see python3 -m cloister.teec -h")
    invoking.add_argument("--registered", action="store_true", help="register memory as blocks of its own")
    try:
        run(parser.parse_args(argv))
    except CloisterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

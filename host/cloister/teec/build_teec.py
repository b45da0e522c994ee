# SPDX-License-Identifier: BSD-2-Clause
"""Compile ``_teec``, the part of the bridge that is C: cffi's API mode over ``tee_client_api.h`` and libteec.

In API mode the C compiler reads the implementation's own header, so a structure whose private part differs
(libteec moved its own into ``imp`` in 4.2) gets its true size, and a public field of another type is an error.

On a device, for whatever GlobalPlatform client it has::

    python3 -m cloister.teec.build_teec

For a device, from a host (the headers and the library are those of the device)::

    python3 -m cloister.teec.build_teec --cc aarch64-linux-gnu-gcc --sysroot DIR --out out/teec

The module uses Python's limited API (``_teec.abi3.so``): one file serves every CPython from 3.11 on. Only this
module needs the package ``cffi`` and its parser; to run the result takes ``_cffi_backend`` alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloister.errors import CloisterError
from cloister.teec.codes import CLIENT_CODES, CLIENT_CONSTANTS, OPTIONAL_CODES

#: The name that the extension is imported by, beside ``cloister`` or inside ``cloister.teec``.
MODULE = "_teec"
#: Its file; "abi3" because cffi's output keeps to Python's limited API.
FILE = f"{MODULE}.abi3.so"

# Only what the specification makes public is named; "...;" leaves the private rest to the C compiler.
STRUCTURES = """
typedef uint32_t TEEC_Result;

typedef struct { ...; } TEEC_Context;
typedef struct { ...; } TEEC_Session;

typedef struct {
    uint32_t timeLow;
    uint16_t timeMid;
    uint16_t timeHiAndVersion;
    uint8_t clockSeqAndNode[8];
} TEEC_UUID;

typedef struct {
    void *buffer;
    size_t size;
    uint32_t flags;
    ...;
} TEEC_SharedMemory;

typedef struct {
    void *buffer;
    size_t size;
} TEEC_TempMemoryReference;

typedef struct {
    TEEC_SharedMemory *parent;
    size_t size;
    size_t offset;
} TEEC_RegisteredMemoryReference;

typedef struct {
    uint32_t a;
    uint32_t b;
} TEEC_Value;

typedef union {
    TEEC_TempMemoryReference tmpref;
    TEEC_RegisteredMemoryReference memref;
    TEEC_Value value;
} TEEC_Parameter;

typedef struct {
    uint32_t started;
    uint32_t paramTypes;
    TEEC_Parameter params[4];
    ...;
} TEEC_Operation;

TEEC_Result TEEC_InitializeContext(const char *name, TEEC_Context *context);
void TEEC_FinalizeContext(TEEC_Context *context);
TEEC_Result TEEC_RegisterSharedMemory(TEEC_Context *context, TEEC_SharedMemory *sharedMem);
TEEC_Result TEEC_AllocateSharedMemory(TEEC_Context *context, TEEC_SharedMemory *sharedMem);
void TEEC_ReleaseSharedMemory(TEEC_SharedMemory *sharedMem);
TEEC_Result TEEC_OpenSession(TEEC_Context *context, TEEC_Session *session, const TEEC_UUID *destination,
                             uint32_t connectionMethod, const void *connectionData,
                             TEEC_Operation *operation, uint32_t *returnOrigin);
void TEEC_CloseSession(TEEC_Session *session);
TEEC_Result TEEC_InvokeCommand(TEEC_Session *session, uint32_t commandID, TEEC_Operation *operation,
                               uint32_t *returnOrigin);
void TEEC_RequestCancellation(TEEC_Operation *operation);
"""


class BuildError(CloisterError):
    """The extension could not be compiled."""


def optional_name(name: str) -> str:
    """The extension's name for a constant that not every client header has; 0 there means absent."""
    return f"CLOISTER_{name}"


def ffibuilder() -> Any:
    """cffi's builder with the declarations and the C source set; ``set_source`` names :data:`MODULE`."""
    try:
        import cffi
    except ImportError as error:
        raise BuildError("the Python package cffi is missing", "install python3-cffi, or cffi==1.17.1") from error
    ffi = cffi.FFI()
    lines = [STRUCTURES]
    lines += [f"#define {name} ..." for name in (*CLIENT_CODES, *CLIENT_CONSTANTS)]
    lines += [f"#define {optional_name(name)} ..." for name in OPTIONAL_CODES]
    ffi.cdef("\n".join(lines))
    source = ["#include <tee_client_api.h>"]
    for name in OPTIONAL_CODES:
        alias = optional_name(name)
        source += [f"#ifdef {name}", f"#define {alias} {name}", "#else", f"#define {alias} 0", "#endif"]
    ffi.set_source(MODULE, "\n".join(source) + "\n", libraries=["teec"])
    return ffi


def emit_c(path: Path) -> None:
    """Write the extension's C source to ``path``, for a build system that compiles it itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):  # cffi announces what it writes
        ffibuilder().emit_c_code(str(path))


def search_sysroot(root: Path) -> tuple[list[Path], list[Path]]:
    """The directories of headers and of libteec below ``root``, with or without ``usr`` between.

    Raises:
        BuildError: one of the three is missing there.
    """
    bases = [root, root / "usr"]
    pythons = [path.parent for base in bases for path in sorted(base.glob("include/python3*/Python.h"))]
    headers = [base / "include" for base in bases if (base / "include/tee_client_api.h").exists()]
    libraries = [path.parent for base in bases for path in sorted(base.glob("lib/**/libteec.so*"))]
    for name, found in (("Python.h", pythons), ("tee_client_api.h", headers), ("libteec.so", libraries)):
        if not found:
            raise BuildError(
                f"{root}: no {name} there",
                "unpack libpython3-dev, optee-client-dev and libteec of the device into it",
            )
    return [pythons[-1], headers[0]], libraries[:1]


def library_option(libdirs: Sequence[Path]) -> str:
    """``-lteec``, or libteec's versioned file where the run-time package alone is unpacked."""
    if any((each / "libteec.so").exists() for each in libdirs):
        return "-lteec"
    found = sorted(each for libdir in libdirs for each in libdir.glob("libteec.so.*"))
    return f"-l:{found[0].name}" if found else "-lteec"


def build(
    out: Path,
    cc: str = "cc",
    include: Sequence[Path] = (),
    libdir: Sequence[Path] = (),
    cflags: Sequence[str] = (),
) -> Path:
    """Compile and link the extension into the directory ``out``, and return the file's path.

    Args:
        out: made if it does not exist; the file is written aside first, then renamed.
        cc: the C compiler, with options if need be.
        include: directories with ``Python.h`` and ``tee_client_api.h``; the running Python's own if empty.
        libdir: directories with ``libteec.so`` (or ``libteec.so.2``).
        cflags: further options, before the libraries.

    Raises:
        BuildError: compiler, header or library missing, or a header that disagrees with the specification.
    """
    command = shlex.split(cc)
    if not command or shutil.which(command[0]) is None:
        raise BuildError(f"C compiler {cc!r} not found", "install it, or name another with --cc")
    includes = list(include)
    if not any((each / "Python.h").exists() for each in includes):
        includes.append(Path(sysconfig.get_path("include")))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as folder:
        source, built = Path(folder) / f"{MODULE}.c", Path(folder) / FILE
        emit_c(source)
        command += ["-std=c11", "-O2", "-fPIC", "-shared", "-Wall", "-Werror", *cflags]
        command += [f"-I{each}" for each in includes]
        command += [str(source), "-o", str(built), "-Wl,-z,relro,-z,now", *(f"-L{each}" for each in libdir)]
        command.append(library_option(libdir))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            tail = "\n".join(done.stderr.strip().splitlines()[-12:])
            raise BuildError(
                f"{FILE}: the compiler failed:\n{tail}",
                "name the directories of Python.h and tee_client_api.h (Debian: libpython3-dev, "
                "optee-client-dev) with --include and that of libteec.so with --libdir",
            )
        built.replace(out / FILE)
    return out / FILE


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m cloister.teec.build_teec", description=__doc__.split("\n")[0])
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"), help="C compiler (default: $CC, or cc)")
    parser.add_argument("--include", type=Path, action="append", default=[], metavar="DIR", help="header directory")
    parser.add_argument("--libdir", type=Path, action="append", default=[], metavar="DIR", help="libteec's directory")
    parser.add_argument("--sysroot", type=Path, metavar="DIR", help="where to look for all three")
    parser.add_argument("--cflags", default=os.environ.get("CFLAGS", ""), help="further compiler options")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, metavar="DIR", help="where _teec.abi3.so goes"
    )
    parser.add_argument("--emit-c", type=Path, metavar="FILE", help="write the C source only")
    args = parser.parse_args(argv)
    try:
        if args.emit_c:
            emit_c(args.emit_c)
            print(args.emit_c)
        else:
            include, libdir = search_sysroot(args.sysroot) if args.sysroot else ([], [])
            include, libdir = args.include + include, args.libdir + libdir
            print(build(args.out, args.cc, include, libdir, shlex.split(args.cflags)))
    except CloisterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

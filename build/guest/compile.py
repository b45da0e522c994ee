# SPDX-License-Identifier: BSD-2-Clause
"""Compile the Python modules of an image; runs on the build machine, in the device's version of CPython.

usage: compile.py ROOT FOLDER ...   (folders relative to ROOT; code objects name their files relative to ROOT)
"""

import py_compile
import sys
from pathlib import Path


def main() -> None:
    """Compile every module below the folders."""
    root = Path(sys.argv[1])
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for folder in sys.argv[2:]:
        for path in sorted((root / folder).rglob("*.py")):
            # an absolute link is right on the device and leads nowhere here
            if path.is_symlink():
                continue
            shown = f"/{path.relative_to(root)}"
            try:
                py_compile.compile(str(path), dfile=shown, doraise=True, invalidation_mode=mode)
            except py_compile.PyCompileError as err:
                print(f"not compiled: {shown}: {err.exc_type_name}")


main()

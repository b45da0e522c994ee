# SPDX-License-Identifier: BSD-2-Clause
"""Compile the Python modules of an image; runs on the build machine, in the device's version of CPython.

usage: compile.py ROOT FOLDER ...   (folders relative to ROOT; code objects name their files relative to ROOT)
"""

import os
import py_compile
import sys


def main() -> None:
    """Compile every module below the folders."""
    root = sys.argv[1]
    for folder in sys.argv[2:]:
        for place, _, names in os.walk(os.path.join(root, folder)):
            for name in names:
                path = os.path.join(place, name)
                # an absolute link is right on the device and leads nowhere here
                if name.endswith(".py") and not os.path.islink(path):
                    shown = "/" + os.path.relpath(path, root)
                    try:
                        py_compile.compile(
                            path, dfile=shown, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
                        )
                    except py_compile.PyCompileError as err:
                        print(f"not compiled: {shown}: {err.exc_type_name}")


main()

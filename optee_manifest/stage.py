# SPDX-License-Identifier: BSD-2-Clause
"""Write the files that a device needs of Cloister below a folder: ``python/`` and ``lib/``."""

from __future__ import annotations

import argparse
from pathlib import Path

from cloister.device.stage import device_files


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="libcloister_engine.so for the device")
    parser.add_argument("--teec", type=Path, required=True, help="folder of the _teec extension for the device")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    chosen = parser.parse_args()
    for name, data in device_files(chosen.engine, chosen.teec).items():
        path = chosen.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-2-Clause
"""Where the build reads and writes."""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BUILD = REPO / "build"


def _from_env(variable: str, xdg: str, fallback: str, *parts: str) -> Path:
    if value := os.environ.get(variable):
        return Path(value).expanduser().absolute()
    base = os.environ.get(xdg)
    return (Path(base) if base else Path.home() / fallback).joinpath("cloister", *parts).absolute()


def cache_dir() -> Path:
    """Downloads and artifacts; may be deleted at any time."""
    return _from_env("CLOISTER_CACHE", "XDG_CACHE_HOME", ".cache")


def keys_dir() -> Path:
    """The user's own keys: never deleted by the build."""
    return _from_env("CLOISTER_KEYS", "XDG_DATA_HOME", ".local/share", "keys")


def firmware_index() -> Path:
    """The index that the launcher and the host package read."""
    if value := os.environ.get("CLOISTER_FIRMWARE"):
        return Path(value).expanduser().absolute()
    return REPO / "out" / "firmware" / "qemu.json"


def index_without_crypto() -> Path:
    """The index of the same firmware for a CPU without crypto instructions, which benchmarks build on demand."""
    return firmware_index().parent / "qemu-without-crypto.json"

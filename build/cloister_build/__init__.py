# SPDX-License-Identifier: BSD-2-Clause
"""The firmware build: from Debian packages to an OP-TEE device that QEMU can start.

Needs nothing of the package ``cloister``; the two meet in the firmware index, ``out/firmware/qemu.json``.
"""

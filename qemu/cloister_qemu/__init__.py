# SPDX-License-Identifier: BSD-2-Clause
"""The launcher: starts QEMU as an OP-TEE device, watches both of its worlds, and stops it.

Knows processes, files and consoles; what is said to the device over SSH is in `cloister.device`.
"""

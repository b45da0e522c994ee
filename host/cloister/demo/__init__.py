# SPDX-License-Identifier: BSD-2-Clause
"""The demo: a small real model, protected by MirrorNet, answered on a device, attacked and tampered with."""

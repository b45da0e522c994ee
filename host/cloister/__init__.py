# SPDX-License-Identifier: BSD-2-Clause
"""Cloister protects trained neural networks on Arm TrustZone devices."""

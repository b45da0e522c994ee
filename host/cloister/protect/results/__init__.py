# SPDX-License-Identifier: BSD-2-Clause
"""Trains, protects and attacks the reference networks, and writes docs/results.json and docs/results.md."""

# SPDX-License-Identifier: BSD-2-Clause
"""Benchmarks in instructions: QEMU counts them (`-icount`), so that figures repeat and can be compared.

The method stands in `docs/performance.md`; `build/bench --help` says how to run it.
"""

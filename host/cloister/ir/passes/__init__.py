# SPDX-License-Identifier: BSD-2-Clause
"""Rewrites of the graph, one module each; every pass changes the graph in place and keeps its meaning."""

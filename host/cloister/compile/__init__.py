# SPDX-License-Identifier: BSD-2-Clause
"""From a graph to partitions: lowering, memory plan, weight packing, emission."""

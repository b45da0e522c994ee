# SPDX-License-Identifier: BSD-2-Clause
"""Quantised models (QuantizeLinear and DequantizeLinear around operators) to nodes that compute on 8-bit integers.

The steps, each in its own module: unsigned tensors become signed ones; dequantisation sinks through operators that only
move elements; functions of one 8-bit value become tables; what remains between DequantizeLinear and QuantizeLinear and
has an 8-bit kernel becomes a node of the domain ``int8``. Everything else stays as it is and is computed in float32.
"""

from __future__ import annotations

from cloister.ir.graph import Graph
from cloister.ir.passes.dead import remove_dead
from cloister.ir.passes.quant_fuse import absorb_clips, fuse_operators
from cloister.ir.passes.quant_sign import make_signed, merge_duplicates
from cloister.ir.passes.quant_sink import sink_dequantize
from cloister.ir.passes.quant_table import make_tables
from cloister.ir.qdq import DEQUANTIZE, QUANTIZE


def quantise(graph: Graph) -> None:
    """Applies all steps; does nothing to a graph without (De)QuantizeLinear."""
    if not any(node.op in (QUANTIZE, DEQUANTIZE) for node in graph.nodes):
        return
    merge_duplicates(graph)
    make_signed(graph)
    sink_dequantize(graph)
    make_tables(graph)
    remove_dead(graph)
    fuse_operators(graph)
    remove_dead(graph)
    absorb_clips(graph)
    remove_dead(graph)

# SPDX-License-Identifier: BSD-2-Clause
"""Reading QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

import numpy as np

from cloister.ir.graph import Graph, Node
from cloister.ir.quantised import Affine

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"


def quantised_name(node: Node) -> str:
    """The integer side of a (De)QuantizeLinear."""
    return node.outputs[0] if node.op == QUANTIZE else node.inputs[0]


def affine_of(node: Node, graph: Graph) -> Affine | None:
    """Scale and zero point of a (De)QuantizeLinear of int8 or uint8, shifted to int8; None where it is another kind.

    Other kinds: not known at compile time, one for each channel, blocked, not 8 bits, no positive finite scale.
    """
    dtype = graph.tensors[quantised_name(node)].dtype
    scale = graph.constant(node.input(1))
    zero = graph.constant(node.input(2))
    if dtype is None or dtype.name not in ("int8", "uint8") or (node.input(2) and zero is None):
        return None
    if scale is None or scale.size != 1 or scale.dtype != np.float32 or (zero is not None and zero.size != 1):
        return None
    value = float(scale.reshape(-1)[0])
    if not (0 < value < np.inf):
        return None
    point = 0 if zero is None else int(zero.reshape(-1)[0])
    return Affine(value, point - (128 if dtype == np.uint8 else 0))

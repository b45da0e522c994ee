# SPDX-License-Identifier: BSD-2-Clause
"""Sites: where in a partition's weights a password is folded in (struct cl_site in cloister_format.h).

Every convolution and product with constant weights has sites, locked or not, so that nothing about a bundle tells which
layers are locked; which are stands in the password alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloister.wire import C

if TYPE_CHECKING:
    from cloister.compile.lowering import Buffer, Constant, Op

#: How weights lie: enum cl_packing.
PANELS, ROWS, PANELS_S8, ROWS_S8 = (
    int(packing) for packing in (C.CL_PACKING_PANELS, C.CL_PACKING_ROWS, C.CL_PACKING_PANELS_S8, C.CL_PACKING_ROWS_S8)
)


@dataclass(frozen=True)
class Slice:
    """Some channels of a layer: those that one kernel computes.

    Attributes:
        tensor: ONNX name of the layer's result before its activation.
        first, channels: their place among the layer's channels.
        groups: groups of the kernel.
        depth: weights of a channel.
    """

    tensor: str
    first: int
    channels: int
    depth: int
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Site:
    """Weights and bias (either may be absent) of a slice; ``out_scale`` is that of an 8-bit result."""

    part: Slice
    packing: int
    weights: Buffer | None
    bias: Buffer | None
    out_scale: float = 0.0

    @property
    def constants(self) -> list[Constant]:
        """What a password changes."""
        from cloister.compile.lowering import Constant

        refs = (self.weights, self.bias)
        return [ref.memory for ref in refs if ref is not None and isinstance(ref.memory, Constant)]


def sites_of(ops: Iterable[Op]) -> list[Site]:
    """The sites of kernels, each once, in order."""
    return list(dict.fromkeys(op.site for op in ops if op.site is not None))


def channels_of(sites: Iterable[Site]) -> dict[str, int]:
    """Number of channels of each layer, by its tensor."""
    found: dict[str, int] = {}
    for site in sites:
        end = site.part.first + site.part.channels
        found[site.part.tensor] = max(found.get(site.part.tensor, 0), end)
    return found


def drop_shared(ops: Sequence[Op]) -> dict[str, str]:
    """Takes the sites from layers whose weights serve another kernel as well, which a password would change too.

    Returns those layers' tensors, with the reason.
    """
    users: dict[Constant, list[Op]] = {}
    for op in ops:
        for constant in op.constants:
            users.setdefault(constant, []).append(op)
    shared: dict[str, str] = {}
    for site in sites_of(ops):
        for constant in site.constants:
            others = [op for op in users[constant] if op.site is not site]
            if others:
                shared[site.part.tensor] = f"its weights are those of node {others[0].node.name!r} as well"
    for op in ops:
        if op.site is not None and op.site.part.tensor in shared:
            op.site = None
    return shared

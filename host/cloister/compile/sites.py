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
PANELS, ROWS, PANELS_S8, ROWS_S8, PANELS_SCALED = (
    int(getattr(C, f"CL_PACKING_{name}")) for name in ("PANELS", "ROWS", "PANELS_S8", "ROWS_S8", "PANELS_SCALED")
)

#: Work of scaling one weight, relative to that of scaling one result.
WEIGHT = 1.25


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


def packing_for(site: Site, ops: Iterable[Op]) -> int:
    """How the weights of a site lie, and whether its kernels can scale their results with less work.

    WINOGRAD has a product there that takes the scale at no cost; the others multiply once more.
    """
    if site.packing != PANELS or site.weights is None or site.bias is None or not site.bias.is_constant:
        return site.packing
    users = [op for op in ops if op.site is site]
    if not all(op.kernel in ("CONV2D", "WINOGRAD", "GEMM") for op in users):
        return site.packing
    return PANELS_SCALED if sum(map(_results, users)) < WEIGHT * site.part.depth else PANELS


def _results(op: Op) -> int:
    """Results of one channel that a kernel would have to scale."""
    if op.kernel == "WINOGRAD":
        return 0
    if op.kernel == "GEMM":
        return int(op.fields["m"])
    return int(op.fields["batch"] * op.fields["out_h"] * op.fields["out_w"])


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

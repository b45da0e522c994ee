# SPDX-License-Identifier: BSD-2-Clause
"""Where the windows of a convolution or pooling lie along one axis."""

from __future__ import annotations

from dataclasses import dataclass

AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Window:
    """One axis: ``output`` windows, the first of which starts ``begin`` cells before the input.

    ``begin`` and ``end`` are the pads that count as part of the input (``count_include_pad``); with ``ceil_mode``
    the last window may reach beyond even these.
    """

    output: int
    begin: int
    end: int


def place(
    length: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    auto_pad: str = "NOTSET",
    ceil_mode: bool = False,
) -> Window:
    """Number and place of the windows over an axis of ``length`` cells (ONNX specification, MaxPool and Conv).

    Raises:
        ValueError: no window fits, or ``auto_pad`` is unknown.
    """
    reach = (kernel - 1) * dilation + 1
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        output = -(-length // stride)
        total = max(0, (output - 1) * stride + reach - length)
        small, large = total // 2, total - total // 2
        return Window(output, small, large) if auto_pad == "SAME_UPPER" else Window(output, large, small)
    if auto_pad == "VALID":
        pads = (0, 0)
    elif auto_pad not in ("NOTSET", ""):
        raise ValueError(f"unknown auto_pad {auto_pad!r}")
    begin, end = pads
    room = length + begin + end - reach
    if room < 0:
        raise ValueError(f"a window of {reach} cells does not fit into {length + begin + end} (pads counted)")
    output = (-(-room // stride) if ceil_mode else room // stride) + 1
    # A window that starts in the end pad alone is dropped (specification, since opset 22).
    if ceil_mode and (output - 1) * stride >= length + begin:
        output -= 1
    return Window(output, begin, end)

# SPDX-License-Identifier: BSD-2-Clause
"""What all pictures of this project have around them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def document(width: float, height: float, body: Iterable[str], heading: str | None = None) -> str:
    """A whole SVG file.

    Args:
        width, height: in pixels; the picture can be scaled.
        body: elements, in the order in which they are drawn.
        heading: text at the top left, before a white ground; None: neither.
    """
    front = [] if heading is None else [
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(heading)}</text>',
    ]  # fmt: skip
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, *front, *body, "</svg>", ""])

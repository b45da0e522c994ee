# SPDX-License-Identifier: BSD-2-Clause
"""What came of the networks, and its table in a Markdown page between two marks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cloister.cli.common import human
from cloister.errors import CloisterError

BEGIN, END = "<!-- zoo: begin -->", "<!-- zoo: end -->"
HEADINGS = (
    "network", "weights", "partitions", "shipped", "streamed for each inference", "activations", "lower bound", "ratio",
    "TA's peak memory", "error", "top-5",
)  # fmt: skip
#: Largest error, as a part of the range of onnxruntime's scores.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Result:
    """One network within a budget.

    Attributes:
        name: of :data:`cloister.zoo.NETWORKS`.
        weights: bytes of the model's own parameters.
        shipped: bytes of all partitions.
        partitions: their number.
        streamed: bytes that an inference decrypts.
        arena: bytes of activations and scratch.
        bound: most bytes alive at one kernel, below which no plan can be.
        peak: bytes that the TA took, its own pages included; None where no TA ran.
        error: largest error, as a part of the range of onnxruntime's scores.
        same_top5: the five best scores are in the same places, in the same order.
        seconds: for compiling and for running.
    """

    name: str
    weights: int
    shipped: int
    partitions: int
    streamed: int
    arena: int
    bound: int
    peak: int | None
    error: float
    same_top5: bool
    seconds: tuple[float, float]

    @property
    def good(self) -> bool:
        """The answer agrees with onnxruntime's."""
        return self.same_top5 and self.error <= TOLERANCE

    @property
    def cells(self) -> list[str]:
        """The row of the table."""
        return [
            self.name, human(self.weights), str(self.partitions), human(self.shipped), human(self.streamed),
            human(self.arena), human(self.bound), f"{self.arena / self.bound:.3f}",
            human(self.peak) if self.peak is not None else "-", f"{self.error:.1e}",
            "same" if self.same_top5 else "DIFFERENT",
        ]  # fmt: skip


def line(cells: list[str] | tuple[str, ...]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def write(page: Path, results: list[Result]) -> None:
    """Puts the rows of ``results`` into a page's table; rows of other networks stay.

    Raises:
        CloisterError: the page lacks the marks.
    """
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise CloisterError(f"{page} has no place for the table", f"put {BEGIN} and {END} on lines of their own there")
    head, rest = text.split(BEGIN)
    old, tail = rest.split(END)
    rows = {row.split("|")[1].strip(): row for row in old.splitlines() if row.startswith("|")}
    for heading in ("network", "---"):
        rows.pop(heading, None)
    rows.update({result.name: line(result.cells) for result in results})
    table = [line(HEADINGS), "|" + "---|" * len(HEADINGS), *(rows[name] for name in sorted(rows))]
    with tempfile.NamedTemporaryFile("w", dir=page.parent, delete=False) as file:
        file.write(head + "\n".join([BEGIN, "", *table, "", END]) + tail)
    made = Path(file.name)
    made.chmod(page.stat().st_mode)
    made.replace(page)

# SPDX-License-Identifier: BSD-2-Clause
"""What a strategy may cost: secure memory, overhead, accuracy."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from cloister.search.errors import BudgetError
from cloister.search.figures import Figures

_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1000, "kib": 1 << 10, "m": 10**6, "mb": 10**6, "mib": 1 << 20, "gib": 1 << 30}
_NUMBER = r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*"


def parse_memory(text: str) -> int:
    """Bytes from ``2097152``, ``64KiB`` or ``1.5MiB``.

    Raises:
        BudgetError: it is no size, or none at all.
    """
    match = re.fullmatch(_NUMBER + r"([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _UNITS:
        raise BudgetError(
            f"secure memory: {text!r} is no size", "write bytes, or a number with KiB, MiB or GiB, such as 2MiB"
        )
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if size < 1:
        raise BudgetError(f"secure memory: {text!r} is none at all", "the TA alone takes some; write such as 2MiB")
    return size


def parse_overhead(text: str) -> float:
    """A share from ``1%``, ``0.5 %``, or a number below 1 such as ``0.01``.

    Raises:
        BudgetError: it is neither; or it is a number of 1 or more without a percent sign, which could mean either.
    """
    if match := re.fullmatch(_NUMBER + r"%\s*", text):
        return float(match[1]) / 100
    match = re.fullmatch(_NUMBER, text)
    if match and float(match[1]) < 1:
        return float(match[1])
    if match:
        raise BudgetError(
            f"overhead: {text!r} could be a percentage or a multiple", f"write {match[1]}% for {match[1]} in a hundred"
        )
    raise BudgetError(f"overhead: {text!r} is no share", "write a percentage such as 1%, or a share such as 0.01")


def parse_accuracy(text: str) -> float:
    """Points from ``1``, ``0.5`` or ``1 point``.

    Raises:
        BudgetError: it is no number of points.
    """
    match = re.fullmatch(_NUMBER + r"(?:points?)?\s*", text)
    if not match and re.fullmatch(r"\s*-" + _NUMBER, text):
        raise BudgetError(f"accuracy: {text!r} is less than nothing", "write 0 where no point may be lost")
    if not match:
        raise BudgetError(
            f"accuracy: {text!r} is no number of points",
            "write the points that may be lost, without a percent sign: 1 allows 91.0 % where the model has 92.0 %",
        )
    return float(match[1])


@dataclass(frozen=True)
class Budget:
    """What a strategy may cost at most; None is no limit.

    Attributes:
        memory: bytes of secure memory.
        overhead: instructions added, as a share of the unprotected model's: 0.01 is 1 %.
        accuracy: points of accuracy that may be lost.
    """

    memory: int | None = None
    overhead: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        for key, least in (("memory", 1), ("overhead", 0), ("accuracy", 0)):
            value = getattr(self, key)
            if value is not None and not (math.isfinite(value) and value >= least):
                raise BudgetError(f"the budget's {key} is {value!r}", f"give a number of at least {least}, or None")

    @classmethod
    def parse(cls, memory: str | None = None, overhead: str | None = None, accuracy: str | None = None) -> Budget:
        """From words as users write them: ``Budget.parse("2MiB", "1%", "1")``; None is no limit.

        Raises:
            BudgetError: one of them is not written as it should be.
        """
        return cls(
            None if memory is None else parse_memory(memory),
            None if overhead is None else parse_overhead(overhead),
            None if accuracy is None else parse_accuracy(accuracy),
        )

    def excess(self, figures: Figures, *, doubt: bool = False) -> dict[str, float]:
        """By how much each limit is exceeded; 0 or less keeps it. What is not known exceeds nothing.

        Memory is relative to its limit, overhead in hundredths of the unprotected model's instructions, accuracy in
        points, so that all three are about 1 where they matter.

        Args:
            figures: of the strategy.
            doubt: take from the overhead the error that whoever predicted it tells.
        """
        less = figures.error if doubt else 0.0
        found = {}
        if self.memory is not None:
            found["memory"] = figures.memory / self.memory - 1
        if self.overhead is not None:
            found["overhead"] = 100 * (figures.overhead - less - self.overhead)
        if self.accuracy is not None and figures.lost is not None:
            found["accuracy"] = figures.lost - self.accuracy
        return found

    def fits(self, figures: Figures, *, doubt: bool = False) -> bool:
        """Nothing is exceeded."""
        return all(value <= 0 for value in self.excess(figures, doubt=doubt).values())

    def violation(self, figures: Figures, *, doubt: bool = False) -> float:
        """The sum of what is exceeded; 0 where it fits."""
        return sum(max(0.0, value) for value in self.excess(figures, doubt=doubt).values())

    def as_json(self) -> dict[str, Any]:
        """For the study."""
        return {"memory": self.memory, "overhead": self.overhead, "accuracy": self.accuracy}

    def __str__(self) -> str:
        parts = []
        if self.memory is not None:
            parts.append(f"{size(self.memory)} of secure memory")
        if self.overhead is not None:
            parts.append(f"{100 * self.overhead:g} % overhead")
        if self.accuracy is not None:
            parts.append(f"{self.accuracy:g} {'point' if self.accuracy == 1 else 'points'} lost")
        return ", ".join(parts) or "no limits"


def size(value: float) -> str:
    """Bytes as people read them: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"

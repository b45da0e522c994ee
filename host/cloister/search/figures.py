# SPDX-License-Identifier: BSD-2-Clause
"""What is known of a strategy, at each of the three stages, and who finds it out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from cloister.search.errors import SearchError

if TYPE_CHECKING:
    from cloister.protect.strategy import Strategy
    from cloister.search.space import Space


class Stage(Enum):
    """How well a strategy is known. The value is the stage's name in studies and tables."""

    ESTIMATE = "estimate"
    PROXY = "proxy"
    TRAINING = "training"


@dataclass(frozen=True)
class Objective:
    """One of the objectives; all are minimised.

    Attributes:
        key: the attribute of :class:`Figures`.
        title: for tables and axes.
        learned: what no estimate can know, since it is learned in training.
    """

    key: str
    title: str
    learned: bool = False


#: What is minimised, in the order of the studies' values.
OBJECTIVES = (
    Objective("lost", "points lost", learned=True),
    Objective("overhead", "overhead"),
    Objective("memory", "secure memory"),
    Objective("boundary", "bytes across"),
    Objective("gain", "attacker's gain", learned=True),
)
#: What an estimate must give.
COSTS = tuple(objective for objective in OBJECTIVES if not objective.learned)


@dataclass(frozen=True)
class Figures:
    """What a strategy costs and achieves.

    Attributes:
        overhead: instructions (on a board: time) that are added to the unprotected model's, as a share of these: 0.01
            is 1 %. Both worlds and the boundary are counted. Negative where the protected model takes less.
        memory: peak of secure memory in bytes.
        boundary: bytes that cross from the normal world into the secure one at each inference.
        lost: points of accuracy that the pair loses against the victim, on validation images; negative where it gains.
            None where it is not known.
        gain: the attacker's accuracy as a ratio to the black box with the same budget: 1 is nothing gained. None where
            it is not known.
        accuracy: of the pair, 0 to 1; for tables.
        attacker: accuracy of the strongest attack that was tried, 0 to 1; for tables.
        error: standard error of ``overhead``, in the same unit, as whoever predicted it tells; 0 where it was measured.
            A strategy whose estimate exceeds the budget by no more is given the benefit of the doubt.
        details: what else is worth keeping; JSON.
    """

    overhead: float
    memory: int
    boundary: int
    lost: float | None = None
    gain: float | None = None
    accuracy: float | None = None
    attacker: float | None = None
    error: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def values(self) -> list[float]:
        """The objectives in their order.

        Raises:
            SearchError: one of them is not known.
        """
        self.check([objective.key for objective in OBJECTIVES])
        return [float(getattr(self, objective.key)) for objective in OBJECTIVES]

    def check(self, keys: list[str]) -> None:
        """Refuse figures that lack one of ``keys`` or where it is no finite number.

        Raises:
            SearchError: so it is.
        """
        for key in keys:
            value = getattr(self, key)
            if value is None or not math.isfinite(value):
                raise SearchError(
                    f"the evaluator gave {value!r} as {key!r}", f"let it give a finite number: {_meaning(key)}"
                )

    def as_json(self) -> dict[str, Any]:
        """All attributes, for the study."""
        return {**{item.name: getattr(self, item.name) for item in fields(self)}, "details": dict(self.details)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figures:
        """From what :meth:`as_json` gave; keys that are not known (of a newer version) are left out."""
        return cls(**{item.name: data[item.name] for item in fields(cls) if item.name in data})


def _meaning(key: str) -> str:
    text = {
        "lost": "points of accuracy lost against the victim",
        "gain": "the attacker's accuracy as a ratio to the black box",
        "overhead": "instructions added, as a share of the unprotected model's",
        "memory": "bytes of secure memory",
        "boundary": "bytes across the boundary",
    }
    return text[key]


class Evaluator(Protocol):
    """Finds out what a strategy costs and achieves. Those that train live in :mod:`cloister.protect`.

    A strategy that cannot be built or trained is told by raising any
    :class:`~cloister.errors.CloisterError`; the search notes the reason and goes on. Other exceptions end it.
    """

    @property
    def name(self) -> str:
        """Model, data and settings in one line; a study belongs to one such name and refuses another."""

    @property
    def space(self) -> Space:
        """What can be chosen for this model."""

    @property
    def proxy_share(self) -> float:
        """What a proxy costs, as a share of a training: how trainings are counted."""

    def estimate(self, strategy: Strategy) -> Figures:
        """Costs without any training; ``lost`` and ``gain`` may be None. Takes at most seconds."""

    def proxy(self, strategy: Strategy) -> Figures:
        """All objectives after a short training and a quick attack."""

    def train(self, strategy: Strategy) -> Figures:
        """All objectives after the full training and the attacks."""

# SPDX-License-Identifier: BSD-2-Clause
"""The space that is searched: what can be chosen, and how choices become a strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloister.search.errors import SearchError

if TYPE_CHECKING:
    import optuna

    from cloister.protect.strategy import Strategy

Scalar = str | int | float | bool | None
Point = Mapping[str, Scalar]


@dataclass(frozen=True)
class Space:
    """What can be chosen.

    Every parameter is drawn for every strategy, also where it means nothing (the width of a monitor where the whole
    model lies in the TA): NSGA-II crosses only parameters that all trials have. Points that differ in such
    parameters alone become the same strategy, which is evaluated once.

    Attributes:
        choices: parameters and their values.
        build: makes the strategy of a point, in one form for all points that mean the same.
        ladders: families of points, each from what is usually good down to what costs least. Of each family the first
            that keeps the budget's costs is tried before anything else.
    """

    choices: Mapping[str, tuple[Scalar, ...]]
    build: Callable[[Point], Strategy]
    ladders: Sequence[Sequence[Point]] = ()

    def __post_init__(self) -> None:
        for name, values in self.choices.items():
            if not values:
                raise SearchError(f"the space has no value for {name!r}", "give it at least one")
        for ladder in self.ladders:
            for point in ladder:
                self.check(point)

    @property
    def anchors(self) -> list[Point]:
        """What is usually good: the top of each ladder."""
        return [ladder[0] for ladder in self.ladders]

    def check(self, point: Point) -> None:
        """Refuse a point that is not of this space.

        Raises:
            SearchError: it lacks a parameter, has one too many, or a value that cannot be chosen.
        """
        if set(point) != set(self.choices):
            odd = sorted(set(point) ^ set(self.choices))
            raise SearchError(f"a point of the space differs in {', '.join(odd)}", "give all parameters and no others")
        for name, value in point.items():
            if value not in self.choices[name]:
                listed = ", ".join(map(str, self.choices[name]))
                raise SearchError(f"{name} is {value!r}", f"choose one of {listed}")

    def suggest(self, trial: optuna.trial.Trial) -> dict[str, Scalar]:
        """Let a sampler choose."""
        return {name: trial.suggest_categorical(name, values) for name, values in self.choices.items()}

    @property
    def points(self) -> int:
        """Number of points; strategies are fewer."""
        count = 1
        for values in self.choices.values():
            count *= len(values)
        return count

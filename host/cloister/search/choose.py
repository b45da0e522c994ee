# SPDX-License-Identifier: BSD-2-Clause
"""The front of what was found, the strategy that is chosen, and why, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.search.book import Record
from cloister.search.budget import Budget, size
from cloister.search.figures import OBJECTIVES, Figures, Stage

#: Gains that are no further apart count as equal: seeds of one and the same strategy differ by as much.
MARGIN = 0.02


def dominates(left: Figures, right: Figures) -> bool:
    """Whether ``left`` is no worse in any objective and better in one."""
    pairs = list(zip(left.values(), right.values(), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def front_of(records: Sequence[Record]) -> list[Record]:
    """Those that no other dominates, by rising overhead; of equal ones the first."""
    known = [(record, record.figures) for record in records if record.figures is not None]
    found: list[tuple[Record, Figures]] = []
    for place, (record, figures) in enumerate(known):
        beaten = any(dominates(other, figures) for _, other in known)
        twin = any(other.values() == figures.values() for _, other in known[:place])
        if not beaten and not twin:
            found.append((record, figures))
    return [record for record, _ in sorted(found, key=lambda pair: (pair[1].overhead, pair[1].memory))]


def gain(figures: Figures) -> float:
    """The attacker's gain, at least 1: who does worse than with the black box would use the black box."""
    assert figures.gain is not None
    return max(1.0, figures.gain)


@dataclass(frozen=True)
class Choice:
    """What is chosen.

    Attributes:
        record: the winner; None where nothing was found.
        fits: it keeps the budget.
        runner_up: what would be chosen without it.
        why: in words, a few lines.
    """

    record: Record | None
    fits: bool
    runner_up: Record | None
    why: str


def choose(records: Sequence[Record], budget: Budget, margin: float = MARGIN) -> Choice:
    """The strategy with the least attacker's gain within the budget, then the one of least overhead.

    Gains within ``margin`` of the least count as equal. Where nothing keeps the budget, what exceeds it least is
    taken. Trainings count; proxies only where there is no training.

    Args:
        records: of any stages.
        budget: limits.
        margin: of the ratio to the black box.
    """
    known = [record for record in records if record.figures is not None and record.stage is Stage.TRAINING]
    known = known or [record for record in records if record.figures is not None and record.stage is Stage.PROXY]
    if not known:
        return Choice(None, False, None, "Nothing was trained, so nothing can be chosen.")
    winner = _best(known, budget, margin)
    others = [record for record in known if record is not winner]
    second = _best(others, budget, margin) if others else None
    figures = _known(winner)
    fits = budget.fits(figures)
    lines = [_why(winner, known, budget, margin)]
    if second is None:
        lines.append("There is no runner-up: nothing else was trained in full.")
    else:
        lines.append(_why_not(second, winner, budget, margin))
    if winner.stage is Stage.TRAINING:
        lines += _promising(winner, records, budget, margin)
    if winner.stage is Stage.PROXY:
        lines.append("It was only trained briefly: there was no time for a full training.")
    return Choice(winner, fits, second, "\n".join(lines))


def _promising(winner: Record, records: Sequence[Record], budget: Budget, margin: float) -> list[str]:
    """A sentence on what was trained briefly alone, and did better so than the winner did so; none without both."""
    full = {record.strategy for record in records if record.stage is Stage.TRAINING}
    brief = [
        record
        for record in records
        if record.figures is not None and record.stage is Stage.PROXY and record.strategy not in full
        and budget.fits(record.figures)
    ]  # fmt: skip
    own = [
        record
        for record in records
        if record.figures is not None and record.stage is Stage.PROXY and record.strategy == winner.strategy
    ]  # fmt: skip
    # a full training's attackers try harder: its figures are no measure for those of a short one
    best = _best([*own[:1], *brief], budget, margin) if own else None
    if best is None or best is own[0]:
        return []
    return [
        f"Better in short trainings, and not trained in full: {best.strategy} ({tell(_known(best))}). More full "
        "trainings (--trainings) would tell whether it stays so."
    ]


def _known(record: Record) -> Figures:
    assert record.figures is not None
    return record.figures


def _best(records: Sequence[Record], budget: Budget, margin: float) -> Record:
    fitting = [record for record in records if budget.fits(_known(record))]
    if not fitting:
        return min(records, key=lambda record: (budget.violation(_known(record)), gain(_known(record)), record.number))
    least = min(gain(_known(record)) for record in fitting)
    equal = [record for record in fitting if gain(_known(record)) <= least + margin]
    return min(equal, key=lambda record: (_known(record).overhead, gain(_known(record)), record.number))


def tell(figures: Figures) -> str:
    """All objectives in a line."""
    assert figures.gain is not None and figures.lost is not None
    return (
        f"attacker {figures.gain:.2f} times the black box, {100 * figures.overhead:.2f} % overhead, "
        f"{_points(figures.lost)}, {size(figures.memory)} of secure memory, "
        f"{size(figures.boundary)} across the boundary"
    )


def _points(lost: float) -> str:
    return f"{abs(lost):.2f} points {'lost' if lost >= 0 else 'won'}"


def _why(winner: Record, known: Sequence[Record], budget: Budget, margin: float) -> str:
    figures = _known(winner)
    head = f"Chosen: {winner.strategy} ({tell(figures)})."
    fitting = [record for record in known if budget.fits(_known(record))]
    trained = f"{len(known)} trained {'strategy' if len(known) == 1 else 'strategies'}"
    if not fitting:
        return f"{head} None of the {trained} keeps the budget ({budget}); this one exceeds it least: " + _excess(
            figures, budget
        )
    least = min(fitting, key=lambda record: gain(_known(record)))
    equal = [record for record in fitting if gain(_known(record)) <= gain(_known(least)) + margin]
    keeps = f"{len(fitting)} of the {trained} {'keeps' if len(fitting) == 1 else 'keep'} the budget ({budget})"
    if len(equal) == 1:
        return f"{head} {keeps}; of these the attacker gains least from it."
    text = f"{head} {keeps}; from {len(equal)} of these the attacker gains no more than {margin:g} above the least "
    return f"{text}({gain(_known(least)):.2f}), and of those it adds the least overhead."


def _excess(figures: Figures, budget: Budget) -> str:
    parts = []
    for key, value in budget.excess(figures).items():
        if value > 0:
            if key == "memory":
                parts.append(f"secure memory by {100 * value:.1f} %")
            elif key == "overhead":
                parts.append(f"overhead by {value:.2f} % of the unprotected model")
            else:
                parts.append(f"accuracy by {value:.2f} points")
    return ", ".join(parts) + "."


def _why_not(second: Record, winner: Record, budget: Budget, margin: float) -> str:
    theirs, ours = _known(second), _known(winner)
    head = f"Runner-up: {second.strategy} ({tell(theirs)})."
    if not budget.fits(theirs):
        far = "further " if not budget.fits(ours) else ""
        return f"{head} Not chosen: it exceeds the budget {far}in " + _excess(theirs, budget)
    if gain(theirs) <= gain(ours) + margin and theirs.overhead > ours.overhead:
        return f"{head} Not chosen: the attacker gains about as much, and it adds more overhead."
    better = [
        objective.title
        for objective in OBJECTIVES
        if objective.key != "gain" and getattr(theirs, objective.key) < getattr(ours, objective.key)
    ]
    though = f", though it is better in {', '.join(better)}" if better else ""
    return f"{head} Not chosen: the attacker gains {gain(theirs) - gain(ours):.2f} more{though}."

# SPDX-License-Identifier: BSD-2-Clause
"""Whether a budget can be kept at all, told before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import product

from cloister.compile.memory import TA_OWN
from cloister.errors import CloisterError
from cloister.protect.strategy import Strategy
from cloister.search import Budget, BudgetError, Evaluator, Figures
from cloister.search.budget import size
from cloister.search.space import Point, Scalar
from cloister.search.strategies import spread

#: The cheapest of each parameter.
LEAST: dict[str, Scalar] = {
    "backbone_width": 1.0, "tail": "short", "cpm_width": 2, "cpm_depth": 0, "operator": "conv1x1", "merge": "add",
    "head": "average", "pool": 8, "pool_kind": "max", "channels": 0.125, "select": "first",
}  # fmt: skip

#: Tensors of which each is tried as the only tap: of a deep model all would take minutes, and tell little more.
PLACES = 5

#: Seconds between two lines that tell that it goes on.
PATIENCE_S = 10.0


def check_possible(evaluator: Evaluator, budget: Budget, say: Callable[[str], None] = lambda _: None) -> None:
    """Look for one strategy whose estimate keeps memory and overhead, error allowed for.

    Args:
        evaluator: whose estimates are taken.
        budget: what is to be kept.
        say: told now and then that it goes on.

    Raises:
        BudgetError: neither the usual strategies nor the cheapest of each kind do; says how near they come.
    """
    found: dict[Strategy, Figures] = {}
    reason, last = "", time.monotonic()
    for point in _points(evaluator):
        if found and time.monotonic() - last >= PATIENCE_S:
            last = time.monotonic()
            say(f"none of {len(found)} strategies keeps it so far; trying cheaper ones")
        strategy = evaluator.space.build(point)
        if strategy in found:
            continue
        try:
            figures = found[strategy] = evaluator.estimate(strategy)
        except CloisterError as error:  # this one cannot be built; another can
            reason = error.message
            continue
        if budget.fits(figures, doubt=True):
            return
    if not found:
        raise BudgetError(f"no strategy of this model can be estimated: {reason}", "mend that, then try again")
    raise none_within(found, budget)


def check_memory(budget: Budget) -> None:
    """Refuse at once what no model can keep.

    Raises:
        BudgetError: the TA alone takes as much.
    """
    if budget.memory is not None and budget.memory <= TA_OWN:
        raise BudgetError(
            f"nothing keeps the budget ({budget}): the TA alone takes {size(TA_OWN)} of secure memory",
            "allow more, such as 2MiB; the model's part comes on top",
        )


def none_within(found: Mapping[Strategy, Figures], budget: Budget) -> BudgetError:
    """The error that says how near estimates come to a budget that none of them keeps."""
    nearest = min(found.items(), key=lambda pair: budget.violation(pair[1], doubt=True))
    least = [min(found.items(), key=lambda pair: getattr(pair[1], key)) for key in ("memory", "overhead")]
    lines = [
        f"nothing keeps the budget ({budget}): of {len(found)} strategies that were estimated, cheap ones among them,",
        f"  the nearest takes {_told(*nearest)},",
        f"  the one of least memory {_told(*least[0])},",
        f"  the one of least overhead {_told(*least[1])}",
    ]
    remedy = f"allow {_wanted(nearest[1], budget)}"
    if budget.excess(nearest[1], doubt=True).get("overhead", 0) > 0:
        remedy += ", or give a larger model: costs are compared with those of the unprotected one"
    return BudgetError("\n".join(lines), remedy)


def _points(evaluator: Evaluator) -> Iterator[Point]:
    """Usual strategies, then the cheapest of each kind, tapping one of some tensors that are spread over the model."""
    space = evaluator.space
    yield from space.anchors
    slots = [name for name in space.choices if name.startswith("tap_")]
    taps = [str(value) for value in space.choices[slots[0]] if value is not None]
    taps = list(dict.fromkeys([taps[0], *spread(taps, PLACES)]))
    # as it is, and as far as it can be pruned
    shares = dict.fromkeys((space.choices["pruned"][0], space.choices["pruned"][-1]))
    given = {"lock": space.choices["lock"][0], **dict.fromkeys(slots)}
    for share, tap, form, precision in product(shares, taps, space.choices["form"], space.choices["precision"]):
        point = {**LEAST, **given, "pruned": share, "form": form, "precision": precision, slots[0]: tap}
        if all(point[name] in values for name, values in space.choices.items()):
            yield {name: point[name] for name in space.choices}


def _told(strategy: Strategy, figures: Figures) -> str:
    return f"{size(figures.memory)} of secure memory, {100 * figures.overhead:.2f} % overhead ({strategy})"


def _wanted(figures: Figures, budget: Budget) -> str:
    parts = []
    excess = budget.excess(figures, doubt=True)
    if excess.get("memory", 0) > 0:
        parts.append(f"{size(figures.memory)} of secure memory")
    if excess.get("overhead", 0) > 0:
        parts.append(f"{100 * figures.overhead:.2g} % overhead")
    return " and ".join(parts)

# SPDX-License-Identifier: BSD-2-Clause
"""What each count of a term costs, found from measurements.

For each kind of term non-negative constants are sought that make the relative errors small: a cost per call, per tile,
per multiply-accumulate and so on, each of which can be read and compared with the engine's code. How far they can be
trusted is told by leaving measurements out: the errors that the table keeps are those for kernels that were not in the
fit which predicted them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloister.estimate.features import Term

Array = npt.NDArray[np.float64]
#: Parts of the measurements that are left out one after the other.
FOLDS = 8
#: Least share of a kernel's cost that must be left when known terms are taken off: else it says nothing.
SHARE = 0.05


@dataclass(frozen=True)
class Sample:
    """One measured kernel: what it does, and what one call costs in the target's unit."""

    terms: Sequence[Term]
    cost: float


def nonnegative(a: Array, b: Array) -> Array:
    """x >= 0 that makes |a x - b| smallest: the active set method of C. Lawson and R. Hanson, "Solving Least Squares
    Problems", 1974, chapter 23."""
    count = a.shape[1]
    chosen = np.zeros(count, bool)
    x = np.zeros(count)
    for _ in range(3 * count + 1):
        gradient = a.T @ (b - a @ x)
        gradient[chosen] = -np.inf
        best = int(np.argmax(gradient)) if count else 0
        if not count or chosen.all() or gradient[best] <= 1e-10 * np.abs(a[:, best]).sum():
            break
        chosen[best] = True
        while True:
            solved = np.zeros(count)
            solved[chosen] = np.linalg.lstsq(a[:, chosen], b, rcond=None)[0]
            if (solved[chosen] > 0).all():
                x = solved
                break
            falling = chosen & (solved <= 0)
            step = float(np.min(x[falling] / (x[falling] - solved[falling]), initial=1.0))
            x = x + step * (solved - x)
            x[falling & (x <= 1e-12)] = 0
            chosen &= x > 0
            if not chosen.any():
                x = np.zeros(count)
                break
    return x


def _solve(counts: Array, costs: Array) -> Array:
    """Constants for relative errors; columns are scaled so that sizes do not matter to the solver."""
    rows = counts / costs[:, None]
    scale = rows.max(axis=0)
    scale[scale == 0] = 1
    found: Array = nonnegative(rows / scale, np.ones(len(costs))) / scale
    return found


def _left_out(counts: Array, costs: Array) -> Array:
    """Relative errors of predictions by fits that did not see the predicted kernel."""
    order = np.random.default_rng(0).permutation(len(costs))
    errors = np.zeros(len(costs))
    folds = min(FOLDS, len(costs))
    for fold in range(folds):
        out = order[fold::folds]
        kept = np.setdiff1d(order, out)
        if len(kept):
            errors[out] = counts[out] @ _solve(counts[kept], costs[kept]) / costs[out] - 1
    return errors


def fit(samples: Sequence[Sample]) -> dict[str, Any]:
    """Constants of all kinds.

    A kernel with several terms counts for the one whose kind occurs nowhere alone, or else for its first one; what the
    others cost is taken off, so that their kinds are fitted before.

    Returns:
        By kind: ``costs`` by count; ``error`` (root of the mean square of the relative errors), ``bias`` (their mean)
        and ``worst`` of kernels left out; ``samples``; and ``shape``: the least and largest of each size.
    """
    rows: dict[str, list[tuple[Term, float]]] = defaultdict(list)
    left: list[Sample] = []
    for sample in samples:
        if len(sample.terms) == 1:
            rows[sample.terms[0].kind].append((sample.terms[0], sample.cost))
        else:
            left.append(sample)
    found = {kind: _fit_kind(own) for kind, own in rows.items()}
    while left:
        unknown = [{term.kind for term in sample.terms} - set(found) for sample in left]
        most = min(map(len, unknown))
        if most > 1:
            break
        ready = [sample for sample, kinds in zip(left, unknown, strict=True) if len(kinds) == most]
        left = [sample for sample, kinds in zip(left, unknown, strict=True) if len(kinds) > most]
        again = {kind for sample in ready if (kind := _follow(sample, found, rows))}
        found |= {kind: _fit_kind(rows[kind]) for kind in again}
        if not again:
            break
    return dict(sorted(found.items()))


def _follow(sample: Sample, found: Mapping[str, Any], rows: Mapping[str, list[tuple[Term, float]]]) -> str | None:
    """Adds what is left of a kernel to the rows of the term that it counts for, and names its kind."""
    chosen = next((term for term in sample.terms if term.kind not in found), sample.terms[0])
    rest = sample.cost - sum(cost_of(term, found[term.kind]) for term in sample.terms if term is not chosen)
    if rest < SHARE * sample.cost:
        return None
    rows[chosen.kind].append((chosen, rest))
    return chosen.kind


def _fit_kind(rows: Sequence[tuple[Term, float]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for term, _ in rows for name in term.counts))
    counts = np.array([[term.counts.get(name, 0) for name in names] for term, _ in rows], np.float64)
    costs = np.array([cost for _, cost in rows])
    constants = _solve(counts, costs)
    errors = _left_out(counts, costs)
    sizes = list(dict.fromkeys(name for term, _ in rows for name in term.shape))
    shape = {
        name: [min(values), max(values)]
        for name in sizes
        for values in [[float(term.shape[name]) for term, _ in rows if name in term.shape]]
    }
    return {
        "costs": {name: float(f"{value:.5g}") for name, value in zip(names, constants, strict=True) if value > 0},
        "error": float(f"{np.sqrt(np.mean(errors**2)):.3g}"),
        "bias": float(f"{np.mean(errors):.3g}"),
        "worst": float(f"{np.abs(errors).max():.3g}"),
        "samples": len(rows),
        "shape": shape,
    }


def cost_of(term: Term, constants: Mapping[str, Any]) -> float:
    """Estimated cost of a term by its kind's constants."""
    costs = constants["costs"]
    return float(sum(costs.get(name, 0.0) * count for name, count in term.counts.items()))

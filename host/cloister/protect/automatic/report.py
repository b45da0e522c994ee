# SPDX-License-Identifier: BSD-2-Clause
"""What was found, as ``report.json``, and beside it the pictures and the page to read."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloister.protect.automatic.costs import copied
from cloister.protect.automatic.evaluator import TrainingEvaluator
from cloister.protect.automatic.settings import ProtectSettings
from cloister.protect.strategy import Strategy
from cloister.protect.training import Splits
from cloister.seal.files import write_aside
from cloister.search import Budget, Found, Stage
from cloister.search.book import Record

REPORT_FILE, PAGE_FILE, ATTACKS_FILE = "report.json", "report.html", "attacks.json"
_ATTACKS = (ATTACKS_FILE, "attacks.md", "attacks.svg")
#: All that :func:`write_report` writes.
REPORT_FILES = (REPORT_FILE, PAGE_FILE, *_ATTACKS, "front.svg")
#: What a report of weak attackers says of itself.
QUICK = (
    "made with --quick: few strategies, short trainings and attackers that hardly train, but for what other options "
    "gave; it does not tell how strong the protection is"
)


def report_of(
    found: Found, evaluator: TrainingEvaluator, budget: Budget, settings: ProtectSettings, splits: Splits, name: str,
    place: Path,
) -> dict[str, Any]:  # fmt: skip
    """All figures, JSON."""
    chosen = found.chosen
    assert chosen is not None and chosen.figures is not None
    details = dict(chosen.figures.details)
    attacks = json.loads((place / ATTACKS_FILE).read_text())
    pair = place / "report.json"
    crossing = json.loads(pair.read_text())["crossing"] if pair.exists() else []
    pruned = details.get("pruned")
    # a pruned network has fewer channels
    tensors = {tap: list(shape) for tap, shape in evaluator.taps.items()} if pruned is None else pruned["tensors"]
    return {
        "model": name,
        "data": {
            "name": splits.name, "shape": list(splits.shape), "classes": len(splits.classes),
            "class_names": list(splits.classes), "mean": list(splits.mean), "std": list(splits.std),
            "training": len(splits.train), "validation": len(splits.validation), "test": len(splits.test),
        },
        "warnings": [QUICK] * settings.quick + doubts(budget, splits, evaluator.right, details["victim_test"]),
        "budget": budget.as_json(),
        "fits": found.choice.fits,
        "chosen": _row(chosen, budget),
        "why": found.why,
        "accuracy": {
            "victim": details["victim_test"],
            "protected": details["pair_test"],
            "exposed_alone": details["direct_test"],
            "pruned": None if pruned is None else pruned["test"],
            "without_password": details.get("without_password_test"),
        },
        "pruned_left": None if pruned is None else pruned["left"],
        "licence": None,
        "next": [],
        "sample": [],
        "earlier_bundle": None,
        "prediction": details["prediction"],
        "measured": None,
        "resident": None,
        "attacks": attacks,
        "network": {"tensors": tensors, "crossing": crossing},
        "tried": {
            "estimates": found.estimates, "proxies": found.proxies, "trainings": found.trainings, "cost": found.cost,
            "complete": found.complete,
        },
        "front": [_row(record, budget) for record in found.front],
        "records": [_row(record, budget) for record in _trained(found)],
        "settings": asdict(settings),
        "settings_digest": settings.digest,
    }  # fmt: skip


def doubts(budget: Budget, splits: Splits, validation: float, test: float) -> list[str]:
    """Warnings of what makes the points that are lost doubtful.

    Args:
        budget, splits: the command's.
        validation, test: accuracy of the unprotected model on these images, 0 to 1.
    """
    return [text for text in (coarse(budget, splits), memorised(budget, splits, validation, test)) if text]


def memorised(budget: Budget, splits: Splits, validation: float, test: float) -> str:
    """A warning where the model was probably trained on the validation images; else empty.

    Two and a half standard errors of the difference are taken for chance; a point, and half of what may be lost, for
    nothing to speak of.
    """
    first, second = len(splits.validation), len(splits.test)
    both = (validation * first + test * second) / (first + second)
    chance = 2.5 * math.sqrt(both * (1 - both) * (1 / first + 1 / second))
    little = 0.01 if budget.accuracy is None else min(0.01, budget.accuracy / 200)
    if validation - test <= max(little, chance):
        return ""
    return (
        f"the model labels {validation:.2%} of the validation images rightly and {test:.2%} of the test images: either "
        "these are harder, or it was trained on the former. Then points are lost against answers that it knows by "
        "heart, and strategies that are good enough seem to miss the budget: give images that it has not seen "
        "(validation/CLASS in the folder; x_val, y_val in the .npz; a factory returns Splits)"
    )


def coarse(budget: Budget, splits: Splits) -> str:
    """A warning where the validation images are too few to tell whether the budget of accuracy is kept; else empty."""
    points, limit = 100 / len(splits.validation), budget.accuracy
    if not limit or points <= limit:
        return ""
    return (
        f"one of the {len(splits.validation)} validation images is {points:.3g} points, more than the {limit:g} that "
        "may be lost: give more images, or set more of them aside (--validation)"
    )


def _trained(found: Found) -> list[Record]:
    """All that was trained, briefly or in full; also what was chosen where another worker's study does not have it."""
    records = [record for stage in (Stage.PROXY, Stage.TRAINING) for record in found.study.records(stage)]
    if found.chosen is not None and not any(
        (record.stage, record.strategy, record.state) == (found.chosen.stage, found.chosen.strategy, "done")
        for record in records
    ):
        records.append(found.chosen)
    return records


def _row(record: Record, budget: Budget) -> dict[str, Any]:
    figures = record.figures
    return {
        "stage": record.stage.value, "number": record.number, "state": record.state, "reason": record.reason,
        "seconds": round(record.seconds, 1), "summary": str(record.strategy),
        "strategy": json.loads(record.strategy.to_json()),
        "figures": None if figures is None else figures.as_json(),
        "fits": None if figures is None else budget.fits(figures),
    }  # fmt: skip


def strategy_of(report: dict[str, Any]) -> Strategy:
    """The chosen strategy of a report."""
    return Strategy.from_json(report["chosen"]["strategy"])


def write_report(folder: Path, report: dict[str, Any], found: Found, budget: Budget, place: Path) -> None:
    """Write ``report.json``, ``report.html``, ``attacks.json``, ``attacks.md``, ``attacks.svg``, ``front.svg``."""
    from cloister.attack.curves import draw as draw_curves
    from cloister.attack.picture import draw as draw_attacks
    from cloister.attack.table import heading
    from cloister.protect.automatic.page import page
    from cloister.search.picture import draw as draw_front

    front = draw_front(_trained(found), budget, found.chosen, "What the attacker gains, over what protection costs")
    attacks = draw_attacks(report["attacks"]["records"], heading(report["attacks"]["about"]))
    curves = draw_curves(report["attacks"]["records"], report["attacks"]["about"], "Attacks by what they take")
    # first, since it tells whose the others are if this is interrupted
    write_aside(folder / REPORT_FILE, (json.dumps(report, indent=1) + "\n").encode())
    for name in _ATTACKS:
        copied(place / name, folder, name)
    write_aside(folder / "front.svg", front.encode())
    write_aside(folder / PAGE_FILE, page(report, front, curves, attacks).encode())

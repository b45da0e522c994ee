# SPDX-License-Identifier: BSD-2-Clause
"""The strategy generator held against the hand-made grid of 30 with real trainings.

``python -m cloister.protect.results.generator`` trains a small network on scikit-learn's digits for each seed, then all
strategies of the grid and those that the generator asks for, by the evaluator of ``cloister protect``. What each of
both would choose by validation images is then trained again with other seeds, since the best of many is also the
luckiest of many. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from cloister.attack import Effort as AttackEffort
from cloister.demo.data import digits
from cloister.errors import CloisterError
from cloister.protect.automatic import Depth, ProtectSettings, TrainingEvaluator
from cloister.protect.strategy import IMAGE, Strategy
from cloister.protect.training import Augmentation, Images, Recipe, Splits, accuracy, fit
from cloister.seal.files import write_aside
from cloister.search import Budget, Figures, Space, search
from cloister.search import Effort as SearchEffort
from cloister.search.book import Record
from cloister.search.budget import size
from cloister.search.choose import MARGIN
from cloister.search.grid import Comparison, compare, hand_made, run_grid
from cloister.search.strategies import CHOICES, strategy_space

ATTACKS = ("direct", "finetune", "steal")
_CROP = Augmentation(crop=1)
#: Told one line for everything that is done.
Say = Callable[[str], None]


def _attacker(steps: int, queries: int) -> AttackEffort:
    return AttackEffort(
        shares=(0.1,), queries=(queries,), rates=(0.05,), mask_rates=(0.1,), epochs=5, steps=steps,
        trial=max(5, steps // 5), validation=1000, augmentation=_CROP,
    )  # fmt: skip


#: Of the evaluator. A short training costs 0.40 of a full one: 17 and 8 full ones are 14.7 trainings.
SETTINGS = ProtectSettings(
    full=Depth(8, 2, ATTACKS, _attacker(80, 200)), proxy=Depth(5, 1, ATTACKS, _attacker(20, 200)),
    search=SearchEffort(estimates=240, proxies=17, trainings=8), rate=0.1, batch=64, augmentation=_CROP,
)  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What is compared.

    Attributes:
        settings: of the evaluator; ``search`` is the generator's.
        budget: what strategies are chosen within. Its memory is too small for the whole model without swapping.
        width: channels of the victim's first layers.
        victim: epochs of its training.
        again: how often each choice is trained anew, with other seeds.
        exposed: strategies must leave a backbone in the normal world, as they must for a model whose monitor alone
            would not fit into the TA; neither the whole model nor a monitor of the image alone is tried.
        step: from one strategy of the grid that is trained to the next; 1 trains all.
    """

    settings: ProtectSettings = field(default_factory=lambda: SETTINGS)
    budget: Budget = field(default_factory=lambda: Budget.parse("480KiB", "60%", "1"))
    width: int = 16
    victim: int = 15
    again: int = 1
    exposed: bool = False
    step: int = 1


class Narrowed:
    """An evaluator with a smaller space; what it trains is kept with the other's.

    Args:
        whole: the evaluator.
        space: to search instead of its own.
        note: tells studies of it apart.
    """

    def __init__(self, whole: TrainingEvaluator, space: Space, note: str) -> None:
        self.name, self.former = f"{whole.name}, {note}", f"{whole.former}, {note}"
        self.space, self.proxy_share = space, whole.proxy_share
        self.estimate, self.proxy, self.train = whole.estimate, whole.proxy, whole.train


class Network(nn.Sequential):
    """Three convolutions and two linear layers, for 8 x 8 images.

    Args:
        width: channels of the first two convolutions; the third has twice as many.
    """

    def __init__(self, width: int) -> None:
        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        super().__init__(
            *stage(1, width), *stage(width, width), nn.MaxPool2d(2), *stage(width, 2 * width), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * width, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


def data() -> Splits:
    """The digits; three in ten of the training images are for choices, since these are what is compared."""
    train, train_labels, test, test_labels = map(torch.from_numpy, digits())
    return Splits.make(Images(train, train_labels), Images(test, test_labels), validation=0.3, seed=0, name="digits")


def grid_of(taps: Sequence[str], setup: Setup) -> list[Strategy]:
    """The hand-made grid, or some of it, evenly spread."""
    return hand_made(taps, others="exposed" if setup.exposed else "image")[:: setup.step]


def run(folder: Path, seed: int, setup: Setup, say: Say = lambda _: None) -> dict[str, Any]:
    """One seed: the record of both choices, JSON.

    Args:
        folder: keeps everything that is done.
        seed: of victim, pairs, attackers and generator.
        setup: what is compared.
        say: told a line for each training.

    Raises:
        CloisterError: the folder holds other settings, or something cannot be trained.
    """
    splits, settings = data(), replace(setup.settings, seed=seed)
    torch.manual_seed(seed)
    recipe = Recipe(epochs=setup.victim, batch=64, rate=0.1, seed=seed, augmentation=_CROP)
    place = folder / f"{settings.digest}-{setup.width}-{setup.victim}"
    victim = fit(
        Network(setup.width), splits, recipe, folder=place / "victim", device="cpu", quiet=True,
    ).module  # fmt: skip

    def evaluator(chosen: ProtectSettings) -> TrainingEvaluator:
        return TrainingEvaluator(
            victim, splits, chosen, place, memory=setup.budget.memory, label=f"width {setup.width}", device="cpu",
            quiet=True,
        )  # fmt: skip

    whole = evaluator(settings)
    # neither pruning nor locks: the grid has none, and each would be a training more
    taps = list(whole.taps)
    narrowed: dict[str, Any] = {"lock": ("none",), "pruned": (None,)}
    if setup.exposed:
        taps.remove(IMAGE)
        narrowed["form"] = tuple(form for form in CHOICES["form"] if form != "whole")
    plain = Narrowed(
        whole, strategy_space(taps, shapes=whole.taps, **narrowed), "exposed" if setup.exposed else "as it is"
    )
    study, budget = place / "study.journal", setup.budget
    regime = f"{'exposed ' if setup.exposed else ''}in {budget.memory}"
    found = search(
        plain, budget, study=study, name=f"generator {regime}", effort=settings.search, seed=seed,
        say=lambda line: say(f"seed {seed}: {line}"),
    )  # fmt: skip
    grid = run_grid(
        whole, budget, list(whole.taps), study=study, name=f"grid {regime}",
        strategies=grid_of(list(whole.taps), setup),
        say=lambda line: say(f"seed {seed}: {line}"),
    )  # fmt: skip
    compared = compare(found, grid, budget)
    choices = {"generator": found.chosen, "grid": compared.grid.record}
    again: dict[str, list[dict[str, Any]]] = {}
    for who, record in choices.items():
        say(f"seed {seed}: training the {who}'s choice anew: {None if record is None else record.strategy}")
        again[who] = [] if record is None else [
            _figures(evaluator(replace(settings, seed=100 * (seed + 1) + number)).train(record.strategy), budget)
            for number in range(setup.again)
        ]  # fmt: skip
    return {
        "seed": seed, "exposed": setup.exposed,
        "victim": {"validation": accuracy(victim, splits.validation, splits),
                   "test": accuracy(victim, splits.test, splits)},
        "budget": budget.as_json(),
        "settings": asdict(settings),
        "as_good": compared.as_good,
        "as_good_test": _as_good_test(choices["generator"], choices["grid"], budget),
        "covered": compared.covered, "covered_by": compared.covered_by,
        "generator": {
            **_side(found.chosen, budget, again["generator"]), "trainings": found.trainings, "proxies": found.proxies,
            "cost": found.cost, "seconds": _seconds(_records(compared)), "estimates": found.estimates,
        },
        "grid": {
            **_side(compared.grid.record, budget, again["grid"]), "trainings": len(grid), "proxies": 0,
            "cost": compared.grid_cost, "seconds": _seconds(grid),
            "fit": sum(record.figures is not None and budget.fits(record.figures) for record in grid),
            "failed": [str(record.strategy) for record in grid if record.figures is None],
        },
        "text": compared.text,
    }  # fmt: skip


def _records(compared: Comparison) -> list[Record]:
    from cloister.search import Stage

    return [record for stage in (Stage.PROXY, Stage.TRAINING) for record in compared.found.study.records(stage)]


def _seconds(records: Sequence[Record]) -> float:
    return round(sum(record.seconds for record in records), 1)


def _side(record: Record | None, budget: Budget, again: list[dict[str, Any]]) -> dict[str, Any]:
    if record is None or record.figures is None:
        return {"strategy": None, "again": again}
    return {
        "strategy": json.loads(record.strategy.to_json()), "summary": str(record.strategy),
        **_figures(record.figures, budget), "again": again,
    }  # fmt: skip


def _figures(figures: Figures, budget: Budget) -> dict[str, Any]:
    details = figures.details
    return {
        "fits": budget.fits(figures), "overhead": figures.overhead, "memory": figures.memory,
        "gain": figures.gain, "lost": figures.lost, "gain_test": details["gain_test"],
        "lost_test": 100 * (details["victim_test"] - details["pair_test"]),
    }  # fmt: skip


def _as_good_test(mine: Record | None, theirs: Record | None, budget: Budget) -> bool:
    """As :attr:`Comparison.as_good`, with test images in place of validation images."""
    if mine is None or theirs is None or mine.figures is None or theirs.figures is None:
        return theirs is None or theirs.figures is None
    ours, other = (_figures(record.figures, budget) for record in (mine, theirs) if record.figures)
    limit = budget.accuracy
    fits = [side["fits"] if limit is None else side["lost_test"] <= limit for side in (ours, other)]
    if fits[0] != fits[1]:
        return bool(fits[0])
    less = max(1.0, other["gain_test"]) - max(1.0, ours["gain_test"])
    return bool(less > MARGIN or (less >= -MARGIN and ours["overhead"] <= other["overhead"]))


def table(records: Sequence[dict[str, Any]]) -> str:
    """Both choices of every seed as a Markdown table."""
    heads = (
        "seed", "may stay inside", "by", "trainings", "its choice", "overhead", "memory", "gain",
        "on test images", "points lost", "on test images", "kept the budget again",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for record in records:
        inside = "a part" if record["exposed"] else "all"
        for who in ("generator", "grid"):
            side = record[who]
            cost = f"{side['cost']:.1f}"
            if side["strategy"] is None:
                lines.append(f"| {record['seed']} | {inside} | {who} | {cost} | none |" + " |" * (len(heads) - 5))
                continue
            again = side["again"]
            choice = side["summary"] + ("" if side["fits"] else " (exceeds the budget)")
            cells = (
                str(record["seed"]), inside, who, cost, choice,
                f"{100 * side['overhead']:.1f} %", size(side["memory"]), f"{side['gain']:.3f}",
                _spread(side["gain_test"], again, "gain_test", ".3f"), f"{side['lost']:.2f}",
                _spread(side["lost_test"], again, "lost_test", ".2f"),
                f"{sum(one['fits'] for one in again)} of {len(again)}",
            )  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(first: float, again: Sequence[dict[str, Any]], key: str, form: str) -> str:
    others = ", ".join(format(one[key], form) for one in again)
    return format(first, form) + (f" ({others})" if others else "")


@click.command()
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("out/generator"),
    show_default=True,
    help="Checkpoints, studies and results.json.",
)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option(
    "--again",
    type=click.IntRange(0),
    default=Setup().again,
    show_default=True,
    help="How often each choice is trained anew with other seeds.",
)
@click.option("--budget-memory", default="480KiB", show_default=True)
@click.option("--budget-overhead", default="60%", show_default=True)
@click.option("--budget-accuracy", default="1", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(
    work: Path, seeds: str, again: int, budget_memory: str, budget_overhead: str, budget_accuracy: str, threads: int
) -> None:  # fmt: skip
    """Train the grid of 30 and what the generator asks for, on digits, and print both choices as a table."""
    torch.set_num_threads(threads)
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise click.BadParameter(f"{seeds!r}: write numbers with commas, such as 0,1,2") from None
    records = []
    try:
        budget = Budget.parse(budget_memory, budget_overhead, budget_accuracy)
        for seed, exposed in product(numbers, (False, True)):
            setup = Setup(budget=budget, again=again, exposed=exposed)
            records.append(run(work, seed, setup, lambda line: click.echo(line, err=True)))
            write_aside(work / "results.json", (json.dumps(records, indent=1) + "\n").encode())
            click.echo(records[-1]["text"], err=True)
    except CloisterError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(records))
    good, test = (sum(record[key] for record in records) for key in ("as_good", "as_good_test"))
    click.echo(f"\nAt least as good as the grid in {len(records)} comparisons: {good} times by validation images, "
               f"{test} times by test images.")  # fmt: skip


if __name__ == "__main__":
    main()

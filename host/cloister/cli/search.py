# SPDX-License-Identifier: BSD-2-Clause
"""``cloister search``: look for the strategy from which an attacker gains least within a budget."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloister.cli.common import SVG, NewFile, show_facts, show_json, show_table
from cloister.errors import CloisterError

if TYPE_CHECKING:
    from cloister.search import Budget, Found
    from cloister.search.book import Record

EXAMPLE = """
\b
Examples:
  cloister search run study.journal --evaluator my_models:evaluator \\
      --budget-memory 2MiB --budget-overhead 1% --budget-accuracy 1 --time-limit 2h
  cloister search run study.journal --evaluator my_models:evaluator   # goes on, with the same budget
  cloister search run postgresql://me@host/studies --evaluator my_models:evaluator   # a worker; start several
  cloister search trials study.journal --stage training
  cloister search front study.journal --plot front.svg
"""
UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """A length of time: ``90``, ``30m``, ``2h``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; a message that names the units where it is no time."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", str(value))
        if not match or match[2] not in UNITS:
            self.fail(f"{value!r} is no time; write seconds, or a number with m, h or d, such as 2h", param, ctx)
        return float(match[1]) * UNITS[match[2]]


def _budget_options(command: Any) -> Any:
    for option in (
        click.option("--budget-accuracy", metavar="POINTS", help="Points of accuracy that may be lost, such as 1."),
        click.option("--budget-overhead", metavar="SHARE", help="Instructions that may be added, such as 1%."),
        click.option("--budget-memory", metavar="SIZE", help="Secure memory, such as 2MiB."),
        click.option("--name", default="search", show_default=True, help="Of the search: a place can hold several."),
    ):
        command = option(command)
    return command


@click.group(epilog=EXAMPLE)
def search() -> None:
    """Search for the strategy from which an attacker gains least within a budget.

    A search is kept in a file, or in a database for workers on several machines, and goes on where it was when the
    same command is run again. `cloister protect` runs it for you.
    """


@search.command(epilog=EXAMPLE)
@click.argument("study")
@click.option("--evaluator", required=True, help="package.module:factory of what estimates and trains strategies.")
@_budget_options
@click.option("--estimates", type=click.IntRange(1), help="Strategies that are estimated [default: 1000].")
@click.option("--proxies", type=click.IntRange(1), help="Of these trained briefly [default: 40].")
@click.option("--trainings", type=click.IntRange(1), help="Of these trained fully [default: 6].")
@click.option("--time-limit", type=Duration(), help="End with the best so far, such as 2h.")
@click.option("--sampler", type=click.Choice(["nsga2", "tpe", "random"]), default="nsga2", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--plot", type=NewFile("SVG picture", SVG), help="Write the front to this SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(
    study: str, evaluator: str, name: str, budget_memory: str | None, budget_overhead: str | None,
    budget_accuracy: str | None, estimates: int | None, proxies: int | None, trainings: int | None,
    time_limit: float | None, sampler: str, seed: int, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Begin the search in STUDY, a file or a database's URL, or go on with it."""
    from cloister.search import Effort
    from cloister.search import search as generate
    from cloister.search.storage import is_url

    given = (budget_memory, budget_overhead, budget_accuracy)
    there = is_url(study) or Path(study).exists()
    budget = _budget(study, name, given, begin=True) if there else _parse(given)
    wanted = {"estimates": estimates, "proxies": proxies, "trainings": trainings}
    effort = Effort(**{key: value for key, value in wanted.items() if value is not None})
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - began:7.0f} s  {line}", err=True)

    found = generate(
        _make(evaluator), budget, study=study, name=name, effort=effort, seed=seed, time_limit=time_limit,
        sampler=sampler, say=say,
    )  # fmt: skip
    _show(found, budget, plot, as_json)
    if not found.complete and not as_json:
        click.echo("The time limit ended it; the same command goes on.")


@search.command(epilog=EXAMPLE)
@click.argument("study")
@_budget_options
@click.option("--stage", type=click.Choice(["estimate", "proxy", "training"]), help="[default: proxy and training]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def trials(
    study: str, name: str, budget_memory: str | None, budget_overhead: str | None, budget_accuracy: str | None,
    stage: str | None, as_json: bool,
) -> None:  # fmt: skip
    """List what was tried in STUDY."""
    from cloister.search import Stage
    from cloister.search.book import Book

    budget = _budget(study, name, (budget_memory, budget_overhead, budget_accuracy))
    book = Book(study, name, create=False)
    stages = [Stage(stage)] if stage else [Stage.PROXY, Stage.TRAINING]
    records = [record for kind in stages for record in book.records(kind)]
    if as_json:
        show_json([_json(record, budget) for record in records])
        return
    _table(f"Trials; budget: {budget}", records, budget)


@search.command(epilog=EXAMPLE)
@click.argument("study")
@_budget_options
@click.option("--plot", type=NewFile("SVG picture", SVG), help="Write the front to this SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def front(
    study: str, name: str, budget_memory: str | None, budget_overhead: str | None, budget_accuracy: str | None,
    plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the front of STUDY, what is chosen of it, and why. Another budget chooses anew from what was trained."""
    from cloister.search import found_in
    from cloister.search.book import Book

    budget = _budget(study, name, (budget_memory, budget_overhead, budget_accuracy))
    _show(found_in(Book(study, name, create=False), budget), budget, plot, as_json)


HEADS = ["stage", "no.", "gain", "overhead", "lost", "memory", "bytes", "budget"]


def _table(title: str, records: Sequence[Record], budget: Budget) -> None:
    """Figures as a table; strategies below it, since they are longer than a terminal leaves room for."""
    show_table(title, HEADS, [_row(record, budget) for record in records])
    show_facts({f"{record.stage.value} {record.number}": record.strategy for record in records})


def _row(record: Record, budget: Budget) -> list[object]:
    from cloister.search.budget import size

    figures = record.figures
    head: list[object] = [record.stage.value, record.number]
    if figures is None:
        return [*head, "", "", "", "", "", f"failed: {record.reason}" if record.state == "failed" else record.state]
    return [
        *head,
        "" if figures.gain is None else f"{figures.gain:.3f}",
        f"{100 * figures.overhead:.3f} %",
        "" if figures.lost is None else f"{figures.lost:.2f}",
        size(figures.memory),
        size(figures.boundary),
        "kept" if budget.fits(figures) else "exceeded",
    ]


def _json(record: Record, budget: Budget) -> dict[str, Any]:
    import json

    return {
        "stage": record.stage.value,
        "number": record.number,
        "state": record.state,
        "strategy": json.loads(record.strategy.to_json()),
        "figures": record.figures.as_json() if record.figures else None,
        "fits": budget.fits(record.figures) if record.figures else None,
        "reason": record.reason,
        "seconds": record.seconds,
    }


def _show(found: Found, budget: Budget, plot: Path | None, as_json: bool) -> None:
    from cloister.search import Stage

    if plot is not None:
        from cloister.search.picture import draw, save

        records = [record for stage in (Stage.PROXY, Stage.TRAINING) for record in found.study.records(stage)]
        save(draw(records, budget, found.chosen, "What the attacker gains, over what protection costs"), plot)
    if as_json:
        show_json(
            {
                "budget": budget.as_json(),
                "chosen": _json(found.chosen, budget) if found.chosen else None,
                "why": found.why,
                "front": [_json(record, budget) for record in found.front],
                "estimates": found.estimates, "proxies": found.proxies, "trainings": found.trainings,
                "cost": found.cost, "complete": found.complete,
            }
        )  # fmt: skip
        return
    _table("Front", found.front, budget)
    click.echo(f"\n{found.why}\n")
    facts: dict[str, object] = {
        "tried": f"{found.estimates} estimates, {found.proxies} short and {found.trainings} full trainings "
        f"(together {found.cost:.1f} trainings)"
    }
    if plot is not None:
        facts["plot"] = plot
    show_facts(facts)


def _parse(given: tuple[str | None, str | None, str | None]) -> Budget:
    from cloister.search import Budget

    return Budget.parse(*given)


def _budget(study: str, name: str, given: tuple[str | None, str | None, str | None], *, begin: bool = False) -> Budget:
    """What is given, in place of that part of the study's own budget."""
    from cloister.search import Budget, SearchError
    from cloister.search.book import Book

    try:
        kept = Book(study, name, create=False).about.get("budget", {})
    except SearchError:
        if not begin:
            raise
        kept = {}  # a search that begins; what is wrong with the place is told when it is opened
    now = _parse(given).as_json()
    return Budget(**{key: kept.get(key) if now[key] is None else now[key] for key in now})


def _make(text: str) -> Any:
    """What the factory returns.

    Raises:
        CloisterError: there is no such factory, or it returns no evaluator.
    """
    remedy = "name a function without arguments that returns an evaluator; see docs/search.md"
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), name]):
        raise CloisterError(f"{text!r} is no package.module:factory", remedy)
    if "" not in sys.path:
        sys.path.insert(0, "")  # modules of the current folder, as `python -m` finds them
    try:
        factory = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise CloisterError(f"there is no module {module!r}", remedy) from error
    except AttributeError as error:
        raise CloisterError(f"{module} has no {name!r}", remedy) from error
    made = factory()
    missing = [
        part for part in ("name", "space", "proxy_share", "estimate", "proxy", "train") if not hasattr(made, part)
    ]
    if missing:
        raise CloisterError(f"what {text} returned has no {', '.join(missing)}", remedy)
    return made

# SPDX-License-Identifier: BSD-2-Clause
"""What is known so far, kept in Optuna studies: one for each stage, shared by all workers."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from cloister.errors import CloisterError, PassingError
from cloister.protect.strategy import Strategy
from cloister.search.budget import Budget
from cloister.search.errors import SearchError
from cloister.search.figures import COSTS, OBJECTIVES, Evaluator, Figures, Stage
from cloister.search.space import Point, Space
from cloister.search.storage import open_storage, shown, told

#: Of the form of what a study keeps; another one is refused.
FORM = 1
#: Seconds after which a trial that no worker has put its name to is taken for abandoned.
NAMELESS_S = 60.0


@dataclass(frozen=True)
class Record:
    """One strategy at one stage.

    Attributes:
        stage, number: the trial of Optuna's study.
        strategy, point: what was evaluated.
        state: ``done``, ``running``, ``failed``.
        figures: where it is done.
        reason: where it failed.
        seconds: it took.
        turn: of an estimate, how many proxies there were when it was made.
    """

    stage: Stage
    number: int
    strategy: Strategy
    point: Point
    state: str
    figures: Figures | None = None
    reason: str = ""
    seconds: float = 0.0
    turn: int = 0


class Book:
    """The studies of one search.

    Every trial carries ``strategy`` and ``figures`` as user attributes: what was measured, from which budgets are
    judged anew whenever it is read. Values and constraints of the trials are for Optuna's own tools.
    """

    def __init__(self, place: str | Path | None, name: str, *, create: bool = True) -> None:
        """Open or make the studies ``NAME/estimate``, ``NAME/proxy`` and ``NAME/training``.

        Args:
            place: a file or a database's URL; None keeps them in memory alone.
            name: of the search; a place can hold several.
            create: make what is not there.

        Raises:
            SearchError: the place cannot be opened, or there is no such search and ``create`` is false.
        """
        self.place, self.name = place, name
        self._place = "memory" if place is None else shown(place)
        self._known: dict[tuple[Stage, int], Record] = {}
        self._strategies: dict[str, Strategy] = {}
        storage = optuna.storages.InMemoryStorage() if place is None else open_storage(place, create=create)
        self._studies: dict[Stage, optuna.Study] = {}
        with told(), quiet():
            if not create:
                self._find(storage)
            for stage in Stage:
                objectives = COSTS if stage is Stage.ESTIMATE else OBJECTIVES
                study = optuna.create_study(
                    storage=storage,
                    study_name=f"{name}/{stage.value}",
                    directions=["minimize"] * len(objectives),
                    sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: points are given
                    load_if_exists=True,
                )
                study.set_metric_names([objective.key for objective in objectives])
                self._studies[stage] = study

    def _find(self, storage: optuna.storages.BaseStorage) -> None:
        ends = f"/{Stage.TRAINING.value}"
        names = [study.study_name for study in storage.get_all_studies()]
        there = sorted(name.removesuffix(ends) for name in names if name.endswith(ends))
        if self.name not in there:
            listed = f"its searches are {', '.join(there)}" if there else "it holds none"
            raise SearchError(f"{self._place} has no search {self.name!r}", f"give --name; {listed}")

    @property
    def studies(self) -> dict[Stage, optuna.Study]:
        """Optuna's studies, for its own tools."""
        return dict(self._studies)

    @property
    def about(self) -> dict[str, Any]:
        """What the search is of: evaluator, budget, seed."""
        with told():
            return dict(self._studies[Stage.ESTIMATE].user_attrs.get("about", {}))

    def bind(self, evaluator: Evaluator, seed: int, budget: Budget) -> None:
        """Say what the search is of, or check that it is the same as before. The budget may change.

        Raises:
            SearchError: the study is of another evaluator, space or seed.
        """
        now = {
            "form": FORM,
            "evaluator": evaluator.name,
            "space": json.loads(json.dumps({name: list(values) for name, values in evaluator.space.choices.items()})),
            "seed": seed,
        }
        before = self.about
        if before and before.get("evaluator") == getattr(evaluator, "former", None):
            before["evaluator"] = evaluator.name  # what earlier versions called the same
        for key, value in now.items():
            if before and before.get(key) != value:
                told_of = "" if key == "space" else f": it was {before.get(key)!r}, now it is {value!r}"
                raise SearchError(
                    f"{self._place}: the search {self.name!r} is of another {key}{told_of}",
                    "give what it was begun with, or for a new search another file or database (`cloister search` also "
                    "takes another --name)",
                )
        with told():
            self._studies[Stage.ESTIMATE].set_user_attr(
                "about", {**now, "budget": budget.as_json(), "proxy_share": evaluator.proxy_share}
            )

    def records(self, stage: Stage) -> list[Record]:
        """All of a stage, in the order of their numbers; those that are waiting or were given up are left out."""
        with told():
            trials = self._studies[stage].get_trials(deepcopy=False)
        found = []
        for trial in trials:
            record = self._known.get((stage, trial.number)) or self._read(stage, trial)
            if record is not None:
                if record.state != "running":
                    self._known[stage, trial.number] = record
                found.append(record)
        return found

    def _read(self, stage: Stage, trial: FrozenTrial) -> Record | None:
        attrs = trial.user_attrs
        if "strategy" not in attrs:
            return None
        error = attrs.get("error", "")
        if trial.state == TrialState.RUNNING:
            state = "running"
        elif error:
            state = "failed"
        elif trial.state == TrialState.COMPLETE:
            state = "done"
        else:
            return None
        seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
        kept = {"point": trial.params, "seconds": seconds, "turn": 0, **attrs, **attrs.get("kept", {})}
        figures = Figures.from_json(kept["figures"]) if state == "done" else None
        strategy = self._strategy(attrs["strategy"])
        return Record(
            stage, trial.number, strategy, kept["point"], state, figures, error, kept["seconds"], kept["turn"]
        )

    def _strategy(self, text: str) -> Strategy:
        if text not in self._strategies:
            self._strategies[text] = Strategy.from_json(text)
        return self._strategies[text]

    def add_estimate(
        self, point: Point, strategy: Strategy, found: Figures | str, *, seconds: float, turn: int
    ) -> Record:
        """Keep an estimate, or why there is none."""
        stage = Stage.ESTIMATE
        # one attribute, since each takes several queries of a database
        kept: dict[str, Any] = {"point": dict(point), "seconds": seconds, "turn": turn}
        if isinstance(found, str):
            attrs = {"strategy": strategy.to_json(), "error": found, "kept": kept}
            trial = optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attrs)
            record = Record(stage, -1, strategy, point, "failed", None, found, seconds, turn)
        else:
            trial = optuna.trial.create_trial(
                values=[float(getattr(found, objective.key)) for objective in COSTS],
                user_attrs={"strategy": strategy.to_json(), "kept": {**kept, "figures": found.as_json()}},
            )
            record = Record(stage, -1, strategy, point, "done", found, "", seconds, turn)
        with told():
            self._studies[stage].add_trial(trial)
        return record

    def work(
        self,
        stage: Stage,
        point: Point,
        space: Space,
        evaluate: Callable[[Strategy], Figures],
        budget: Budget,
        *,
        limit: int | None = None,
    ) -> Record | None:
        """Evaluate a point as a trial of a stage, and keep what was found.

        The trial that is run may be one that another worker left waiting. It is given up where another worker has
        the same strategy already, or where others have begun ``limit`` trials meanwhile; then None is returned.

        Raises:
            SearchError: the point is not of the space, the evaluator's figures are not complete, or the database was
                lost.
            PassingError: the evaluator's; the trial is given up, and may be done again.
        """
        space.check(point)
        study = self._studies[stage]
        ran: list[int] = []

        def objective(trial: Trial) -> list[float]:
            trial.set_user_attr("worker", worker())
            if "strategy" not in trial.user_attrs:
                raise optuna.TrialPruned("drawn, not given")
            ran.append(trial.number)
            strategy = space.build(space.suggest(trial))
            text, others = trial.user_attrs["strategy"], study.get_trials(deepcopy=False)
            before = [other for other in others if other.number < trial.number and (_live(other) or _waits(other))]
            finished = [other for other in others if other.number > trial.number and other.state.is_finished()]
            # of two workers that begin at once the one with the earlier number goes on: every trial has its strategy
            # from the moment in which it has its number
            same = [other for other in (*before, *finished) if other.user_attrs.get("strategy") == text]
            if any(_live(other) or _waits(other) for other in same):
                raise optuna.TrialPruned("another worker has it")
            if limit is not None and len(before) >= limit:
                raise optuna.TrialPruned("others have begun enough")
            try:
                figures = evaluate(strategy)
            except (SearchError, PassingError):
                raise
            except CloisterError as error:
                trial.set_user_attr("error", error.message)
                raise optuna.TrialPruned(error.message) from error
            values = figures.values()
            trial.set_user_attr("figures", figures.as_json())
            for key, value in budget.excess(figures).items():
                trial.set_constraint(key, value)
            return values

        with told(), quiet():
            study.enqueue_trial(dict(point), user_attrs={"strategy": space.build(point).to_json()})
            # Optuna lists the waiting trials, then tries to take one; where other workers were faster with all of its
            # list it draws a new trial at random. One is left waiting for this worker nevertheless: each adds one
            # before it takes one.
            while not ran:
                study.optimize(objective, n_trials=1)
        return next((record for record in self.records(stage) if record.number == ran[0]), None)

    def release(self) -> int:
        """Give up the trials of workers of this machine that are gone, so that they can be done again; their number.

        Workers on other machines are told from dead ones by their heartbeats, by Optuna.
        """
        count = 0
        with told(), quiet():
            for stage in (Stage.PROXY, Stage.TRAINING):
                study = self._studies[stage]
                optuna.storages.fail_stale_trials(study)
                for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                    if _gone(trial):
                        study.tell(trial.number, state=TrialState.FAIL)
                        count += 1
        return count


def _live(trial: FrozenTrial) -> bool:
    """Running, done, or failed by itself: nobody need begin it again."""
    return trial.state in (TrialState.RUNNING, TrialState.COMPLETE) or "error" in trial.user_attrs


def _waits(trial: FrozenTrial) -> bool:
    """Some worker will take it before it asks for anything else."""
    return bool(trial.state == TrialState.WAITING)


def worker() -> str:
    """This process: machine, number, and when the kernel started it (numbers are used again)."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def _started(number: int) -> str:
    """The 22nd field of /proc/PID/stat, counted behind the name, which may hold spaces; empty where it is gone."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _gone(trial: FrozenTrial) -> bool:
    name = str(trial.user_attrs.get("worker", ""))
    if not name:
        started = trial.datetime_start  # Optuna's times are local, without a zone
        return started is not None and (datetime.now() - started).total_seconds() > NAMELESS_S
    host, number, began = (*name.split(" "), "", "")[:3]
    return host == socket.gethostname() and number.isdecimal() and (not began or _started(int(number)) != began)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's lines about each trial, since the search tells what it does, and what it calls experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)

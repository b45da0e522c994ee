# SPDX-License-Identifier: BSD-2-Clause
"""cloister protect's studies: whose they are, and what other workers train."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from digits_data import digits_splits
from protected_digits import BUDGET, SETTINGS, protect, victim
from torch import nn

import cloister
from cloister.protect.automatic import (
    Protected,
    TrainingEvaluator,
)
from cloister.protect.automatic.protect import study_name
from cloister.protect.training import TrainingError
from cloister.seal import Bundle, VendorKey
from cloister.search import Budget, BudgetError, SearchError, Stage
from cloister.search import Effort as SearchEffort
from cloister.search.book import Book


def test_what_another_worker_trains_at_the_moment_is_trained_here_too(made: Protected, tmp_path: Path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "digits")  # so that its training is one that is kept
    (folder / "training" / "study.journal").unlink()
    about = TrainingEvaluator(victim(), digits_splits(), SETTINGS, folder / "training", memory=BUDGET.memory)
    chosen = made.found.chosen
    assert chosen is not None and chosen.figures is not None
    figures = chosen.figures
    book = Book(tmp_path / "shared.journal", study_name(about, SETTINGS, BUDGET))
    book.bind(about, SETTINGS.seed, BUDGET)
    assert book.work(Stage.PROXY, chosen.point, about.space, lambda _: figures, BUDGET)
    # a worker on another machine, in the middle of the training
    training = book.studies[Stage.TRAINING]
    training.enqueue_trial(dict(chosen.point), user_attrs={"strategy": chosen.strategy.to_json()})
    training.ask().set_user_attr("worker", "elsewhere 1 2")
    # one proxy alone is wanted, so that this worker has nothing to do but wait, for which there is no time
    settings = replace(SETTINGS, search=SearchEffort(8, 1, 1, start=1))
    mine = protect(folder, settings=settings, study=tmp_path / "shared.journal", time_limit=0.0,
                   keys=made.folder.parent / "keys")  # fmt: skip
    assert mine.strategy == made.strategy and mine.found.trainings == 1 and not mine.found.complete
    assert mine.report["chosen"]["stage"] == "training" and mine.report["accuracy"] == made.report["accuracy"]
    stages = [(row["stage"], row["state"]) for row in mine.report["records"]]
    assert stages == [("proxy", "done"), ("training", "running"), ("training", "done")]


def test_one_study_holds_the_searches_of_several_models_and_data(tmp_path: Path) -> None:
    splits, other = digits_splits(), copy.deepcopy(victim())
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    normalised = replace(splits, mean=(splits.mean[0] + 0.1,))
    fewer = splits.with_train(splits.train.take(range(1000)))
    nearly = replace(splits, std=(splits.std[0] * (1 + 1e-6),), name="the same on another machine")
    names = []
    for number, (model, data) in enumerate(
        ((victim(), splits), (other, splits), (victim(), normalised), (victim(), fewer), (victim(), nearly))
    ):
        about = TrainingEvaluator(model, data, SETTINGS, tmp_path / str(number), quiet=True)
        names.append(study_name(about, SETTINGS, BUDGET))
        # the last is the first under another name, which goes on with its study
        Book(tmp_path / "one.journal", names[-1]).bind(about, 0, BUDGET)
    assert len(set(names[:4])) == 4 and names[4] == names[0]
    assert study_name(about, SETTINGS, Budget()).endswith("any memory")
    with pytest.raises(SearchError) as told:
        Book(tmp_path / "one.journal", names[1]).bind(about, 0, BUDGET)
    assert "another file or database" in told.value.remedy


def test_a_study_from_before_names_were_digests_is_gone_on_with(tmp_path: Path) -> None:
    about = TrainingEvaluator(victim(), digits_splits(), SETTINGS, tmp_path, quiet=True)

    def bound(name: str, study: str) -> None:
        now = SimpleNamespace(name=name, space=about.space, proxy_share=about.proxy_share)
        Book(tmp_path / "one.journal", study).bind(now, 0, BUDGET)  # type: ignore[arg-type]

    bound(about.former, "before")
    Book(tmp_path / "one.journal", "before").bind(about, 0, BUDGET)
    assert Book(tmp_path / "one.journal", "before").about["evaluator"] == about.name
    bound(f"{about.former} of another kind", "another")
    with pytest.raises(SearchError, match="is of another evaluator"):
        Book(tmp_path / "one.journal", "another").bind(about, 0, BUDGET)


def test_what_another_worker_trained_is_trained_here_too(made: Protected, tmp_path: Path) -> None:
    study = shutil.copy(made.folder / "training" / "study.journal", tmp_path / "shared.journal")
    mine = protect(tmp_path / "a folder of its own", study=study)
    assert mine.strategy == made.strategy and mine.found.trainings == 1
    assert Bundle.load(mine.bundle).is_pair and (mine.folder / "attacks.json").exists()


def test_estimates_of_another_model_are_not_taken_for_this_one_s(tmp_path: Path) -> None:
    VendorKey.load_or_generate(tmp_path / "keys")

    def begun(model: nn.Module) -> None:
        limits = {"budget_memory": "450KiB", "budget_overhead": "1%"}  # more than the TA alone takes
        cloister.protect(model, digits_splits(), tmp_path / "out", **limits, keys=tmp_path / "keys", quiet=True)

    with pytest.raises(BudgetError, match="nothing keeps the budget"):
        begun(victim())
    other = copy.deepcopy(victim())
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    with pytest.raises(TrainingError, match="of another model"):
        begun(other)

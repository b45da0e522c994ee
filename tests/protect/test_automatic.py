# SPDX-License-Identifier: BSD-2-Clause
"""cloister protect on the digits: what it writes, that it goes on where it was, and what it says where nothing fits."""

from __future__ import annotations

import copy
import json
import re
import shutil
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import canned_bench
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from digits_data import digits_splits
from PIL import Image
from torch import nn

import cloister
from cloister.attack import Effort
from cloister.cli.main import cloister as command
from cloister.errors import CloisterError, FormatError
from cloister.estimate.pair import predict
from cloister.protect.automatic import (
    Depth,
    Protected,
    ProtectSettings,
    TrainingEvaluator,
    evaluator,
    measure,
    protect_model,
    settings_with,
)
from cloister.protect.automatic.drawing import draw
from cloister.protect.automatic.page import page
from cloister.protect.automatic.protect import study_name
from cloister.protect.automatic.report import coarse
from cloister.protect.strategy import Strategy
from cloister.protect.training import Augmentation, Data, Recipe, Splits, TrainingError, fit, network
from cloister.protect.training.errors import DeviceError
from cloister.seal import Bundle, VendorKey
from cloister.search import Budget, BudgetError, Figures, SearchError, Stage, generate
from cloister.search import Effort as SearchEffort
from cloister.search.book import Book, Record
from cloister.search.picture import draw as draw_front

CROP = Augmentation(crop=1)
ATTACKS = ("direct", "finetune", "steal")
TINY = Effort(
    shares=(0.1,), queries=(100,), rates=(0.05,), mask_rates=(0.1,), epochs=2, steps=20, trial=5, validation=200
)
SETTINGS = ProtectSettings(
    full=Depth(4, 1, ATTACKS[1:], TINY), proxy=Depth(1, 0, ATTACKS, TINY), batch=64, rate=0.1,
    search=SearchEffort(estimates=8, proxies=2, trainings=1, start=1), forms=("tampered",),
)  # fmt: skip
#: Digits are so small that the boundary alone is a third of the unprotected model.
BUDGET = Budget.parse("1MiB", "150%", "40")


@cache
def victim() -> nn.Module:
    recipe = Recipe(epochs=10, batch=64, rate=0.1, augmentation=CROP, seed=3)
    return fit(network("digits", 1, 10, 5), digits_splits(), recipe, device="cpu", quiet=True).module


def protect(folder: Path, budget: Budget = BUDGET, settings: ProtectSettings = SETTINGS, **given: Any) -> Protected:
    given = {"keys": folder.parent / "keys", "device": "cpu", **given}
    VendorKey.load_or_generate(given["keys"])
    return protect_model(victim(), digits_splits(), budget, folder, settings=settings, quiet=True, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Protected:
    return protect(tmp_path_factory.mktemp("protect") / "digits")


def test_the_bundle_is_a_pair_within_the_budget(made: Protected) -> None:
    bundle = Bundle.load(made.bundle)
    assert made.bundle.name == "pair.clb" and bundle.is_pair and bundle.name == "digits"
    assert {"backbone.onnx", "cpm.onnx", "report.html", "report.json", "attacks.json", "front.svg"} <= {
        path.name for path in made.folder.iterdir()
    }
    chosen = made.found.chosen
    assert chosen is not None and chosen.figures is not None and BUDGET.fits(chosen.figures)
    assert made.strategy.backbone in SETTINGS.forms
    assert chosen.figures.lost is not None and chosen.figures.lost <= 40


def test_the_report_holds_the_figures_and_fetches_nothing(made: Protected) -> None:
    report = json.loads((made.folder / "report.json").read_text())
    assert report["fits"] and report["chosen"]["summary"] == str(made.strategy)
    assert report["accuracy"]["protected"] > 0.5 > report["accuracy"]["exposed_alone"]
    assert report["tried"]["trainings"] == 1 and report["tried"]["proxies"] == 2
    names = {record["target"] for record in report["attacks"]["records"]}
    assert len(names) == 3, "the protected model between both bounds"
    page = (made.folder / "report.html").read_text()
    splits = digits_splits()
    assert report["data"]["class_names"] == [*"0123456789"] and "9 9" in page
    assert (report["data"]["mean"], report["data"]["std"]) == (list(splits.mean), list(splits.std))
    assert f"mean <b>{splits.mean[0]:.6g}</b>" in page
    assert "trainings of 20 steps" in page and "trained for 4 epochs" in page and report["warnings"] == []
    assert page.count("<svg") == 4
    assert not re.search(r"""(src|href)\s*=|@import|url\(|<script""", page)
    for text in (str(made.strategy), f"{report['accuracy']['protected']:.2%}", f"{report['prediction']['total']:,.0f}"):
        assert text in page


def test_what_comes_next_is_told_with_a_sample_to_ask_about(made: Protected) -> None:
    provision, licence, run = made.next
    assert provision == "cloister provision -o device.json" and licence == made.licence
    assert run.split()[2:] == [str(made.folder / name) for name in ("pair.clb", "pair.lic", "sample.npy")]
    sample, splits = np.load(made.folder / "sample.npy"), digits_splits()
    assert sample.shape == (8, 1, 8, 8) and sample.dtype == np.float32
    chosen = splits.test.take(torch.arange(8) * len(splits.test) // 8)
    assert np.array_equal(sample, splits.normalise(chosen.pixels).numpy())
    assert made.report["sample"] == chosen.labels.tolist()
    text = made.page.read_text()
    assert all(command in text for command in made.next)


def test_too_few_validation_images_for_the_budget_are_told() -> None:
    splits = digits_splits()
    few = replace(splits, validation=splits.validation.take(range(40)))
    assert "one of the 40 validation images is 2.5 points, more than the 1 that" in coarse(Budget(accuracy=1.0), few)
    # exactly one image more or less can be told; nothing may be lost, and there is no limit
    for points in (2.5, 0.0, None):
        assert coarse(Budget(accuracy=points), few) == ""


def test_the_estimate_is_that_of_the_files_that_were_made(made: Protected) -> None:
    whole = made.folder / "training" / ("victim.onnx" if made.strategy.precision == "fp32" else "victim_int8.onnx")
    found = predict(whole, made.folder / "cpm.onnx", made.folder / "backbone.onnx").as_json()
    told = made.report["prediction"]
    # 8-bit files of the two exporters differ a little in where tensors are quantised
    assert {key: found[key] for key in ("total", "secure_memory", "bytes_in")} == pytest.approx(
        {key: told[key] for key in ("total", "secure_memory", "bytes_in")}, rel=0.01
    )


def test_what_was_done_is_not_done_again(made: Protected, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    before = made.bundle.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "mirror_model", begun)
        patch.setattr(evaluator, "bench", begun)
        again = protect(made.folder)
        assert again.strategy == made.strategy and again.report["chosen"] == made.report["chosen"]
        assert made.bundle.read_bytes() == before, "licences of the bundle would be worth nothing"
        with pytest.raises(AssertionError, match="trained again"):
            protect(made.folder, settings=replace(SETTINGS, search=SearchEffort(8, 3, 1, start=1)))


def test_a_bundle_is_compiled_anew_for_other_keys_another_name_or_another_training(
    made: Protected, tmp_path: Path
) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "digits")
    before = Bundle.load(folder / "pair.clb")
    keys = shutil.copytree(made.folder.parent / "keys", tmp_path / "keys")
    protect(folder, keys=keys)
    assert (folder / "pair.clb").read_bytes() == made.bundle.read_bytes(), "nothing has changed"
    protect(folder, name="renamed", keys=keys)
    assert Bundle.load(folder / "pair.clb").name == "renamed" and before.name == "digits"
    other = VendorKey.load_or_generate(tmp_path / "other").public
    protect(folder, name="renamed", keys=tmp_path / "other")
    Bundle.load(folder / "pair.clb").check_signature(other)
    kept = (folder / "pair.clb").read_bytes()
    for path in folder.glob("training/*/training/*/cpm.onnx"):
        path.write_bytes(made.folder.joinpath("cpm.onnx").read_bytes() + b"\x7a\x00")  # an empty metadata entry
    protect(folder, name="renamed", keys=tmp_path / "other")
    assert (folder / "pair.clb").read_bytes() != kept


def test_licences_outlive_a_run_that_misses_the_budget(made: Protected, tmp_path: Path) -> None:
    folder, keys = shutil.copytree(made.folder, tmp_path / "digits"), made.folder.parent / "keys"
    strict = Budget(memory=BUDGET.memory, overhead=BUDGET.overhead, accuracy=0.0)
    with pytest.raises(BudgetError, match="no strategy that was trained keeps the budget") as told:
        protect(folder, strict, keys=keys)
    assert f"{folder / 'pair.clb'} is of an earlier run" in told.value.remedy
    text = (folder / "report.html").read_text()
    assert "No bundle was made" in text and "pair.clb, which lies here" in text
    assert (folder / "pair.clb").read_bytes() == made.bundle.read_bytes()
    again = protect(folder, keys=keys)
    assert again.bundle.read_bytes() == made.bundle.read_bytes(), "its licences would be worth nothing"
    assert again.report["earlier_bundle"] is None and "No bundle was made" not in again.page.read_text()
    # what lies there under the bundle's name is compared, too
    again.bundle.write_bytes(b"something else")
    assert Bundle.load(protect(folder, keys=keys).bundle).name == "digits"


def before_notes(made: Protected, folder: Path) -> Path:
    """A copy of the folder as versions left it that noted in the report what the bundle was compiled of."""
    shutil.copytree(made.folder, folder)
    note = json.loads((folder / "compiled.json").read_text())
    report = json.loads((folder / "report.json").read_text())
    report["compiled"] = {key: note[key] for key in ("name", "memory", "vendor", "files")}
    del report["files"]["sample"]
    (folder / "report.json").write_text(json.dumps(report))
    for name in ("compiled.json", "sample.npy"):
        (folder / name).unlink()
    return folder


@pytest.mark.parametrize("missed", [False, True])
def test_licences_outlive_versions_that_noted_them_in_the_report(made: Protected, tmp_path: Path, missed: bool) -> None:
    folder, keys = before_notes(made, tmp_path / "digits"), made.folder.parent / "keys"
    if missed:
        with pytest.raises(BudgetError, match="no strategy that was trained keeps the budget"):
            protect(folder, Budget(memory=BUDGET.memory, overhead=BUDGET.overhead, accuracy=0.0), keys=keys)
    for _ in range(2):
        assert protect(folder, keys=keys).bundle.read_bytes() == made.bundle.read_bytes()
        assert (folder / "compiled.json").read_bytes() == (made.folder / "compiled.json").read_bytes()


def test_the_model_and_data_are_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_text("the victim")
    Path("linked").symlink_to(tmp_path)
    Path("sample.npy").mkdir()
    for model, data, output, told in (
        ("model.onnx", "no.npz", ".", "model.onnx would be overwritten"),
        (tmp_path / "model.onnx", "no.npz", "linked", "model.onnx would be overwritten"),
        ("no.onnx", Data("sample.npy"), tmp_path, "sample.npy would be overwritten"),
    ):
        with pytest.raises(CloisterError, match=told) as refused:
            cloister.protect(model, data, output, quiet=True)
        assert "-o another-folder" in refused.value.remedy
    assert Path("model.onnx").read_text() == "the victim" and len(list(tmp_path.iterdir())) == 3


def test_files_that_no_earlier_run_made_are_not_touched(made: Protected, tmp_path: Path) -> None:
    keys = made.folder.parent / "keys"
    for name in ("model.onnx", "model.clb", "pair.clb", "cpm.onnx", "backbone.onnx", "sample.npy", "report.json"):
        (folder := tmp_path / name.replace(".", " ")).mkdir()
        (folder / name).write_text("not ours")
        with pytest.raises(CloisterError, match=f"{name} would be overwritten") as refused:
            protect(folder, keys=keys)
        assert "move it away, or write elsewhere: -o another-folder" in refused.value.remedy
        assert [path.name for path in folder.iterdir()] == [name] and (folder / name).read_text() == "not ours"
    # nor where earlier runs made others
    folder = shutil.copytree(made.folder, tmp_path / "digits")
    (folder / "model.onnx").write_text("not ours")
    with pytest.raises(CloisterError, match=r"model\.onnx would be overwritten"):
        protect(folder, keys=keys)
    (folder / "model.onnx").unlink()
    (folder / "password.pwd").write_text("not ours")
    protect(folder, keys=keys)
    assert (folder / "password.pwd").read_text() == "not ours", "a pair without a lock needs no such name"


def test_files_of_an_earlier_choice_are_deleted(made: Protected, tmp_path: Path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "digits")
    note = json.loads((folder / "compiled.json").read_text())
    assert note["written"] == ["backbone.onnx", "cpm.onnx", "pair.clb", "sample.npy"]
    files = ("model.clb", "model.onnx", "password.pwd")
    (folder / "compiled.json").write_text(json.dumps({**note, "written": [*note["written"], *files]}))
    for name in files:
        (folder / name).write_text("of a run before")
    again = protect(folder, keys=made.folder.parent / "keys")
    assert again.bundle.read_bytes() == made.bundle.read_bytes()
    assert not any((folder / name).exists() for name in files)
    # licences for copies of that bundle still need its password
    assert all((folder / f"{name}.1").read_text() == "of a run before" for name in ("password.pwd", "model.clb"))


def test_a_run_that_was_interrupted_knows_its_files(
    made: Protected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, keys = tmp_path / "digits", made.folder.parent / "keys"
    shutil.copytree(made.folder / "training", folder / "training")

    def ended(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cloister.api.compile", ended)
        with pytest.raises(KeyboardInterrupt):
            protect(folder, keys=keys)
    assert (folder / "cpm.onnx").exists() and not (folder / "pair.clb").exists()
    assert Bundle.load(protect(folder, keys=keys).bundle).is_pair


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


def test_what_was_protected_can_be_attacked_again(made: Protected, tmp_path: Path) -> None:
    def attack(module: nn.Module, folder: Path) -> list[dict[str, Any]]:
        given = {"attacks": ["direct", "finetune"], "effort": TINY, "device": "cpu", "quiet": True}
        return cloister.attack(module, digits_splits(), tmp_path / "out", protected=[folder], **given).records

    records = attack(victim(), made.folder)
    found = {record["attack"]: record for record in records if record["target"] == f"digits {made.strategy.digest}"}
    before = {record["attack"]: record for record in made.report["attacks"]["records"]
              if record["target"].startswith("protected")}  # fmt: skip
    for name in ("direct", "finetune"):
        assert found[name]["accuracy"] == before[name]["accuracy"]
    other = copy.deepcopy(victim())
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    with pytest.raises(TrainingError, match="its model differs"):
        attack(other, made.folder)
    with pytest.raises(FormatError, match="no report of `cloister protect`"):
        attack(victim(), tmp_path)


def test_what_was_kept_with_files_of_another_version_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SETTINGS.digest
    monkeypatch.setattr("cloister.protect.automatic.settings.FILES", 1)
    assert SETTINGS.digest != now


def test_a_device_that_is_not_there_is_told_before_anything_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no GPU 'cuda:77'"):
        protect(tmp_path / "out", device="cuda:77")
    assert not (tmp_path / "out").exists()


def test_the_measured_overhead_is_held_against_the_budget(made: Protected) -> None:
    for overhead, mark in ((0.5, '<span class="good">50 %</span>'), (9.9, '<span class="bad">990 %</span>')):
        measured = {**made.report["prediction"], "overhead": overhead}
        assert mark in page({**made.report, "measured": measured}, "", "", "")
    # where the bundle swaps, the device takes more than what was measured with all of it resident
    resident = {**made.report["prediction"], "overhead": 0.4, "total": 0.8 * made.report["prediction"]["total"]}
    text = page({**made.report, "measured": {**resident, "overhead": 0.5}, "resident": resident}, "", "", "")
    assert (
        ">50 %</span>" not in text and "predicted, all resident" in text and "Measured was everything resident" in text
    )
    assert "+0.0%" in text and "+25.0%" not in text, "what was measured is held against the same, predicted"


def test_what_was_chosen_is_measured(made: Protected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "digits")
    monkeypatch.setattr(measure, "subprocess", canned_bench.PROCESSES)
    again = protect(folder, keys=made.folder.parent / "keys", measure=True)
    report = json.loads((folder / "report.json").read_text())
    assert report["measured"]["total"] == canned_bench.PAIR and report["resident"] is None
    assert report["measured"] == again.report["measured"] and made.report["measured"] is None
    text = again.page.read_text()
    assert '<span class="good">20 %</span>' in text and "prediction off by" in text
    off = again.report["prediction"]["total"] / canned_bench.PAIR - 1
    assert f"<td>{canned_bench.PAIR:,.0f}</td><td>{off:+.1%}</td>" in text


def test_the_unit_is_that_of_the_constants(made: Protected) -> None:
    told = {**made.report["prediction"], "unit": "nanoseconds"}
    measured = {**made.report["prediction"], "overhead": 9.9}
    text = page({**made.report, "prediction": told, "measured": measured}, "", "", "")
    assert "nanoseconds added" in text and "<th>nanoseconds, unless" in text
    assert 'class="bad">990 %' not in text, "the budget is of time"
    assert "nanoseconds added, in %" in draw_front([timed(made)], BUDGET, None, "")
    assert "instructions added, in %" in (made.folder / "front.svg").read_text()


def timed(made: Protected) -> Record:
    """The chosen strategy, predicted with constants of a board."""
    chosen = made.found.chosen
    assert chosen is not None and chosen.figures is not None
    details = {**chosen.figures.details, "prediction": {"unit": "nanoseconds"}}
    return replace(chosen, figures=replace(chosen.figures, details=details))


def test_a_budget_that_cannot_be_kept_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"nothing keeps the budget \(300 KiB") as told:
        protect(tmp_path / "refused", Budget.parse("300KiB", "1%", "1"))
    assert re.search(r"nearest takes \d+ KiB of secure memory, .* % overhead \(", told.value.message)
    assert re.search(r"allow \d+ KiB of secure memory", told.value.remedy)
    assert not list((tmp_path / "refused").rglob("checkpoint.pt"))


def test_estimates_of_another_model_are_not_taken_for_this_one_s(tmp_path: Path) -> None:
    VendorKey.load_or_generate(tmp_path / "keys")

    def begun(model: nn.Module) -> None:
        limits = {"budget_memory": "300KiB", "budget_overhead": "1%"}
        cloister.protect(model, digits_splits(), tmp_path / "out", **limits, keys=tmp_path / "keys", quiet=True)

    with pytest.raises(BudgetError, match="nothing keeps the budget"):
        begun(victim())
    other = copy.deepcopy(victim())
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    with pytest.raises(TrainingError, match="of another model"):
        begun(other)


def test_where_training_misses_the_budget_the_report_says_how_near_it_comes(tmp_path: Path) -> None:
    settings = replace(SETTINGS, full=replace(SETTINGS.full, epochs=1), search=SearchEffort(4, 1, 1, start=1))
    with pytest.raises(BudgetError, match=r"the nearest is .* points lost"):
        protect(tmp_path / "missed", Budget(accuracy=0.0), replace(settings, rate=1e-6))
    assert "exceed" in (tmp_path / "missed" / "report.html").read_text()
    assert not list((tmp_path / "missed").glob("*.clb"))


def test_a_word_for_the_budget_that_is_none_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["protect", "no_such:model", "--data", "nothing.npz", "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(command, [*arguments, "--budget-overhead", "3"])
    assert isinstance(found.exception, BudgetError) and "write 3% for" in found.exception.remedy
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    found = CliRunner().invoke(command, arguments)
    assert isinstance(found.exception, CloisterError) and "build/setup --train" in found.exception.remedy


#: The model for the command, in a module that the working directory holds.
MODULE = """
from cloister.protect.training import network

def reads_digits():
    return network("digits", 1, 10, 5)
"""


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Splits:
    """The working directory with a folder of digits as PNG files, a checkpoint and a module; what it was trained on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    splits = digits_splits()
    for part, images in (("train", splits.train), ("test", splits.test)):
        for label in range(10):
            (folder := tmp_path / "images" / part / str(label)).mkdir(parents=True)
            for number, pixels in enumerate(images.pixels[images.labels == label][:30]):
                grey = (pixels[0] * 255).round().to(torch.uint8).numpy()
                Image.fromarray(grey).save(folder / f"{number:02}.png")
    (tmp_path / "own_digits.py").write_text(MODULE)
    torch.save(victim().state_dict(), tmp_path / "trained.pt")
    VendorKey.load_or_generate(tmp_path / "keys")
    return splits


def test_the_command_ends_in_time_with_the_best_so_far(pictures: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    later = [0.0]
    real, proxy = time.monotonic, TrainingEvaluator.proxy

    def slow(self: TrainingEvaluator, strategy: Strategy) -> Figures:
        later[0] += 3600.0
        return proxy(self, strategy)

    # a short training takes an hour, so that there is no time for another, nor for a full one
    monkeypatch.setattr(generate, "time", SimpleNamespace(monotonic=lambda: real() + later[0], sleep=time.sleep))
    monkeypatch.setattr(TrainingEvaluator, "proxy", slow)
    mean, std = pictures.mean[0], pictures.std[0]
    options = (
        f"--checkpoint trained.pt --data images --mean {mean} --std {std} --validation 0.2 --budget-accuracy 60 "
        "--quick --form whole --estimates 3 --attack-steps 6 --time-limit 30m --keys keys -o out --device cpu"
    )
    done = CliRunner().invoke(command, ["protect", "own_digits:reads_digits", *options.split()], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines() if "  " in line)
    assert facts["search"] == "ended by the time limit; the same command goes on"
    assert facts["WARNING"].startswith("made with --quick")
    assert facts["next"] == "cloister provision -o device.json"
    assert facts["then"].startswith("cloister licence out/model.clb device.json ")
    assert facts["and then"] == "cloister run out/model.clb out/model.lic out/sample.npy"
    assert facts["labels"].startswith("0, 1, 2, 3, 5, 6, 7, 8: ")
    assert f"mean {mean:.3g}, by deviation {std:.3g}; 10 classes: 0, 1, 2, 3, 4, ..." in done.stderr
    assert "training the best in full" in done.stderr
    report = json.loads(Path("out/report.json").read_text())
    assert (report["tried"]["proxies"], report["tried"]["trainings"], report["tried"]["complete"]) == (1, 1, False)
    assert report["settings"]["quick"] and "Made with --quick" in Path("out/report.html").read_text()
    sample = np.load("out/sample.npy")
    images = [np.asarray(Image.open(path)) for path in sorted(Path("images/test").rglob("*.png"))]
    chosen = np.stack([images[at * len(images) // 8] for at in range(8)])[:, None]
    assert np.allclose(sample, (chosen / 255 - mean) / std, atol=1e-5) and sample.dtype == np.float32


def test_numbers_of_one_stage_bring_the_others_into_order() -> None:
    for given in ({"trainings": 1}, {"proxies": 2}, {"estimates": 5}, {"trainings": 30}, {"proxies": 900}):
        made = settings_with(**given).search  # type: ignore[arg-type]
        assert made.trainings <= made.proxies <= made.estimates
        assert all(getattr(made, key) == value for key, value in given.items())
    assert 0 < settings_with().share(1000) < 0.5
    quick = settings_with(quick=True, epochs=7)
    assert quick.full.epochs == 7 and quick.search.trainings == 1 and 0 < quick.share(1000) < 1
    few = quick.full.steps(quick.mirror(Strategy(taps=("logits",)), quick.full), 1000)
    assert few < 0.1 * settings_with().full.steps(settings_with().mirror(Strategy(taps=("logits",)), quick.full), 1000)
    with pytest.raises(CloisterError, match="no attacks guess"):
        settings_with(attacks=("finetune", "steal", "guess"))


def test_the_drawing_says_what_lies_in_which_world() -> None:
    tensors = {"image": (1, 8, 8), "2": (16, 8, 8), "6": (24, 4, 4), "logits": (10,)}
    crossing = [{"tap": "2", "shape": (8, 4, 4)}]
    for backbone, words in (("tampered", "of little use"), ("truncated", "in no file"), ("random", "never trained")):
        tail = "whole" if backbone == "tampered" else "short"
        strategy = Strategy(taps=("2",), backbone=backbone, tail=tail)  # type: ignore[arg-type]
        text = draw(tensors, crossing, strategy)
        assert words in text and "8x4x4 = 128" in text and "stage 1" in text
        # arrow and box of the tensor behind the tap
        assert text.count("stroke-dasharray") == (0 if backbone == "tampered" else 2)
    assert "nothing of the model lies here" in draw(tensors, [], Strategy(kind="whole"))

# SPDX-License-Identifier: BSD-2-Clause
"""cloister protect on the digits: what it writes, that it goes on where it was, and what it says where nothing fits."""

from __future__ import annotations

import copy
import json
import re
import shutil
import time
from dataclasses import replace
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
from protected_digits import BUDGET, SETTINGS, TINY, protect, victim
from torch import nn

import cloister
from cloister.cli.main import cloister as command
from cloister.errors import CloisterError, FormatError
from cloister.estimate.pair import predict
from cloister.protect.automatic import (
    Protected,
    TrainingEvaluator,
    evaluator,
    measure,
    settings_with,
)
from cloister.protect.automatic.drawing import draw
from cloister.protect.automatic.nearest import none_within
from cloister.protect.automatic.page import page
from cloister.protect.automatic.report import coarse, doubts, memorised
from cloister.protect.strategy import Strategy
from cloister.protect.training import Splits, TrainingError
from cloister.protect.training.errors import DeviceError
from cloister.seal import Bundle, VendorKey
from cloister.search import Budget, BudgetError, Figures, generate
from cloister.search import Effort as SearchEffort
from cloister.search.book import Record
from cloister.search.picture import draw as draw_front


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


def test_a_model_that_knows_its_validation_images_by_heart_is_told() -> None:
    splits = digits_splits()
    assert "knows by heart" in memorised(Budget(), splits, 1.0, 0.96) and "validation/CLASS" in memorised(
        Budget(), splits, 1.0, 0.96
    )
    for validation, test in ((0.985, 0.98), (0.95, 0.96), (0.80, 0.77)):  # less than a point, the wrong way, chance
        assert memorised(Budget(), splits, validation, test) == "", (validation, test)
    many = replace(
        splits, validation=splits.train.take(torch.arange(6000) % 100), test=splits.train.take(torch.arange(9000) % 100)
    )
    assert memorised(Budget(accuracy=2.0), many, 0.999, 0.991) == "", "less than a point, and than half of the budget"
    assert memorised(Budget(accuracy=0.5), many, 0.999, 0.991)
    assert doubts(Budget(accuracy=0.5), many, 0.999, 0.991) == [memorised(Budget(accuracy=0.5), many, 0.999, 0.991)]


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
    with pytest.raises(BudgetError, match=r"nothing keeps the budget \(450 KiB") as told:
        protect(tmp_path / "refused", Budget.parse("450KiB", "1%", "1"))
    assert re.search(r"nearest takes \d+ KiB of secure memory, .* % overhead \(", told.value.message)
    assert re.fullmatch(r"allow \d+ KiB of secure memory", told.value.remedy)
    with pytest.raises(BudgetError, match="the TA alone takes 448 KiB"):
        protect(tmp_path / "refused", Budget.parse("300KiB", "1%", "1"))
    assert not list((tmp_path / "refused").rglob("checkpoint.pt"))


def test_a_larger_model_is_advised_where_the_overhead_is_too_much_alone() -> None:
    found = {Strategy(taps=("image",)): Figures(overhead=0.5, memory=1 << 20, boundary=100)}
    told = none_within(found, Budget.parse("2MiB", "1%"))
    assert (
        told.remedy
        == "allow 50 % overhead, or give a larger model: costs are compared with those of the unprotected one"
    )
    assert none_within(found, Budget.parse("500KiB", "60%")).remedy == "allow 1 MiB of secure memory"


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

# SPDX-License-Identifier: BSD-2-Clause
"""cloister protect with pruning and with locks, on the digits: from the choice to the device's answers."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from digits_data import digits_splits
from protected_digits import BUDGET, SETTINGS, victim

from cloister.cli.main import cloister as command
from cloister.compile import compile_onnx
from cloister.compile.arrange import MemoryBudgetError
from cloister.device import Device
from cloister.errors import CloisterError
from cloister.estimate.pair import predict
from cloister.password import Password, lock_of
from cloister.protect.automatic import Protected, TrainingEvaluator, protect_model, pruned, settings_with, whole
from cloister.protect.automatic import evaluator as evaluator_module
from cloister.protect.automatic.bundle import make_bundle
from cloister.protect.automatic.drawing import draw
from cloister.protect.automatic.evaluator import LOCK_ATTACKS
from cloister.protect.mirror.onnx_pair import OnnxPair
from cloister.protect.strategy import Strategy
from cloister.seal.keys import VendorKey, default_key_dir
from cloister.search import Effort
from cloister.search.strategies import strategy_space

#: The first strategy that is tried is the one that is taken.
ONE = replace(SETTINGS, search=Effort(estimates=4, proxies=1, trainings=1, start=1))
#: Images that the device answers: half a minute of the emulator's time at most.
IMAGES = 100
Logits = np.ndarray[Any, Any]


def protect(folder: Path, *forms: str, name: str = "digits") -> Protected:
    """With the user's own key, which is the one that the device's TA knows."""
    VendorKey.load_or_generate(default_key_dir())
    settings = replace(ONE, forms=forms)
    return protect_model(
        victim(), digits_splits(), BUDGET, folder, settings=settings, name=name, device="cpu", quiet=True
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Protected:
    """A pair made from a pruned victim."""
    return protect(tmp_path_factory.mktemp("pruned") / "digits", "pruned", "truncated")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Protected:
    """The whole model, locked."""
    return protect(tmp_path_factory.mktemp("locked") / "digits", "locked", "whole")


@pytest.fixture(scope="module")
def locked_pair(tmp_path_factory: pytest.TempPathFactory) -> Protected:
    """All three methods at once: a pair made from a pruned victim, whose CPM is locked."""
    return protect(tmp_path_factory.mktemp("locked_pair") / "digits", "pruned", "locked", "truncated")


def test_a_pruned_victim_is_held_against_the_original(pair: Protected) -> None:
    assert (pair.strategy.kind, pair.strategy.backbone, pair.strategy.pruned) == ("mirror", "truncated", 0.5)
    report = json.loads((pair.folder / "report.json").read_text())
    assert 0.4 < report["pruned_left"] <= 0.5 * pruned.TOLERANCE
    training = pair.folder / "training"
    told = report["prediction"]
    found = predict(training / "victim_int8.onnx", pair.folder / "cpm.onnx", pair.folder / "backbone.onnx").as_json()
    # what was estimated with a sketch is told of the network that was pruned in the end
    for key in ("unprotected", "normal_world", "secure_memory"):
        assert found[key] == pytest.approx(told[key], rel=0.001), key
    # of the CPM's merges the two exporters quantise more or fewer tensors
    assert found["total"] == pytest.approx(told["total"], rel=0.04)
    details = report["chosen"]["figures"]["details"]
    right = report["chosen"]["figures"]["accuracy"]
    assert report["chosen"]["figures"]["lost"] == pytest.approx(100 * (details["victim_validation"] - right))
    assert report["accuracy"]["victim"] > 0.95 and report["accuracy"]["protected"] > 0.8
    assert report["network"]["tensors"]["5"][0] < 24, "the drawing has the pruned network's widths"
    page = (pair.folder / "report.html").read_text()
    assert "was pruned first" in page and "pruned to 50.0% first" in page
    assert pair.password is None and "--password" not in pair.licence


def test_a_locked_model_comes_with_its_password(locked: Protected) -> None:
    assert locked.strategy.kind == "whole" and locked.strategy.lock is not None
    assert locked.bundle.name == "model.clb" and locked.password == locked.folder / "password.pwd"
    assert locked.password.stat().st_mode & 0o077 == 0 and Password.read(locked.password).model == "digits"
    assert f"--password {locked.password}" in locked.licence
    assert lock_of(onnx.load(locked.folder / "model.onnx")) == Password.read(locked.password).lock_id != ""
    right = locked.report["accuracy"]
    assert right["protected"] > 0.9 > 0.3 > right["without_password"]
    tried = {record["attack"] for record in locked.report["attacks"]["records"] if "protected" in record["target"]}
    assert set(LOCK_ATTACKS) <= tried, "a lock is attacked as one"
    page = (locked.folder / "report.html").read_text()
    assert "all locked weights in clear" in page and locked.licence in page


def test_another_password_is_kept_with_its_bundle(locked: Protected, tmp_path: Path) -> None:
    folder = shutil.copytree(locked.folder, tmp_path / "digits")
    names = ("password.pwd", "model.clb", "model.onnx")
    before = [(folder / name).read_bytes() for name in names]
    protect(folder, "locked", "whole")
    assert not list(folder.glob("*.1")), "it is the same one"
    protect(folder, "locked", "whole", name="renamed")
    assert [(folder / f"{name}.1").read_bytes() for name in names] == before
    assert Password.read(folder / "password.pwd").model == "renamed"
    # somebody else's is kept by itself
    (folder / "password.pwd").write_text("not ours")
    note = json.loads((folder / "compiled.json").read_text())
    note["written"].remove("password.pwd")
    (folder / "compiled.json").write_text(json.dumps(note))
    report = json.loads((folder / "report.json").read_text())
    del report["files"]["password"]
    (folder / "report.json").write_text(json.dumps(report))
    protect(folder, "locked", "whole", name="renamed")
    assert (folder / "password.pwd.2").read_text() == "not ours" and not (folder / "model.clb.2").exists()


def test_a_licence_that_exceeds_the_memory_is_told(locked: Protected, tmp_path: Path) -> None:
    """Estimates know of no licence; with a password it stays in secure memory."""
    (place,) = (path for path in locked.folder.rglob(locked.strategy.digest) if path.parent.name == "training")

    def fits(pages: int) -> bool:
        try:
            compile_onnx(place / "model.onnx", secure_memory=pages * 4096)
        except MemoryBudgetError:
            return False
        return True

    least = bisect_left(range(1 << 10), True, key=fits)
    budget, vendor = replace(BUDGET, memory=least * 4096), VendorKey.load(default_key_dir()).public
    said: list[str] = []
    (folder := tmp_path / "digits").mkdir()
    for _ in range(2):
        _, about = make_bundle(
            folder, place, locked.strategy, budget, "digits", None, vendor, digits_splits(), said.append
        )
        (warning,) = about["warnings"]
        assert re.search(rf"needs (4096|8192) bytes .* beyond the budget of {least * 4096}: for the licence", warning)
        assert len(said) == 1, "compiled once"
    roomy = replace(BUDGET, memory=(least + 2) * 4096)
    assert "warnings" not in make_bundle(
        folder, place, locked.strategy, roomy, "digits", None, vendor, digits_splits(), said.append
    )[1]  # fmt: skip


def test_a_locked_pair_comes_with_its_password(locked_pair: Protected) -> None:
    made = locked_pair
    assert (made.strategy.kind, made.strategy.backbone, made.strategy.pruned) == ("mirror", "truncated", 0.5)
    assert made.strategy.lock is not None and made.strategy.precision == "int8"
    assert made.bundle.name == "pair.clb" and f"--password {made.password}" in made.licence
    assert made.password is not None
    assert lock_of(onnx.load(made.folder / "cpm.onnx")) == Password.read(made.password).lock_id != ""
    right = made.report["accuracy"]
    assert right["protected"] > 0.75 > 0.3 > right["without_password"]
    tried = {record["attack"] for record in made.report["attacks"]["records"] if "protected" in record["target"]}
    assert set(LOCK_ATTACKS) <= tried
    assert made.report["chosen"]["figures"]["details"]["direct_test"] < 0.3
    targets = {record["target"] for record in made.report["attacks"]["records"]}
    assert any(target.endswith(", its backbone") for target in targets), "an attacker may leave the locked CPM alone"
    page = (made.folder / "report.html").read_text()
    assert "was pruned first" in page and "all locked weights in clear" in page and "password alone" in page


def test_what_was_pruned_or_locked_is_not_made_again(
    pair: Protected, locked: Protected, locked_pair: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(pruned, "prune_model", begun)
    monkeypatch.setattr(whole, "lock_folded", begun)
    monkeypatch.setattr(evaluator_module, "lock_pair", begun)
    told = (
        (pair, ("pruned", "truncated")), (locked, ("locked", "whole")),
        (locked_pair, ("pruned", "locked", "truncated")),
    )  # fmt: skip
    for made, forms in told:
        before = made.bundle.read_bytes()
        again = protect(made.folder, *forms)
        assert again.strategy == made.strategy and made.bundle.read_bytes() == before


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TrainingEvaluator:
    folder = tmp_path_factory.mktemp("estimates")
    settings = replace(SETTINGS, forms=())
    return TrainingEvaluator(victim(), digits_splits(), settings, folder, device="cpu", quiet=True)


def test_everything_is_considered_unless_it_is_narrowed(evaluator: TrainingEvaluator) -> None:
    choices = evaluator.space.choices
    assert choices["pruned"] == (None, 0.5, 0.25, 0.125) and len(choices["lock"]) == 4
    point = {**evaluator.space.anchors[0], "lock": "turned half", "pruned": 0.25}
    whole_one = evaluator.space.build({**point, "form": "whole"})
    assert whole_one.lock == (0.5, 0.0) and whole_one.pruned == 0.25
    one_pair = evaluator.space.build({**point, "form": "random"})
    assert one_pair.lock is None and one_pair.pruned == 0.25, "pairs are locked only where locks are asked for"


def test_where_locks_are_asked_for_pairs_are_locked(tmp_path: Path) -> None:
    settings = replace(SETTINGS, forms=("locked",))
    space = TrainingEvaluator(victim(), digits_splits(), settings, tmp_path, device="cpu", quiet=True).space
    made = [space.build(point) for point in space.anchors]
    assert {strategy.kind for strategy in made} == {"whole", "mirror"} and all(one.lock for one in made)


def test_pruning_costs_less_than_nothing_where_much_is_gone(evaluator: TrainingEvaluator) -> None:
    plain, half, least = (
        evaluator.estimate(Strategy(kind="whole", precision="fp32", pruned=share)) for share in (None, 0.5, 0.125)
    )
    assert plain.overhead > half.overhead > least.overhead and least.overhead < 0
    assert plain.error < half.error + least.error, "a sketch is not what will be pruned"
    assert plain.details["prediction"]["unprotected"] == least.details["prediction"]["unprotected"]
    locked_one = evaluator.estimate(Strategy(kind="whole", precision="fp32", lock=(0.5, 0.0)))
    assert locked_one.overhead == plain.overhead, "a lock adds no operator"
    one_pair = Strategy(taps=("2",), precision="fp32")
    assert evaluator.estimate(replace(one_pair, lock=(0.5, 0.0))) == evaluator.estimate(one_pair)


def test_a_share_that_cannot_be_had_is_told(evaluator: TrainingEvaluator) -> None:
    with pytest.raises(CloisterError, match=r"pruning can leave \d+% of this model, not 1.0%"):
        evaluator.estimate(Strategy(kind="whole", pruned=0.01))


def test_forms_that_cannot_be_are_refused() -> None:
    with pytest.raises(CloisterError, match="no form shrunk"):
        settings_with(forms=("shrunk",))
    space = strategy_space(("image", "1", "logits"), pruned=(0.25,), lock=("turned half",), lockable=("whole",))
    assert all(point["pruned"] == 0.25 for point in space.anchors) and space.anchors
    assert {space.build(point).lock for point in space.anchors} == {None, (0.5, 0.0)}


def test_the_drawing_tells_of_pruning_and_locks() -> None:
    tensors = {"image": (1, 8, 8), "2": (8, 8, 8), "logits": (10,)}
    text = draw(tensors, [], Strategy(kind="whole", pruned=0.25, lock=(0.5, 0.0)))
    assert "pruned to 25.0% first" in text and "password alone" in text
    assert "password" not in draw(tensors, [], Strategy(kind="whole"))


@pytest.fixture
def answers(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Logits of the test images from ``cloister run``, with the licence that a command issues."""

    @contextmanager
    def connected(*_: object, **__: object) -> Iterator[Device]:
        yield device  # the tests' own, which stays

    monkeypatch.setattr("cloister.device.connect", connected)
    device.record().save(tmp_path / "device.json")
    splits = digits_splits()
    np.save(tmp_path / "images.npy", splits.normalise(splits.test.pixels[:IMAGES]).numpy())

    def ask(made: Protected, licence: str) -> Logits:
        words = shlex.split(licence.replace("device.json", str(tmp_path / "device.json")))[1:]
        target = made.bundle.with_suffix(".lic")
        run = ["run", made.bundle, target, tmp_path / "images.npy", "--output", "full", "--save", tmp_path / "out.npz"]
        for arguments in ([*words, "--output", "full"], run):
            done = CliRunner().invoke(command, [str(word) for word in arguments], catch_exceptions=False)
            assert done.exit_code == 0, done.output
        saved: Logits = np.load(tmp_path / "out.npz")["logits"].reshape(-1, 10)
        return saved

    return ask


def images() -> Logits:
    splits = digits_splits()
    found: Logits = splits.normalise(splits.test.pixels[:IMAGES]).numpy()
    return found


def right(logits: Logits) -> float:
    return float(np.mean(logits.argmax(1) == digits_splits().test.labels[:IMAGES].numpy()))


def near(got: Logits, wanted: Logits) -> None:
    """8-bit answers differ by a few steps; the label seldom does."""
    assert np.abs(got - wanted).max() < 0.1 * np.ptp(wanted)
    assert np.mean(got.argmax(1) == wanted.argmax(1)) > 0.95


def test_the_device_answers_as_the_files_of_the_pruned_pair(pair: Protected, answers: Any) -> None:
    files = OnnxPair(pair.folder / "backbone.onnx", pair.folder / "cpm.onnx")
    got = answers(pair, pair.licence)
    near(got, files.logits(images()))
    assert right(got) > 0.8


def test_the_device_needs_the_password_of_the_locked_model(locked: Protected, answers: Any) -> None:
    assert locked.password is not None
    session = onnxruntime.InferenceSession(str(locked.folder / "model.onnx"), providers=["CPUExecutionProvider"])
    without = answers(locked, locked.licence.replace(f"--password {locked.password} ", ""))
    near(without, session.run(None, {"image": images()})[0])
    assert right(without) < 0.3
    # 8-bit files take no password, but the float32 one that this was made from does
    plain = next(locked.folder.glob("training/*/training/*/float32.onnx"))
    owners = Password.read(locked.password).apply(onnx.load(plain)).SerializeToString()
    session = onnxruntime.InferenceSession(owners, providers=["CPUExecutionProvider"])
    with_password = answers(locked, locked.licence)
    near(with_password, session.run(None, {"image": images()})[0])
    assert right(with_password) > 0.9


def test_the_device_needs_the_password_of_the_locked_pair(locked_pair: Protected, answers: Any) -> None:
    assert locked_pair.password is not None
    files = OnnxPair(locked_pair.folder / "backbone.onnx", locked_pair.folder / "cpm.onnx")
    without = answers(locked_pair, locked_pair.licence.replace(f"--password {locked_pair.password} ", ""))
    near(without, files.logits(images()))
    assert right(without) < 0.3
    assert right(answers(locked_pair, locked_pair.licence)) > 0.8

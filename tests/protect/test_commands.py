# SPDX-License-Identifier: BSD-2-Clause
"""cloister prune, edgepro and attack, as commands and as functions: what they make, and say to wrong input."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import cloister
from cloister.attack import Effort
from cloister.attack.files import short_names
from cloister.cli.main import cloister as command
from cloister.demo.data import digits
from cloister.errors import CloisterError
from cloister.password import Password
from cloister.protect.edgepro import LockSettings
from cloister.protect.prune import PruneSettings
from cloister.protect.training import Recipe, TrainingError, accuracy, export_onnx, fit, labels_of, load_data

#: Factories for the commands, in a module that the working directory holds.
MODELS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))

def other():
    return nn.Sequential(net(), nn.Identity())

def soft():
    return nn.Sequential(net(), nn.Softmax(1))

def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 7))

def coloured():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10))

def one_layer():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else -self.net(x)

def broken():
    raise ValueError("no weights here")

def nothing():
    return None

def empty():
    return []

class Deaf:
    name = "deaf"

    def module(self):
        return None

    def query(self, pixels):
        raise OSError("no device")

class Guarded:
    name = "guarded"

    def module(self):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def query(self, pixels):
        return torch.full((len(pixels),), 3)
"""
QUICK = {
    "edgepro": ["--epochs", "1"],
    "prune": ["--epochs", "1", "--steps", "1", "--final", "0", "--no-int8"],
    "attack": ["--steps", "2", "--rates", "0.05", "--attacks", "direct"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, right and wrong, and models."""
    place = tmp_path_factory.mktemp("commands")
    x, y, x_test, y_test = digits()
    good = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test, "mean": [0.0], "std": [1.0]}
    np.savez(place / "data.npz", **good)
    for name, changed in (
        ("keys", None), ("half", {"x_train": x, "y_train": y}), ("labels", {**good, "y_train": y[:5]}),
        ("nan", {**good, "x_train": x * np.nan}), ("mean", {**good, "mean": ["grey"]}),
        ("objects", {**good, "x_train": np.array([{}], dtype=object)}),
        ("one", {**good, "y_train": 0 * y, "y_test": 0 * y_test}),
        ("gaps", {**good, "y_train": y + 5, "y_test": y_test + 5}),
    ):  # fmt: skip
        np.savez(place / f"{name}.npz", **({"pictures": x} if changed is None else changed))
    (place / "text.npz").write_text("hello")
    (place / "text.onnx").write_text("hello")
    (place / "text.pwd").write_text("hello")
    (place / "text.pt").write_text("hello")
    (place / "folder").mkdir()
    (place / "wrong_models.py").write_text(MODELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        module = importlib.import_module("wrong_models")
        trained = fit(module.net(), load_data("data.npz"), Recipe(4, 64, 0.05), device="cpu", quiet=True).module
        torch.save(trained.state_dict(), place / "net.pt")
        torch.save(module.seven().state_dict(), place / "seven.pt")
        for name, shape in (("net", (1, 8, 8)), ("seven", (1, 8, 8)), ("coloured", (3, 8, 8))):
            export_onnx(getattr(module, name)(), shape, place / f"{name}.onnx")
    return place


@pytest.fixture
def place(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as working directory."""
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(str(files))
    return files


def test_commands_that_follow_a_lock_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    rights = {"unlocked": 1.0, "with_password": 1.0, "without_password": 0.1}
    report = {"test": rights, "validation": rights, "layers": [], "training_s": 1.0, "epoch": 1,
              "advice": "9.0 points are lost"}  # fmt: skip
    monkeypatch.setattr("cloister.protect.api.edgepro", lambda *_, **__: SimpleNamespace(report=report))
    given = ["edgepro", "my:net", "--data", "data.npz", "-o", "my locks"]
    done = CliRunner().invoke(command, given, catch_exceptions=False)
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines() if "  " in line)
    assert facts["WARNING"] == "9.0 points are lost"
    secret = ["--password", "my locks/password.pwd"]
    assert shlex.split(facts["next"])[2:5] == ["my locks/locked.onnx", *secret]
    assert shlex.split(facts["then"])[4:6] == secret


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", list(QUICK))
def test_nothing_is_written_among_the_data(name: str, tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    for part in ("train", "test"):
        for label in ("one", "two"):
            (place / part / label).mkdir(parents=True)
            for number in range(12):
                Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(place / part / label / f"{number}.png")
    before = sorted(tmp_path.rglob("*"))
    for output in (place / ".", place / "train" / "new"):
        said = refusal(name, "wrong_models:net", "--data", str(place), "-o", str(output))
        assert "among the images of" in said or "answers (2, 10)" in said, said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "options", "kept"),
    [
        ("edgepro", ["--precision", "bfloat16", "--without-uniform", "0.5"], {"without_uniform": 0.5}),
        ("prune", ["--precision", "bfloat16"], {}),
    ],
)
@pytest.mark.usefixtures("place")
def test_how_it_is_trained_is_in_the_report(
    name: str, options: list[str], kept: dict[str, float], tmp_path: Path
) -> None:
    given = [name, "wrong_models:net", "--checkpoint", "net.pt", "--data", "data.npz", "--device", "cpu", *QUICK[name]]
    CliRunner().invoke(command, [*given, *options, "-o", str(tmp_path)], catch_exceptions=False)
    settings = json.loads((tmp_path / "report.json").read_text())["settings"]
    assert settings["recipe"]["precision"] == "bfloat16" and settings["recipe"]["epochs"] == 1
    assert {key: settings[key] for key in kept} == kept


@pytest.mark.usefixtures("place")
def test_what_is_read_is_never_overwritten(tmp_path: Path) -> None:
    for name, written in (("edgepro", "locked.onnx"), ("prune", "pruned.onnx"), ("prune", "pruned_int8.onnx")):
        model = tmp_path / written
        model.write_bytes(Path("net.onnx").read_bytes())
        said = refusal(name, str(model), "--data", "data.npz", "-o", str(tmp_path))
        assert f"{written} would be overwritten" in said
        assert model.read_bytes() == Path("net.onnx").read_bytes()
    (tmp_path / "pruned.pt").write_bytes(Path("net.pt").read_bytes())
    given = ["wrong_models:net", "--checkpoint", str(tmp_path / "pruned.pt"), "--data", "data.npz", "-o", str(tmp_path)]
    assert "pruned.pt would be overwritten" in refusal("prune", *given)
    (tmp_path / "out").mkdir()
    given = ["wrong_models:net", "--checkpoint", "net.pt", "--data", "data.npz", "--protected", str(tmp_path / "out")]
    assert "has the attacks that `cloister protect` tried" in refusal("attack", *given, "-o", str(tmp_path / "out"))


def refusal(name: str, *arguments: str) -> str:
    """What the command says: message and remedy."""
    given = [name, *QUICK[name], "--device", "cpu", *arguments]
    result = CliRunner().invoke(command, given if "-o" in arguments else [*given, "-o", "never"])
    if isinstance(result.exception, SystemExit) and result.exit_code == 2:
        return result.output
    assert isinstance(result.exception, CloisterError), (result.exception, result.output)
    assert result.exception.remedy, result.exception
    return str(result.exception)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", list(QUICK))
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere:net"], "module nowhere cannot be imported"),
        (["wrong_models.py:net"], "write wrong_models:net"),
        (["wrong_models"], "such as my_models:network"),
        (["wrong_models:nobody"], "has no 'nobody'"),
        (["wrong_models:broken"], "failed: ValueError: no weights here"),
        (["wrong_models:nothing"], "returned NoneType"),
        (["wrong_models:seven"], r"answers (2, 7) to 2 images; data has 10 classes"),
        (["wrong_models:coloured"], "cannot be run on images (1, 8, 8) of data"),
        (["coloured.onnx"], "cannot be run on images (1, 8, 8) of data"),
        (["missing.onnx"], "missing.onnx is no ONNX model"),
        (["text.onnx"], "text.onnx is no ONNX model"),
        (["model.h5"], "model.h5 is no package.module:factory and no .onnx file"),
        (["wrong_models:net", "--checkpoint", "missing.pt"], "missing.pt cannot be loaded"),
        (["wrong_models:net", "--checkpoint", "text.pt"], "text.pt cannot be loaded"),
        (["wrong_models:net", "--checkpoint", "seven.pt"], "seven.pt does not fit the model"),
        (["net.onnx", "--checkpoint", "net.pt"], "net.onnx brings its own weights"),
    ],
)
def test_a_wrong_model_is_named(name: str, arguments: list[str], says: str) -> None:
    assert says in refusal(name, *arguments, "--data", "data.npz")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("missing.npz", "there is no missing.npz"),
        ("keys.npz", "keys.npz has no train and no test images; its keys are ['pictures']"),
        ("half.npz", "half.npz has no test images"),
        ("labels.npz", "labels.npz[x_train]: labels have the shape (5,) for 1347 images"),
        ("nan.npz", "nan.npz[x_train]: 1347 of 1347 images hold NaN or infinity, the first at index 0"),
        ("mean.npz", "mean.npz cannot be read: could not convert string to float"),
        ("objects.npz", "objects.npz cannot be read"),
        ("one.npz", "one: all images are of one class"),
        ("gaps.npz", "gaps: no training images are left of 5 of 15 classes: 0, 1, 2, 3, 4"),
        ("text.npz", "text.npz cannot be read"),
        ("folder", "folder has no folder 'train'"),
        ("wrong_models:empty", "what wrong_models:empty returned holds a data set without images"),
        ("wrong_models:broken", "failed: ValueError: no weights here"),
        ("wrong_models:nothing", "what wrong_models:nothing returned is NoneType, no data set"),
    ],
)
def test_wrong_data_are_named(data: str, says: str) -> None:
    assert says in refusal("edgepro", "wrong_models:net", "--data", data)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("edgepro", ["--criterion", "foo"], "'foo' is not one of 'mean', 'variance'"),
        ("edgepro", ["--layer", "nowhere"], "layers cannot be locked: 'nowhere' is not there"),
        ("edgepro", ["--constant", "0", "--turned", "0"], "shares of locked channels are 0.0 and 0.0"),
        ("edgepro", ["--device", "gpu"], "'gpu' is no device"),
        ("edgepro", ["--device", "cuda:99"], "there is no GPU 'cuda:99' here"),
        ("edgepro", ["--validation", "0"], "0.0 is not in the range 0<x<1"),
        ("edgepro", ["--mean", "grey", "--std", "1"], "'grey': write a number for each channel"),
        ("edgepro", ["--mean", "0.5"], "data: mean and std are (0.5,), (), the images have 1 channels"),
        ("edgepro", ["--mean", "0,0,0", "--std", "1,1,1"], "the images have 1 channels"),
        ("edgepro", ["--size", "8"], "data.npz: only a folder's images are resized"),
        ("edgepro", ["--rate", "-1"], "-1.0 is not in the range x>0"),
        ("edgepro", ["-o", "net.pt"], "net.pt cannot be made"),
        ("edgepro", ["-o", "data.npz"], "data.npz cannot be made"),
        ("prune", ["--criterion", "foo"], "'foo' is not one of 'taylor', 'l1'"),
        ("prune", ["--criterion", "bn"], "the criterion 'bn' applies to no layer"),
        ("prune", ["--target", "1"], "1.0 is not in the range 0<x<1"),
        ("prune", ["--budget-accuracy", "nan"], "an accuracy budget of nan points"),
        ("attack", ["--attacks", "teleport"], "there are no attacks ['teleport']"),
        ("attack", ["--attacks", ","], "no attack is named"),
        ("attack", ["--attacks", "observe"], "there are no authorised runs to observe"),
        ("attack", ["--rates", "fast"], "rates are 'fast'"),
        ("attack", ["--rates", "nan"], "a learning rate is missing or not above 0"),
        ("attack", ["--locked", "net.onnx"], "belong together"),
        ("attack", ["--locked", "net.onnx", "--password", "missing.pwd"], "missing.pwd cannot be read"),
        ("attack", ["--locked", "net.onnx", "--password", "text.pwd"], "text.pwd is no password file"),
        ("attack", ["--seen", "all"], "only runs of a locked model can be seen"),
        ("attack", ["--pruned", "seven.onnx"], "seven.onnx answers (2, 7)"),
        ("attack", ["--pruned", "coloured.onnx"], "coloured.onnx cannot be run on images (1, 8, 8)"),
        ("attack", ["--pruned", "net.onnx", "--pruned", "net.onnx"], "several targets are named pruned net"),
        ("attack", ["--target", "nobody"], "'nobody' is no package.module:factory"),
        ("attack", ["--target", "wrong_models:net"], "has no name, module, query"),
        ("attack", ["--target", "wrong_models:Deaf"], "query of 'deaf' failed: no device"),
    ],
)
def test_a_wrong_setting_is_named(name: str, arguments: list[str], says: str) -> None:
    model = ["wrong_models:net", "--checkpoint", "net.pt", "--data", "data.npz"]
    if "nowhere" in arguments:
        model = ["wrong_models:net", "--data", "data.npz"]
    assert says in refusal(name, *model, *arguments)


@pytest.mark.usefixtures("place")
def test_a_folder_of_larger_images_is_resized_and_normalised_as_the_model_was_trained() -> None:
    x, y, x_test, y_test = digits()
    for part, images, labels in (("train", x, y), ("test", x_test, y_test)):
        for number, (image, label) in enumerate(zip(images[:200], labels[:200], strict=True)):
            path = Path("pictures", part, str(label), f"{number:03}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image[0] * 255).astype(np.uint8).repeat(2, 0).repeat(2, 1)).save(path)
    given = ["wrong_models:net", "--checkpoint", "net.pt", "--data", "pictures"]
    assert "cannot be run on images (1, 16, 16) of pictures" in refusal("attack", *given)
    said = refusal("attack", *given, "--size", "8", "--mean", "9", "--std", "0.1")
    assert "about what guessing gets" in said and "with mean 9 and std 0.1; give others by --mean and --std" in said
    arguments = ["attack", *given, *QUICK["attack"], "--device", "cpu", "-o", "resized", "--size", "8"]
    result = CliRunner().invoke(command, [*arguments, "--mean", "0", "--std", "1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(Path("resized", "attacks.json").read_text())
    found = next(line for line in report["records"] if line["attack"] == "direct" and "white" in line["target"])
    assert found["accuracy"] > 0.75


@pytest.mark.usefixtures("place")
def test_models_that_cannot_be_protected_are_refused_before_training() -> None:
    for name, says in (("edgepro", "cannot be traced"), ("prune", "cannot be exported")):
        assert says in refusal(name, "wrong_models:Branches", "--data", "data.npz")
    assert "no layer that can be locked" in refusal("edgepro", "wrong_models:one_layer", "--data", "data.npz")
    for name in ("edgepro", "prune", "attack"):  # the checkpoint was forgotten
        said = refusal(name, "wrong_models:net", "--data", "data.npz")
        assert "about what guessing gets" in said and "--checkpoint" in said


@pytest.mark.usefixtures("place")
def test_a_model_that_ends_in_a_softmax_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    quick = LockSettings(recipe=Recipe(1, 64, 0.02, clip=5.0))
    for name, quiet, warned in (("net", False, False), ("soft", False, True), ("soft", True, False)):
        state = torch.load("net.pt")
        torch.save({f"0.{key}": value for key, value in state.items()} if name == "soft" else state, "of.pt")
        cloister.edgepro(
            f"wrong_models:{name}", "data.npz", f"warned {name} {quiet}", checkpoint="of.pt", settings=quick,
            device="cpu", quiet=quiet,
        )  # fmt: skip
        told = capsys.readouterr().err
        assert ("warning: wrong_models:soft ends in probabilities" in told) == warned


def test_a_folder_of_another_run_is_refused(place: Path) -> None:
    settings = LockSettings(recipe=Recipe(1, 64, 0.02, clip=5.0))
    run: Callable[..., object] = cloister.edgepro
    common = {"checkpoint": "net.pt", "device": "cpu", "quiet": True}
    run("wrong_models:net", "data.npz", "mine", settings=settings, **common)
    for changed, says in (
        ({"model": "wrong_models:net", "checkpoint": None}, "mine/training holds checkpoints of another model"),
        ({"seed": 1}, "mine/training holds checkpoints of other data or another seed"),
        ({"data": load_data("data.npz", mean=[0.5], std=[1.0])}, "of images that were normalised otherwise"),
        ({"settings": LockSettings(recipe=Recipe(2, 64, 0.02, clip=5.0))}, "epochs 1 there, 2 here"),
        ({"settings": LockSettings(constant_share=0.1, recipe=settings.recipe)}, "constant_share 0.0 there, 0.1 here"),
        ({"settings": LockSettings(draw="top", recipe=settings.recipe)}, "draw roulette there, top here"),
    ):
        given = {"model": "wrong_models:net", "data": "data.npz", "output": "mine", "settings": settings}
        with pytest.raises(TrainingError, match=says):
            run(**{**given, **common, **changed})
    with pytest.raises(TrainingError, match="holds checkpoints of `cloister edgepro`"):
        cloister.prune("wrong_models:net", "data.npz", "mine", checkpoint="net.pt", device="cpu", quiet=True)
    for criterion in ("bn", "l2"):  # what was refused at once is no other run
        quick = PruneSettings(steps=1, final=0, criterion=criterion, recipe=Recipe(1, 64, 0.02))  # type: ignore[arg-type]
        given = {"settings": quick, "int8": False, **common}
        refused = pytest.raises(TrainingError, match="applies to no layer") if criterion == "bn" else nullcontext()
        with refused:
            cloister.prune("wrong_models:net", "data.npz", "smaller", **given)
    of = json.loads((place / "mine" / "training" / "of.json").read_text())
    del of["normalisation"]  # versions before did not note it
    (place / "mine" / "training" / "of.json").write_text(json.dumps(of))
    run("wrong_models:net", "data.npz", "mine", settings=settings, **common)
    (place / "mine" / "training" / "of.json").write_text("{")
    with pytest.raises(TrainingError, match=r"of\.json is damaged"):
        run("wrong_models:net", "data.npz", "mine", settings=settings, **common)


def test_from_python_a_model_is_pruned_locked_and_attacked(place: Path) -> None:
    splits = load_data("data.npz")
    prune = PruneSettings(steps=1, target=0.6, final=1, budget=3.0, images=300, recipe=Recipe(1, 64, 0.02, clip=5.0))
    pruned = cloister.prune(
        "wrong_models:net", splits, "pruned", checkpoint="net.pt", settings=prune, int8=False, device="cpu", quiet=True
    )
    assert pruned.report["rows"][0]["step"] == "unpruned" and (place / "pruned" / "report.svg").exists()
    locked = cloister.edgepro(
        Path("pruned/pruned.onnx"), "data.npz", "locked", name="digits", device="cpu", quiet=True,
        settings=LockSettings(recipe=Recipe(4, 64, 0.03, clip=5.0)),
    )  # fmt: skip
    password = Password.read(place / "locked" / "password.pwd")
    assert password.model == "digits" and locked.report["test"]["without_password"] < 0.4
    report = cloister.attack(
        pruned.module, splits, "attacks", locked="locked/locked.onnx", password=password, seen=["all"],
        pruned=["pruned/pruned.onnx"], attacks=["direct", "observe"], effort=Effort(steps=2), device="cpu", quiet=True,
    )  # fmt: skip
    own = accuracy(pruned.module, splits.test, splits)
    assert report.find("pruned pruned", "direct")["accuracy"] == pytest.approx(own, abs=0.01)
    assert report.find("locked locked, runs seen", "direct")["accuracy"] < 0.4
    opened = report.find("locked locked, runs seen", "observe")
    assert opened["accuracy"] == pytest.approx(locked.report["test"]["with_password"], abs=0.01)
    assert json.loads((place / "attacks" / "attacks.json").read_text())["records"] == report.records
    with pytest.raises(CloisterError, match="belong together"):
        cloister.attack(nn.Identity(), splits, "attacks", locked="locked/locked.onnx")


def attacked(output: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """The records of direct use by their targets, as the command writes them."""
    model = ["wrong_models:net", "--checkpoint", "net.pt", "--data", "data.npz", "--device", "cpu", "-o", output]
    result = CliRunner().invoke(command, ["attack", *QUICK["attack"], *model, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    records = json.loads(Path(output, "attacks.json").read_text())["records"]
    return {record["target"]: record for record in records if record["attack"] == "direct"}


@pytest.mark.usefixtures("place")
def test_an_own_protection_is_attacked_by_the_name_of_its_factory() -> None:
    found = attacked("own", "--target", "wrong_models:Guarded")
    assert list(found) == ["white box (unprotected)", "guarded", "black box (queries only)"]
    module, splits = importlib.import_module("wrong_models").Guarded().module(), load_data("data.npz")
    labels = labels_of(module, splits.test, splits)
    assert found["guarded"]["accuracy"] == pytest.approx(float((labels == splits.test.labels).float().mean()))
    assert found["guarded"]["fidelity"] == pytest.approx(float((labels == 3).float().mean())), "what query answers"


def test_pruned_files_of_one_name_are_told_apart_by_their_folders(place: Path) -> None:
    for folder in ("first", "second/deep", "third/deep"):
        (place / folder).mkdir(parents=True)
        shutil.copyfile(place / "net.onnx", place / folder / "net.onnx")
    found = attacked("several", "--pruned", "first/net.onnx", "--pruned", str(place / "second/deep/net.onnx"))
    assert [name for name in found if name.startswith("pruned")] == ["pruned first/net", "pruned deep/net"]
    files = [Path("net.onnx"), *(Path(folder, "net.onnx") for folder in ("second/deep", "third/deep")), Path("a.onnx")]
    assert short_names(files) == ["net", "second/deep/net", "third/deep/net", "a"]
    assert short_names(files[-1:] * 2) == ["a", "a"], "one file twice is refused by its name"


def test_without_torch_commands_and_functions_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    for name, function in (("edgepro", cloister.edgepro), ("prune", cloister.prune), ("attack", cloister.attack)):
        with pytest.raises(CloisterError, match="build/setup --train"):
            function("model.onnx", "data.npz", "out")
        assert "build/setup --train" in refusal(name, "model.onnx", "--data", "data.npz")

# SPDX-License-Identifier: BSD-2-Clause
"""cloister protect's output folder: bundles whose licences live on, and files of others that stay as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from protected_digits import BUDGET, SETTINGS, protect

import cloister
from cloister.errors import CloisterError
from cloister.protect.automatic import (
    Protected,
)
from cloister.protect.training import Data
from cloister.seal import Bundle, VendorKey
from cloister.search import Budget, BudgetError


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


def test_licences_outlive_a_run_that_misses_the_budget(
    made: Protected, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    capsys.readouterr()
    assert Bundle.load(protect(folder, keys=keys, quiet=False).bundle).name == "digits"
    assert (folder / "pair.clb.1").read_bytes() == b"something else"
    said = capsys.readouterr().err
    assert "it is kept as pair.clb.1" in said and "licences of the bundle before it do not open it" in said


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


def test_what_was_kept_with_files_of_another_version_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SETTINGS.digest
    monkeypatch.setattr("cloister.protect.automatic.settings.FILES", 1)
    assert SETTINGS.digest != now

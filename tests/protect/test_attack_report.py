# SPDX-License-Identifier: BSD-2-Clause
"""The bench's report as people read it: names, budgets, titles, and what of an earlier report stays."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from digits_data import digits_splits
from torch import nn

from cloister.attack import AttackError, BlackBox, Effort, Report, WhiteBox, bench
from cloister.attack.curves import draw as draw_curves
from cloister.attack.picture import draw
from cloister.attack.table import labels, markdown, notes, spread, tables, titled
from cloister.cli.main import cloister
from cloister.protect import api
from cloister.protect.training import network

WHITE, BLACK = "white box (unprotected)", "black box (queries only)"
EFFORT = Effort((0.1,), (50,), (0.05,), (0.1,), epochs=1, steps=4, trial=2, validation=100)
ABOUT = {
    "data": "shapes", "seed": 0, "training_images": 1434, "black_box": BLACK, "white_box": WHITE,
    "precision": "float32",
    "effort": {"steps": 40, "trial": 40, "batch": 64, "rates": [0.05], "mask_rates": [0.1], "precision": "auto"},
}  # fmt: skip


def record(target: str, attack: str, budget: str = "10 % of the data", **more: Any) -> dict[str, Any]:
    return {"target": target, "attack": attack, "budget": budget, "accuracy": 0.5, "fidelity": 0.6, "seed": 0,
            "black_box": 0.4, "ratio": 1.25, "above": 0.1, **more}  # fmt: skip


STEAL = [
    record(target, "steal", f"{count} queries", asked=min(count, 1434))
    for target in (WHITE, "locked locked", BLACK)
    for count in (50, 500, 5000)
]


def test_a_budget_beyond_the_images_that_there_are_tells_how_many_were_asked() -> None:
    page = markdown(STEAL, ABOUT)
    assert "| target | 50 queries | 500 queries | 5000 queries (all 1,434 images) |" in page
    (row,) = re.findall(r">(model stealing[^<]*5000[^<]*)<", draw(STEAL, ""))
    assert row == "model stealing, labels only, 5000 queries (all 1,434 images)"
    curves = draw_curves(STEAL, ABOUT, "")
    assert ">1434</text>" in curves and ">5000</text>" not in curves
    assert "locked, 5000 queries (all 1,434 images): 50.0%" in curves
    enough = [{**line, "asked": int(line["budget"].split()[0])} for line in STEAL]
    assert "all" not in tables(enough)[0].heads[3] and ">5000</text>" in draw_curves(enough, ABOUT, "")
    seeds = [*STEAL, *({**line, "asked": min(line["asked"], 1400), "seed": 1} for line in STEAL)]
    assert tables(seeds)[0].heads[3] == "5000 queries (all 1,400 to 1,434 images)"


def test_files_that_are_called_by_what_they_are_have_one_word() -> None:
    found = labels(["locked locked", "pruned pruned", "locked locked, runs seen", "locked mine", "pruned a/pruned"])
    assert list(found.values()) == ["locked", "pruned", "locked, runs seen", "locked mine", "pruned a/pruned"]
    assert labels(["locked locked", "locked"])["locked locked"] == "locked locked", "another has that name"
    records = [record("locked locked", "finetune", note="why"), record("pruned pruned", "finetune")]
    shown = markdown(records, ABOUT) + draw(records, "") + draw_curves(records, ABOUT, "") + "".join(notes(records))
    assert "locked locked" not in shown and "pruned pruned" not in shown
    assert "| locked | 50.0%" in shown and "- locked, fine-tuning: why" in shown
    report = Report(records, {})
    assert report.find("locked", "finetune") is report.find("locked locked", "finetune")
    with pytest.raises(AttackError, match="no 'steal' of 'mine'") as caught:
        report.find("mine", "steal")
    assert "targets are locked locked, pruned pruned" in (caught.value.remedy or "")


def test_titles_name_no_attack_that_was_not_made() -> None:
    signs, seen = record("mine", "signs"), record("mine", "observe", "one run")
    shown = [[table.title for table in titled(records)] for records in ([signs], [seen], [signs, seen])]
    assert shown == [
        ["Against locks: signs guessed from weights and outputs"],
        ["Against locks: reading an authorised run"],
        ["Against locks: signs, authorised runs"],
    ]
    assert [table.title for table in titled([record("mine", "direct", "no data")])] == ["Direct use"]
    assert "## Against locks: signs guessed from weights and outputs" in markdown([signs], ABOUT)


def test_what_rounds_to_nothing_has_no_sign() -> None:
    points = "{:+.2f}".format
    assert spread([-0.001], points) == spread([0.001], points) == "0.00"
    assert spread([-0.001, 0.1], points) == "+0.05 (0.00 to +0.10)"
    assert spread([-0.4], "{:.0f}%".format) == "0%" and spread([-0.01, -0.01], points) == "-0.01"


def test_a_plot_tells_of_seeds_where_there_are_several() -> None:
    one = [record("mine", "direct", "no data")]
    assert "of the seeds" not in draw(one, "") and "dashed: black box" in draw(one, "")
    assert "least to most of the seeds" in draw([*one, {**one[0], "seed": 1, "accuracy": 0.7}], "")


def victim(seed: int = 1) -> nn.Module:
    return network("digits", 1, 10, seed)


def report(folder: Path, targets: Sequence[str], *attacks: str, of: int = 1, own: int = 5, **more: Any) -> Report:
    """Of networks in clear, each drawn by its name's length and ``own``."""
    splits = digits_splits()
    exposed = [WhiteBox(network("digits", 1, 10, own + len(name)), splits, name) for name in targets]
    arguments: dict[str, Any] = {"effort": EFFORT, "seed": 0, "folder": folder, **more}
    return bench(exposed, splits, victim(of), attacks=attacks, device="cpu", quiet=True, **arguments)


def written(place: Path) -> set[tuple[str, str]]:
    return {(record["target"], record["attack"]) for record in content(place)["records"]}


def content(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "attacks.json").read_text())
    return found


def test_rows_of_an_earlier_report_of_the_same_stay(tmp_path: Path) -> None:
    place, work = tmp_path / "out", tmp_path / "work"
    first = report(work, ["one", "other"], "direct", "finetune")
    first.write(place)
    report(work, ["other"], "direct").write(place)
    assert content(place)["records"] == first.records, "it has all that the new one has"
    report(work, ["another"], "direct").write(place)
    found = content(place)
    order = list(dict.fromkeys(record["target"] for record in found["records"]))
    assert order == [WHITE, "one", "other", "another", BLACK] and found["about"]["attacks"] == ["direct", "finetune"]
    assert ("another", "direct") in written(place) and ("another", "finetune") not in written(place)
    page, plot = ((place / f"attacks.{kind}").read_text() for kind in ("md", "svg"))
    assert all(f"| {name} | " in page and f">{name}</text>" in plot for name in ("one", "other", "another"))


@pytest.mark.parametrize(
    "other", [{"of": 2}, {"seed": 1}, {"effort": replace(EFFORT, steps=5)}, {"pool": digits_splits().validation}]
)
def test_rows_of_another_victim_seed_effort_or_pool_do_not_stay(tmp_path: Path, other: dict[str, Any]) -> None:
    report(tmp_path / "work", ["one"], "direct").write(tmp_path / "out")
    report(tmp_path / "new", ["other"], "direct", **other).write(tmp_path / "out")
    assert {target for target, _ in written(tmp_path / "out")} == {WHITE, "other", BLACK}


def test_rows_that_stay_are_held_against_the_black_box_as_it_is_now(tmp_path: Path) -> None:
    first = report(tmp_path / "work", ["one", "other"], "direct")
    first.write(tmp_path)
    before = content(tmp_path)
    for line in before["records"]:
        line |= {"black_box": 0.01, "ratio": 99.0, "above": 0.98}
    (tmp_path / "attacks.json").write_text(json.dumps(before))
    report(tmp_path / "work", ["one"], "direct").write(tmp_path)
    (kept,) = (line for line in content(tmp_path)["records"] if line["target"] == "other")
    assert kept in first.records


class Watched(WhiteBox):
    """Runs of it show something, or fail."""

    def __init__(self, shows: float) -> None:
        super().__init__(network("digits", 1, 10, 5), digits_splits(), "one")
        self.shows = shows

    def observed(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The same for all images."""
        if not self.shows:
            raise ValueError("no device")
        return {"0:out": torch.full((len(pixels), 2), self.shows)}


def test_what_another_run_showed_tells_targets_apart(tmp_path: Path) -> None:
    splits = digits_splits()
    found = [
        bench(Watched(shows), splits, victim(), attacks=["direct"], effort=EFFORT, folder=tmp_path, device="cpu",
              quiet=True).about["identity"] for shows in (1.0, 1.0, 2.0, 0.0)
    ]  # fmt: skip
    assert found[0] == found[1] and len({identity["one"] for identity in found}) == 3
    assert len({identity[BLACK] for identity in found}) == 1


def test_rows_of_what_had_the_same_name_and_damaged_reports_do_not_stay(tmp_path: Path) -> None:
    report(tmp_path / "work", ["one", "other"], "direct", "finetune").write(tmp_path)
    report(tmp_path / "new", ["one"], "direct", own=50).write(tmp_path)
    assert written(tmp_path) >= {("one", "direct"), ("other", "finetune")}
    assert ("one", "finetune") not in written(tmp_path), "the other network's"
    right = content(tmp_path)
    del right["about"]["identity"]  # as before that was kept
    for damaged in ("{", "[]", json.dumps(right), json.dumps({"about": {}})):
        (tmp_path / "attacks.json").write_text(damaged)
        report(tmp_path / "new", ["one"], "direct", own=50).write(tmp_path)
        assert {target for target, _ in written(tmp_path)} == {WHITE, "one", BLACK}


def test_the_command_names_what_is_of_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"

    names = iter(["pruned pruned", "mine"])

    def attack(*_given: Any, **_more: Any) -> Report:
        target = BlackBox(victim(), digits_splits(), next(names))
        found = bench(target, digits_splits(), victim(), attacks=["direct"], effort=EFFORT, folder=work, device="cpu",
                      quiet=True)  # fmt: skip
        found.write(tmp_path)
        return found

    monkeypatch.setattr(api, "attack", attack)
    command = ["attack", "victim.onnx", "--data", "data", "-o", str(tmp_path)]
    first, second = (CliRunner().invoke(cloister, command, catch_exceptions=False).output for _ in range(2))
    assert "of earlier runs" not in first
    assert "of earlier runs  pruned (direct): there, but not above" in second

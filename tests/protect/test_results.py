# SPDX-License-Identifier: BSD-2-Clause
"""The scripts behind docs/results.md, on a small data set."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from digits_data import digits_splits
from PIL import Image

from cloister.attack.attacker import METHOD
from cloister.attack.table import GROUPS, Table, spread, tables
from cloister.compile.pair import compile_pair
from cloister.native import NativeEngine
from cloister.protect.results import locks, looks, mirror
from cloister.protect.results.__main__ import main
from cloister.protect.results.attacks import outdated
from cloister.protect.results.cases import CASES, SEEDS
from cloister.protect.results.context import Context
from cloister.protect.results.edgepro import LOCKS
from cloister.protect.results.page import commands, markdown, write
from cloister.protect.results.tenth import goals
from cloister.protect.results.victims import kept_as
from cloister.protect.strategy import Strategy

Record = dict[str, Any]


def invoke(place: Path, *more: str) -> str:
    arguments = ["--model", "digits", "--seeds", "0", "--work", str(place / "work"), "--docs", str(place / "docs")]
    result = CliRunner().invoke(main, [*arguments, "--device", "cpu", *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return (place / "docs" / "results.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on the digits: victim, locks, prunings, attacks on a lock, runs seen, a pruned network, and pairs."""
    path = tmp_path_factory.mktemp("results")
    invoke(path, "--epochs", "0.5")
    return path


def content(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "docs" / "results.json").read_text())
    return found


def test_records_are_made_once_and_shown(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (place / "docs" / "results.md").read_text()
    records = content(place)["records"]
    assert {(record["experiment"], record.get("variant")) for record in records} >= {
        ("victim", None), ("edgepro", "published"), ("edgepro", "turned"), ("edgepro", "mixed"), ("prune", "taylor"),
    }  # fmt: skip
    victim = next(record for record in records if record["experiment"] == "victim")
    assert victim["test"] > 0.9 and f"{victim['test']:.2%}" in page
    turned = next(record for record in records if record.get("variant") == "turned")
    assert turned["test"]["with_password"] > 0.85 and turned["test"]["without_password"] < 0.3
    pruned = next(record for record in records if record.get("variant") == "taylor")
    assert pruned["macs"]["pruned"] < 0.8 * pruned["macs"]["unpruned"] and pruned["test"]["pruned"] > 0.85
    assert {(row["step"], row["precision"]) for row in pruned["rows"]} >= {("unpruned", "fp32"), ("pruned", "int8")}
    monkeypatch.setattr("cloister.protect.training.loop.fit", None)
    monkeypatch.setattr("cloister.protect.results.context.fit", None)
    assert invoke(place, "--epochs", "0.5") == page, "a second run computes nothing"


def test_a_pruned_network_in_clear_is_attacked_like_the_white_box(place: Path) -> None:
    own = [record for record in content(place)["records"] if record["experiment"] == "attacks"]
    assert {record["method"] for record in own} == {METHOD}
    attacks = {record["target"]: record["attacks"] for record in own}
    assert list(attacks) == sorted(["white box", "turned", "pruned", "runs seen", "black box"])
    direct = {name: next(line for line in lines if line["attack"] == "direct")
              for name, lines in attacks.items() if name != "runs seen"}  # fmt: skip
    pruned = next(r for r in content(place)["records"] if r.get("variant") == "taylor")["test"]["pruned"]
    assert direct["pruned"]["accuracy"] == pytest.approx(pruned) and direct["pruned"]["fidelity"] == 1
    assert direct["turned"]["accuracy"] < 0.3 and direct["black box"]["accuracy"] == pytest.approx(0.1)
    ran = {line["attack"] for line in attacks["pruned"]}
    assert ran == {"direct", "finetune", "steal", "head"}, "it has no lock to be searched for"
    assert [line["attack"] for line in attacks["runs seen"]] == ["observe"]
    assert attacks["runs seen"][0]["accuracy"] > 0.85, "locked tensors that are shown give the password away"


def test_how_well_single_looks_tell_turned_channels_is_measured(place: Path) -> None:
    (record,) = (record for record in content(place)["records"] if record["experiment"] == "looks")
    assert set(record["told"]) == set(record["chance"]) == set(looks.LOOKS) and record["layers"] == 3
    assert all(0.5 <= told <= 1 for told in record["told"].values())
    assert all(0.5 < chance < 0.65 for chance in record["chance"].values())
    section = (place / "docs" / "results.md").read_text().partition("## What gives a turned channel away")[2]
    assert (
        f"| bias | {record['told']['bias']:.1%}; by chance {record['chance']['bias']:.1%} |"
        in section.partition("\n## ")[0]
    )


def test_runs_seen_of_another_lock_are_made_anew(place: Path) -> None:
    own = next(record for record in content(place)["records"] if record.get("target") == "runs seen")
    assert own["attacks"][0]["target"] == "turned, runs seen" and not outdated(own)
    assert outdated({**own, "attacks": [{**own["attacks"][0], "target": "mixed, runs seen"}]})


def test_a_tenth_of_the_data_is_a_bench_of_its_own(place: Path) -> None:
    (record,) = (record for record in content(place)["records"] if record["experiment"] == "tenth")
    assert record["target"] == "turned" and {line["budget"] for line in record["attacks"]} == {"10 % of the data"}
    ran = {line["attack"].partition(",")[0] for line in record["attacks"]}
    assert ran >= {"finetune", "head", "mask", "prune"} and not ran & {"steal", "direct"}
    assert all(line["above"] == pytest.approx(line["accuracy"] - line["black_box"]) for line in record["attacks"])
    best = max(line["above"] for line in record["attacks"])
    page = (place / "docs" / "results.md").read_text().partition("## Locks, attacked with a tenth")[2]
    assert f"| {100 * best:+.2f} |" in page.partition("\n## ")[0]
    assert "| digits | turned | 0 | 60 of 2,000 steps |" in page.partition("\n## ")[0]
    goal = next(goal for goal in goals([{**record, "model": "vgg7"}]) if goal.model == "vgg7")
    assert goal.met == [100 * best <= 2] and f"{100 * best:+.2f} points" in goal.cell()


def test_the_page_and_its_plots_show_every_experiment(place: Path) -> None:
    page = (place / "docs" / "results.md").read_text()
    for title in ("## EdgePro", "### Pruning digits step by step", "#### digits: model stealing", "### What was not"):
        assert title in page
    shown = {line[line.index("(") + 1 : -1] for line in page.splitlines() if line.startswith("![")}
    names = [
        "edgepro",
        "pruning-digits",
        "mirror-digits",
        *(f"attacks-digits-{number}" for number in range(1, len(GROUPS) + 1)),
    ]
    assert shown == {f"plots/{name}.svg" for name in names}
    assert {str(path.relative_to(place / "docs")) for path in (place / "docs" / "plots").iterdir()} == shown
    for name in shown:
        shapes = ElementTree.fromstring((place / "docs" / name).read_text())
        assert any(len(shape) and shape[0].tag.endswith("title") for shape in shapes.iter()), name
    for line in page.splitlines():
        assert "/tmp" not in line and str(place) not in line


def test_pairs_are_trained_costed_and_attacked(place: Path) -> None:
    records = {r["variant"]: r for r in content(place)["records"] if r["experiment"] == "mirror"}
    assert set(records) == {"cheapest", "small", "pruned-last", "whole"}
    assert len({record["test"]["victim"] for record in records.values()}) == 1, "all are held against the unpruned one"
    last = records["pruned-last"]["predicted"]
    assert last["unprotected"] == records["whole"]["predicted"]["unprotected"] > last["normal_world"]
    for record in records.values():
        assert record["test"]["pair"] > 0.85 and record["test"]["pair"] - record["test"]["backbone_alone"] > 0.6
        assert record["predicted"]["secure_memory"] > 0 and record["predicted"]["bytes_in"] > 0
        assert record["effort_share"] == 1 and record["seconds"] >= 0
        assert record.get("method") == (METHOD if record["attacks"] else None)
    assert {line["attack"] for line in records["cheapest"]["attacks"]} == {"direct", "finetune", "steal", "head"}
    assert {line["attack"] for line in records["small"]["attacks"]} == {"direct", "finetune", "steal"}
    tuned = next(line for line in records["small"]["attacks"] if line["attack"] == "finetune")
    assert tuned["ratio"] == pytest.approx(1), "nothing is exposed: training is the black box's"
    assert records["whole"]["attacks"] == [] and records["whole"]["test"]["pair"] == records["whole"]["test"]["victim"]
    page = (place / "docs" / "results.md").read_text()
    assert "| digits | whole | 0 |" in page and "#### Pairs of digits: model stealing" in page
    lost = 100 * (records["cheapest"]["test"]["victim"] - records["cheapest"]["test"]["pair"])
    assert f"| {lost:.2f} |" in page


def test_the_pairs_files_can_be_compiled_and_answer_as_the_record_says(place: Path) -> None:
    folder = place / "work" / "pairs" / "digits-cheapest-0"
    assert {path.name for path in folder.iterdir()} == {"backbone.onnx", "cpm.onnx", "victim.onnx"}
    assert {path.stem for path in (place / "work" / "wholes").iterdir()} == {"digits-small-0", "digits-whole-0"}
    pair = compile_pair(folder / "cpm.onnx", folder / "backbone.onnx", dims={"batch": 1}, secure_memory=0)
    splits, engine = digits_splits(), NativeEngine()
    images = splits.normalise(splits.test.pixels[:60]).numpy()
    answers = []
    for image in images:
        crossed = engine.run(pair.backbone, {"image": image[None]})
        inputs = {info.name: crossed[info.name] for info in pair.cpm.inputs}
        answers.append(int(engine.run(pair.cpm, inputs)["logits"].argmax()))
    right = np.mean(np.array(answers) == splits.test.labels[:60].numpy())
    record = next(r for r in content(place)["records"] if r.get("variant") == "cheapest")
    assert right == pytest.approx(record["test"]["pair"], abs=0.08)


def pair_record(model: str, variant: str, seed: int, pair: float, overhead: float, ratio: float) -> Record:
    strategy = Strategy(kind="whole") if variant == "whole" else Strategy(taps=("6",), tail="short")
    line = {"target": variant, "attack": "steal", "budget": "50 queries", "accuracy": 0.3 * ratio, "fidelity": 0.3,
            "black_box": 0.3, "ratio": ratio, "above": 0.3 * ratio - 0.3, "seed": seed}  # fmt: skip
    predicted = {"overhead": overhead, "secure_memory": 500 * 1024, "bytes_in": 2048}
    return {
        "experiment": "mirror", "model": model, "data": "x.npz", "seed": seed, "variant": variant,
        "strategy": json.loads(strategy.to_json()), "summary": str(strategy), "attacks": [line],
        "test": {"victim": 0.83, "pair": pair, "backbone_alone": 0.1}, "predicted": predicted, "seconds": 60.0,
        "device": "CPU", "epochs_share": 1.0, "effort_share": 0.1, "precision": "bfloat16",
        "epochs": {"together": 8, "final": 2}, "method": METHOD,
    }  # fmt: skip


def test_the_strategy_of_least_overhead_that_reaches_an_aim_is_told(tmp_path: Path) -> None:
    records = [
        pair_record("vgg7", "cheapest", 0, 0.825, -0.046, 1.62),
        pair_record("vgg7", "tampered", 0, 0.81, -0.013, 1.25),
        pair_record("vgg7", "random", 0, 0.828, 0.4, 1.1),
    ]
    write(records, tmp_path)
    page = (tmp_path / "results.md").read_text()
    tried = "attackers with 200 of 2,000 steps"
    assert f"| cheapest, -4.60%, ratio 1.62: reached, one seed ({tried}) |" in page
    assert f"| random, +40.00%, ratio 1.10: reached, one seed ({tried}) |" in page, "`tampered` loses 2 points"
    assert "| 2.00: missed, one seed |" in page and "| at least 71.0: reached, one seed |" in page
    plot = (tmp_path / "plots" / "mirror-vgg7.svg").read_text()
    assert f"what attackers gain, {tried}<" in plot
    whole = {**pair_record("vgg7", "whole", 1, 0.83, 0.02, 1.0), "attacks": []}
    assert "whole, +2.00%, ratio 1.00: reached by 2 of 2 seeds (attackers" in markdown([*records, whole])
    assert "| whole, +2.00%, ratio 1.00: reached, one seed |" in markdown([whole]), "nobody had to attack it"
    assert plot.count("<circle") == 3 and plot.count('fill="white"><title>tampered') == 1


def test_what_was_measured_of_one_seed_stands_for_the_others(tmp_path: Path) -> None:
    records = [pair_record("lenet5", "cheapest", seed, 0.825, 0.02, 1.2) for seed in range(2)]
    write(records, tmp_path)
    aim = "MirrorNet: a pair that adds at most 0.99%"
    row = next(line for line in markdown(records).splitlines() if aim in line)
    assert row.count("none: reached by 0 of 2 seeds (") == 1
    records[1]["measured"] = {"overhead": 0.005}
    write(records, tmp_path)
    row = next(line for line in markdown(records).splitlines() if aim in line)
    assert "cheapest, +0.50%, ratio 1.20: reached by 2 of 2 seeds" in row
    assert "cheapest: +0.50%" in (tmp_path / "plots" / "mirror-lenet5.svg").read_text()


@pytest.mark.parametrize("method", [{}, {"method": "3, of another bench"}])
def test_attacks_of_an_older_bench_are_counted_and_made_anew(tmp_path: Path, method: dict[str, str]) -> None:
    old, now = (pair_record("vgg7", "cheapest", 0, 0.82, 0.02, 1.2) for _ in range(2))
    del old["method"]
    old = {**old, **method}
    whole = {**pair_record("vgg7", "whole", 0, 0.82, 0.02, 1.0), "attacks": []}
    assert outdated(old) and not outdated(now) and not outdated(whole), "nobody attacked what shows nothing"
    second = {**now, "seed": 1}
    assert "older bench" not in markdown([now, second, whole])
    told = "Of an older bench are 1 of the 2 records of attacks on pairs of vgg7: "
    assert told in markdown([old, second, whole])
    bound = {**old, "experiment": "attacks", "target": "turned"}
    del bound["variant"]
    assert "Of an older bench are 1 of the 1 records of attacks on vgg7: " in markdown([bound])
    context = Context(tmp_path, tmp_path)

    def once(found: Record) -> Record:
        return context.once("mirror", CASES["vgg7"], 0, lambda: found, outdated, variant="cheapest")

    assert once({**old, "measured": {"overhead": 0.5}})["attacks"] == old["attacks"]
    again = once(now)
    assert again["attacks"] == now["attacks"] and again["measured"] == {"overhead": 0.5}
    assert once(old) == again, "a record is made once"


def test_what_the_device_took_is_put_beside_what_was_predicted(tmp_path: Path) -> None:
    kept = tmp_path / "work" / "records" / "mirror_digits_0_variant=cheapest.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps(pair_record("digits", "cheapest", 0, 0.82, 0.02, 1.2)))
    whole = pair_record("digits", "whole", 0, 0.83, 0.1, 1.0)
    kept.with_name("mirror_digits_0_variant=whole.json").write_text(json.dumps(whole))
    rows = [{"suite": "mirror", "name": "digits-cheapest-0", "metric": "overhead", "value": 0.0213}]
    rows += [{"suite": "models", "name": "digits-whole-0", "where": where, "metric": "instructions", "value": value}
             for where, value in (("ta", 560.0), ("normal", 500.0))]  # fmt: skip
    (tmp_path / "now.json").write_text(json.dumps(rows))
    page = invoke(tmp_path, "--write-only", "--measured", str(tmp_path / "now.json"))
    assert "| +2.00% | +2.13% |" in page and "| +10.00% | +12.00% |" in page
    (tmp_path / "now.json").write_text(json.dumps([{**rows[0], "name": "another"}]))
    arguments = ["--work", str(tmp_path / "work"), "--docs", str(tmp_path), "--write-only", "--measured"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "now.json")])
    assert result.exit_code == 1 and "has no strategy that" in result.output


def edgepro(model: str, seed: int, without: float, **more: object) -> Record:
    return {
        "experiment": "edgepro", "model": model, "data": "x.npz", "seed": seed, "variant": "mixed",
        "test": {"unlocked": 0.83, "with_password": 0.825, "without_password": without}, "constants": 1, "turned": 2,
        "channels": 9, "training_s": 60.0, "seconds": 61.0, "device": "CPU", "epochs_share": 1.0, **more,
    }  # fmt: skip


def test_means_and_spreads_over_seeds_are_told_in_both_files(tmp_path: Path) -> None:
    records = [edgepro("vgg7", seed, without) for seed, without in ((0, 0.10), (1, 0.11), (2, 0.15))]
    write(records, tmp_path)
    page, found = (tmp_path / "results.md").read_text(), json.loads((tmp_path / "results.json").read_text())
    assert "| vgg7 | mixed | 0, 1, 2 | 83.00% | 82.50% | 0.50 | 12.00% (10.00% to 15.00%) | 2 of 3 |" in page
    assert "| vgg7 | mixed | 2 | 83.00% | 82.50% | 0.50 | 15.00% |" in page, "each seed stands beside the mean"
    assert "12.00% (10.00% to 15.00%): reached by 2 of 3 seeds" in page
    (line,) = found["summary"]
    assert line["seeds"] == [0, 1, 2] and line["name"] == "mixed"
    assert line["figures"]["without_password"] == pytest.approx({"mean": 0.12, "min": 0.1, "max": 0.15})
    assert found["records"] == records


def test_what_is_missing_and_what_makes_it_anew_is_told(tmp_path: Path) -> None:
    attacks = {**edgepro("lenet5", 1, 0.1), "experiment": "attacks", "target": "turned", "attacks": [],
               "effort_share": 0.25}  # fmt: skip
    del attacks["variant"]
    records = [edgepro("lenet5", 1, 0.1), edgepro("lenet5", 1, 0.1, variant="constants"), attacks]
    write(records, tmp_path)
    absent = json.loads((tmp_path / "results.json").read_text())["missing"]
    assert {"experiment": "edgepro", "model": "lenet5", "name": "mixed", "seeds": [0, 2]} in absent
    assert {"experiment": "attacks", "model": "vgg7", "name": "turned", "seeds": list(SEEDS)} in absent
    assert not [line for line in absent if line["seeds"] == []]
    made = commands(records)
    start = "python -m cloister.protect.results --data DATA --model lenet5 --seeds 1"
    assert made == [
        f"{start} --variant constants --variant mixed --only edgepro",
        f"{start} --effort 0.25 --variant turned --only attacks",
    ]
    page = (tmp_path / "results.md").read_text()
    assert "| lenet5 | 500 | 75 |" in page, "a quarter of an attacker's steps"
    assert all(line in page for line in made) and "| edgepro | vgg7 | turned, mixed, published | all |" in page


def test_a_command_makes_what_there_are_records_of_and_no_more() -> None:
    def attacked(target: str, seed: int) -> Record:
        record = {**edgepro("lenet5", seed, 0.1), "experiment": "attacks", "target": target, "attacks": []}
        del record["variant"]
        return record

    def pruned(variant: str, seed: int, **rows: object) -> Record:
        share = {"pruned": 1, "unpruned": 2}
        return {**edgepro("lenet5", seed, 0.1), "experiment": "prune", "variant": variant, "macs": share,
                "parameters": share, "wanted": None, "test": {"pruned": 0.98, "unpruned": 0.99}, **rows}  # fmt: skip

    start = "python -m cloister.protect.results --data DATA --model lenet5"
    plain = [edgepro("lenet5", seed, 0.1, variant=lock) for seed in (0, 1) for lock in ("turned", "mixed", "published")]
    assert commands(plain) == [f"{start} --seeds 0,1 --only edgepro"], "as a plain run makes it"
    assert commands(plain[:-1]) == [
        f"{start} --seeds 0 --variant published --only edgepro",
        f"{start} --seeds 0,1 --variant turned --variant mixed --only edgepro",
    ]
    bounds = ("white box", "black box")
    some = [attacked(name, seed) for seed in (0, 1) for name in (*bounds, "mixed", "runs seen")]
    assert commands([*some, attacked("pruned", 1)]) == [
        f"{start} --seeds 0,1 --variant mixed --variant 'runs seen' --only attacks",
        f"{start} --seeds 1 --variant pruned --only attacks",
    ], "bounds come with every run"
    assert commands([attacked(name, 2) for name in bounds]) == [f"{start} --seeds 2 --only attacks"]
    by_layer = pruned("layer by layer", 0)
    assert commands([by_layer]) == [f"{start} --seeds 0 --variant 'layer by layer' --only prune"]
    assert commands([pair_record("lenet5", "renamed", 0, 0.82, 0.02, 1.2)]) == [], "there is no such thing any more"
    assert "change one setting" in markdown([by_layer]) and "change one setting" not in markdown([pruned("taylor", 0)])


def test_commands_that_measure_are_told_where_something_was_measured() -> None:
    again = "python -m cloister.protect.results --write-only"
    pair = pair_record("lenet5", "last", 0, 0.82, 0.02, 1.2)
    assert not [line for line in commands([pair]) if "--write-only" in line]
    assert commands([{**pair, "measured": {"overhead": 0.5}}])[-2:] == [mirror.BENCH, f"{again} --measured FILE"]
    small = {**edgepro("lenet5", 0, 0.1), "experiment": "prune", "variant": "taylor", "rows": [{"measured": 5.0}]}
    assert commands([small])[-1] == f"{again} --measure"
    assert commands([{"experiment": "locks", "model": "vgg7", "rows": []}]) == [locks.BENCH, f"{again} --locks FILE"]


def counted(network: str, kind: str, precision: str, locked: float, added: float) -> list[Record]:
    """What the benchmark writes of a network with a password."""
    about = {"suite": "locks", "name": f"{network}, {kind}", "where": "ta", "precision": precision}
    return [
        {**about, "metric": "instructions", "value": locked * (1 + added), "unit": "instructions", "spread": 0.001},
        {**about, "metric": "added", "value": added, "unit": "of the locked model's"},
        {**about, "metric": "partitions", "value": 20, "unit": "partitions"},
    ]


def test_what_a_password_adds_is_read_from_the_benchmarks_file(tmp_path: Path) -> None:
    page = invoke(tmp_path, "--write-only")
    aim = "| EdgePro: instructions added in the TA at most 0.5 % |"
    assert f"{aim} not run | not run | not run |" in page and locks.BENCH in page and "performance.md" in page
    rows = [
        *counted("lenet", "resident", "fp32", 400_000, 0.0002), *counted("lenet", "streamed", "fp32", 700_000, 0.01),
        *counted("lenet_int8", "resident", "int8", 300_000, 0.005), *counted("another", "resident", "fp32", 9, 0.9),
        *counted("lenet_int8", "streamed", "int8", 400_000, 0.004), *counted("vgg7", "streamed", "fp32", 2e6, 0.004),
        {"suite": "models", "name": "lenet, resident", "where": "ta", "metric": "added", "value": 0.9},
    ]  # fmt: skip
    (tmp_path / "now.json").write_text(json.dumps(rows))
    page = invoke(tmp_path, "--write-only", "--locks", str(tmp_path / "now.json"))
    lenet = "resident +0.02% to +0.50%: reached; streamed +0.40% to +1.00%: missed"
    assert f"{aim} {lenet} | streamed +0.40%: reached | not run |" in page
    assert "| lenet5 | lenet | fp32 | 400,000 | 400,080 | +0.02% | 700,000 | 707,000 | +1.00% |" in page
    assert "| vgg7 | vgg7 | fp32 |  |  |  | 2,000,000 | 2,008,000 | +0.40% |" in page
    found = [record for record in content(tmp_path)["records"] if record["experiment"] == "locks"]
    assert [record["model"] for record in found] == ["lenet5", "vgg7"]
    assert invoke(tmp_path, "--write-only") == page, "it is kept"
    for text, says in (("[]", "has no network"), ("{}", "has no network"), ('["a"]', "is not what was measured")):
        (tmp_path / "now.json").write_text(text)
        arguments = ["--work", str(tmp_path / "work"), "--docs", str(tmp_path / "docs"), "--write-only", "--locks"]
        result = CliRunner().invoke(main, [*arguments, str(tmp_path / "now.json")])
        assert result.exit_code == 1 and says in result.output, text


def test_the_best_attacker_is_held_against_the_black_box_with_the_same_data() -> None:
    def line(attack: str, budget: str, accuracy: float) -> Record:
        return {"target": "mixed", "attack": attack, "budget": budget, "accuracy": accuracy, "fidelity": accuracy,
                "black_box": 0.60, "ratio": accuracy / 0.60, "above": accuracy - 0.60}  # fmt: skip

    lines = [line("finetune", "10 % of the data", 0.61), line("mask", "10 % of the data", 0.63),
             line("finetune", "5 % of the data", 0.99)]  # fmt: skip
    record = {**edgepro("vgg7", 0, 0.1), "experiment": "attacks", "target": "mixed", "attacks": lines}
    told = "+3.00 points: missed, one seed (attackers with all of 2,000 steps"
    assert f"{told}, on an older bench)" in markdown([record | {"locks": LOCKS}])
    assert f"{told}, on an older bench)" in markdown([record | {"method": METHOD}]), "the lock is an older one"
    page = markdown([record | {"method": METHOD, "locks": LOCKS}])
    assert "| vgg7 | mixed | 0 | 60.0% | 63.0% | +3.00 | gradient search for a mask |" in page and f"{told})" in page


def test_columns_that_are_empty_are_left_out_and_groups_have_tables_of_their_own() -> None:
    assert Table("", ["a", "b"], [["1", ""], ["2", ""]]).lines() == ["| a |", "| --- |", "| 1 |", "| 2 |"]
    assert spread([0.5, 0.7], "{:.0%}".format) == "60% (50% to 70%)" and spread([0.5, 0.5], "{:.0%}".format) == "50%"
    common = {"accuracy": 0.5, "fidelity": 0.4, "seed": 0, "black_box": 0.3, "ratio": 1.67}
    found = tables([{"target": "a", "attack": "mask", "budget": "b", **common},
                    {"target": "a", "attack": "steal", "budget": "50 queries", **common}], "black")  # fmt: skip
    assert [table.title for table in found] == ["Model stealing, labels only", "Against locks: a mask, pruning"]
    assert found[1].rows == [["a", "50.0% / 40.0% / 1.67"], ["black", "30.0%"]]


def test_data_that_is_missing_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["--model", "vgg7", "--data", str(tmp_path), "--work", str(tmp_path), "--docs", str(tmp_path)]
    )
    assert result.exit_code == 1 and "cifar10.npz is missing" in result.output


def test_a_strategy_that_was_renamed_meanwhile_is_still_shown(tmp_path: Path) -> None:
    write([pair_record("vgg7", name, 0, 0.82, 0.02, 1.2) for name in ("cheapest", "renamed")], tmp_path)
    assert "| vgg7 | renamed | 0 |" in (tmp_path / "results.md").read_text()
    assert ">renamed</text>" in (tmp_path / "plots" / "mirror-vgg7.svg").read_text()


def test_what_was_lost_before_training_is_told(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    for name, form in (("fine", {"quality": 95, "subsampling": 0}), ("coarse", {"quality": 75, "subsampling": 2})):
        file = io.BytesIO()
        picture.save(file, "JPEG", **form)
        jpeg = np.frombuffer(file.getvalue(), np.uint8)
        np.savez(tmp_path / f"{name}.npz", train_jpeg=np.tile(jpeg, 2), train_offset=[0, len(jpeg), 2 * len(jpeg)])
    np.savez(tmp_path / "pixels.npz", train_image=np.zeros((2, 8, 8)))
    assert kept_as(tmp_path / "coarse.npz") == "JPEG, colours 4:2:0, brightness in steps of 5 to 61"
    assert "4:4:4" in kept_as(tmp_path / "fine.npz")
    assert kept_as(tmp_path / "pixels.npz") == kept_as(tmp_path / "digits") == "as they were"


def test_a_variant_of_no_chosen_experiment_is_refused_before_anything_runs(tmp_path: Path) -> None:
    arguments = ["--docs", str(tmp_path / "docs"), "--work", str(tmp_path / "work"), "--only", "mirror"]
    result = CliRunner().invoke(main, [*arguments, "--variant", "last,whole"])
    assert result.exit_code == 2 and "'last,whole' is none of" in result.output and "pruned-last" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_can_go_on_from_the_records_of_another(place: Path, tmp_path: Path) -> None:
    file = place / "docs" / "results.json"
    invoke(tmp_path, "--known", str(file), "--only", "victim", "--only", "edgepro", "--only", "prune")
    assert content(tmp_path) == content(place), "nothing was made again, and nothing was lost"
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"records"}
    older = content(place)
    for record in older["records"]:
        record.pop("method", None)  # of a bench before there were numbers of it
    (tmp_path / "older.json").write_text(json.dumps(older))
    (tmp_path / "new").mkdir()
    page = invoke(tmp_path / "new", "--known", str(tmp_path / "older.json"), "--epochs", "0.5")
    assert "Of an older bench are" in page and content(tmp_path / "new")["records"] == older["records"]
    comparisons = tmp_path / "new" / "work" / "records" / "generator.json"  # as an earlier version named it
    comparisons.write_text(json.dumps({"experiment": "generator", "model": "digits", "rows": []}))
    comparisons.with_name("generator_digits.json").write_text(comparisons.read_text())
    assert len([r for r in Context(place, tmp_path / "new" / "work").records() if r["experiment"] == "generator"]) == 1
    mine = next((tmp_path / "work" / "records").glob("victim_*"))
    mine.write_text(json.dumps({**json.loads(mine.read_text()), "test": 0.125}))
    assert "12.50%" in invoke(tmp_path, "--known", str(file), "--write-only"), "what is here already counts"
    victim = {"experiment": "victim", "model": "digits", "seed": 7}
    for text in (
        "[]",
        "{",
        '{"records": [{}]}',
        '{"records": [1]}',
        '{"records": {}}',
        json.dumps({"records": [victim]}),
    ):
        (tmp_path / "wrong.json").write_text(text)
        arguments = ["--work", str(tmp_path / "work"), "--docs", str(tmp_path / "docs"), "--write-only", "--known"]
        wrong = CliRunner().invoke(main, [*arguments, str(tmp_path / "wrong.json")])
        assert wrong.exit_code == 1 and "wrong.json has no records" in wrong.output, text
    assert not list((tmp_path / "work").rglob("*_7*"))


def test_the_generators_comparisons_are_kept_and_judged(tmp_path: Path) -> None:
    side = {"summary": "whole in the TA, int8", "overhead": 0.4, "gain": 1.0, "lost": 0.25}
    rows = [
        {"seed": seed, "exposed": False, "as_good": seed != 1, "as_good_test": True,
         "generator": {**side, "cost": 14.7}, "grid": {**side, "cost": 30.0, "trainings": 30}}
        for seed in range(3)
    ]  # fmt: skip
    arguments = ["--docs", str(tmp_path / "docs"), "--work", str(tmp_path / "work"), "--write-only"]
    for chosen, verdict in (
        (rows, "as good in 2 of 3 comparisons: missed"),
        (rows[::2], "as good in 2 of 2 comparisons: reached"),
    ):
        (tmp_path / "results.json").write_text(json.dumps(chosen))
        told = CliRunner().invoke(main, [*arguments, "--generator", str(tmp_path / "results.json")])
        page = (tmp_path / "docs" / "results.md").read_text()
        assert told.exit_code == 0 and f"14.7 trainings, not 30; {verdict}" in page
        assert "| 0 | all | whole in the TA, int8 | +40.0% | 1.00 | 0.25 |" in page
    assert "performance emulator" in page and json.loads((tmp_path / "docs" / "results.json").read_text())["emulator"]
    (tmp_path / "results.json").write_text("[{}]")
    wrong = CliRunner().invoke(main, [*arguments, "--generator", str(tmp_path / "results.json")])
    assert wrong.exit_code == 1 and "is no comparison" in wrong.output

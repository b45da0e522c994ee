# SPDX-License-Identifier: BSD-2-Clause
"""MirrorNet: what strategies cost, what they keep of the accuracy, and what attackers make of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from cloister.attack import BlackBox, Effort, Exposed, bench
from cloister.attack.attacker import METHOD
from cloister.attack.table import CELL, Table, spread, tables, title
from cloister.estimate.pair import predict
from cloister.protect.automatic.costs import VICTIM_FILE, Costs, needs_backbone
from cloister.protect.automatic.evaluator import NO_GAIN
from cloister.protect.automatic.whole import MODEL_FILE
from cloister.protect.mirror import Mirrored, mirror_model
from cloister.protect.mirror.export import BACKBONE_FILE, CPM_FILE
from cloister.protect.prune import Pruned, prune_model
from cloister.protect.results import attacks
from cloister.protect.results.cases import CASES, MODELS, Case
from cloister.protect.results.context import PLOTS, Context, Record
from cloister.protect.results.errors import ResultsError
from cloister.protect.results.front import Point, draw
from cloister.protect.results.strategies import NAMES, STRATEGIES, pruning_of, settings_of
from cloister.protect.results.summary import Goal, grouped, seeds_of
from cloister.protect.strategy import Strategy
from cloister.protect.training import Splits, accuracy, export_onnx, network

TITLE = "MirrorNet: what strategies cost, and what attackers make of them"

#: Aims: points lost at most; points between pair and backbone, the paper's and this project's; overhead and ratio to
#: the black box at most.
LOST, GAP, WIDER, OVERHEAD, RATIO = 1.0, 18.6, 60.0, 0.0099, 1.3
#: What measures the strategies in a folder of work.
BENCH = "build/bench --suite mirror --pairs WORK/pairs --suite models --models WORK/wholes --json FILE"
#: What is run on every strategy.
ATTACKS = ("direct", "finetune", "steal", "head")
#: Below this share of the effort attackers also try fewer rates, and validate less often and on fewer images.
THRIFTY = 0.5


def wanted(model: str) -> tuple[str, ...]:
    """Names of what a plain run makes."""
    return tuple(STRATEGIES[model])


def effort(case: Case, share: float) -> Effort:
    """What attackers have: as on other protections, with that share of the steps; see :data:`THRIFTY`."""
    full = attacks.effort(case, share)
    if case.network == "digits" or share >= THRIFTY:
        return full
    quick = Effort.quick()
    return replace(full, rates=quick.rates, epochs=3, validation=500)


def _place(context: Context, case: Case, seed: int, variant: str) -> Path:
    """Where ``build/bench`` finds a strategy: a pair's folder, or the file of what lies whole in the TA."""
    name = f"{case.name}-{variant}-{seed}"
    if _shows(STRATEGIES[case.name][variant]):
        return context.work / "pairs" / name
    (context.work / "wholes").mkdir(parents=True, exist_ok=True)
    return context.work / "wholes" / f"{name}.onnx"


def mirrored(context: Context, case: Case, seed: int, variant: str, source: nn.Module) -> Mirrored:
    """The pair of that strategy, which protects ``source``; trained now, or loaded if it was before."""
    return mirror_model(
        source, context.splits(case), settings_of(case, variant, seed, context.epochs),
        folder=context.work / f"mirror-{variant}-{case.name}-{seed}", device=context.device,
        name=f"pair {case.name} ({variant}), seed {seed}", quiet=context.quiet,
    )  # fmt: skip


def _pruned(context: Context, case: Case, seed: int, variant: str) -> Pruned:
    """The victim pruned as that strategy has it: the same for all of a network's, since they have the same share."""
    return prune_model(
        context.victim(case, seed), context.splits(case), pruning_of(case, variant, seed, context.epochs),
        folder=context.work / f"mirror-pruned-{case.name}-{seed}", device=context.device,
        name=f"pruning {case.name}, seed {seed}", quiet=context.quiet,
    )  # fmt: skip


def run(context: Context, case: Case, seed: int, variants: tuple[str, ...] = ()) -> list[Record]:
    """A record for each strategy: accuracies (0 to 1), predicted costs, attacks; pairs lie in the folder of work."""
    records = []
    for variant in variants or wanted(case.name):
        if variant in STRATEGIES[case.name]:

            def measure(variant: str = variant) -> Record:
                return _measure(context, case, seed, variant)

            records.append(context.once("mirror", case, seed, measure, attacks.outdated, variant=variant))
    return records


def _measure(context: Context, case: Case, seed: int, variant: str) -> Record:
    strategy, splits, victim = STRATEGIES[case.name][variant], context.splits(case), context.victim(case, seed)
    costs = Costs(victim, splits, context.work / f"mirror-costs-{case.name}-{seed}")
    about: Record = {"strategy": json.loads(strategy.to_json()), "summary": str(strategy)}
    if strategy.kind == "whole":
        # whoever sees nothing and asks for labels is the black box
        return {**about, **_guessed(_whole(context, case, seed, variant, costs), splits), "attacks": []}
    source = victim if strategy.pruned is None else _pruned(context, case, seed, variant).module.cpu()
    made = mirrored(context, case, seed, variant, source)
    folder = context.work / f"mirror-{variant}-{case.name}-{seed}"
    made.save(folder)
    _keep(folder, costs.victim_file("fp32"), _place(context, case, seed, variant))
    settings = made.report["settings"]
    found: Record = {
        **{key: made.report[key] for key in ("test", "validation", "macs", "training_s")},
        "epochs": {"together": settings["recipe"]["epochs"], "final": settings["final"]},
        "predicted": costs.predict(strategy, source).as_json(),
    }
    if source is not victim:  # the report's own "victim" is what was pruned
        for split, images in (("test", splits.test), ("validation", splits.validation)):
            found[split]["victim"] = accuracy(victim, images, splits)
    target: Exposed = made.exposed(variant)
    if not _shows(strategy):
        target, found = BlackBox(made.pair, splits, variant), _guessed(found, splits)
    report = bench(
        target, splits, victim, attacks=ATTACKS, effort=effort(case, context.epochs * context.effort), seed=seed,
        architecture=lambda number: network(case.network, splits.shape[0], len(splits.classes), number),
        folder=context.work / f"mirror-attacks-{case.name}-{seed}", device=context.device, quiet=context.quiet,
        white=False,
    )  # fmt: skip
    attacked = [line for line in report.records if line["target"] == variant]
    return {**about, **found, "attacks": attacked, "method": METHOD}


def _whole(context: Context, case: Case, seed: int, variant: str, costs: Costs) -> Record:
    """Accuracies and costs of the victim, or of what pruning leaves of it, whole in the TA."""
    splits, victim = context.splits(case), context.victim(case, seed)
    module, file, found = victim, costs.victim_file("fp32"), {}
    if STRATEGIES[case.name][variant].pruned is not None:
        smaller = _pruned(context, case, seed, variant)
        module, found = smaller.module, {"macs": smaller.report["macs"], "training_s": smaller.report["training_s"]}
        file = export_onnx(module, splits.shape, context.work / f"mirror-pruned-{case.name}-{seed}" / MODEL_FILE)
    shutil.copyfile(file, _place(context, case, seed, variant))
    for split, images in (("test", splits.test), ("validation", splits.validation)):
        found[split] = {"victim": accuracy(victim, images, splits), "pair": accuracy(module, images, splits)}
    return {**found, "predicted": predict(costs.victim_file("fp32"), file).as_json()}


def _keep(folder: Path, victim: Path, place: Path) -> None:
    """Copy the files of a pair to where ``build/bench`` finds them."""
    if place.suffix:
        shutil.copyfile(folder / CPM_FILE, place)
        return
    place.mkdir(parents=True, exist_ok=True)
    for file, name in ((folder / BACKBONE_FILE, BACKBONE_FILE), (folder / CPM_FILE, CPM_FILE), (victim, VICTIM_FILE)):
        shutil.copyfile(file, place / name)


def _guessed(found: Record, splits: Splits) -> Record:
    """Who sees no network guesses."""
    guess = {"backbone_alone": 1 / len(splits.classes)}
    return {**found, **{split: {**found[split], **guess} for split in ("test", "validation")}}


def _shows(strategy: Strategy) -> bool:
    """Whether a network is exposed."""
    return strategy.kind == "mirror" and needs_backbone(strategy)


def measured(context: Context, path: Path) -> int:
    """Put into the records what ``build/bench`` measured; :data:`BENCH` is its command.

    Args:
        context: whose records are completed.
        path: the JSON file.

    Returns:
        How many records were completed.

    Raises:
        ResultsError: it is no such file, or has no strategy that there is a record of.
    """
    try:
        content = json.loads(path.read_text())
        found = {(line["suite"], line["name"], line.get("where", ""), line["metric"]): line["value"]
                 for line in (content if isinstance(content, list) else content["records"])}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} is not what was measured: {error}", "give what build/bench --json wrote") from error
    done = 0
    for kept in sorted((context.work / "records").glob("mirror_*.json")):
        record = json.loads(kept.read_text())
        name, whole = (f"{record['model']}-{variant}-{record['seed']}" for variant in (record["variant"], "whole"))
        if _exposes(record):
            overhead = found.get(("mirror", name, "", "overhead"))
        else:
            inside, outside = (found.get(("models", *key, "instructions")) for key in ((name, "ta"), (whole, "normal")))
            overhead = inside / outside - 1 if inside and outside else None
        if overhead is not None:
            aside = kept.with_suffix(".new")
            aside.write_text(json.dumps({**record, "measured": {"overhead": overhead}}, indent=1) + "\n")
            aside.replace(kept)
            done += 1
    if not done:
        raise ResultsError(f"{path} has no strategy that there is a record of", f"measure with {BENCH}")
    return done


def _lost(record: Record) -> float:
    """Points of the test images that the pair is worse than the victim."""
    return 100 * float(record["test"]["victim"] - record["test"]["pair"])


def _gap(record: Record) -> float:
    """Points of the test images between the pair and what is exposed, used directly."""
    return 100 * float(record["test"]["pair"] - record["test"]["backbone_alone"])


def _gains(record: Record) -> list[Record]:
    """The attacks by somebody with data or queries."""
    return [line for line in record["attacks"] if line["attack"].partition(",")[0] not in NO_GAIN and "ratio" in line]


def strongest(record: Record) -> Record | None:
    """The attack that is furthest above the black box of the same budget, by the test images; None: it is that."""
    return max(_gains(record), key=lambda line: line["ratio"], default=None)


def _ratio(record: Record) -> float:
    line = strongest(record)
    return 1.0 if line is None else float(line["ratio"])


def _as_measured(records: list[Record]) -> list[Record]:
    """The same, with what one seed was measured for all of that strategy and of the same shapes: weights cost alike."""

    def like(record: Record) -> tuple[str, str, float]:
        return record["model"], record["summary"], record["predicted"]["overhead"]

    found = {like(record): record["measured"] for record in records if "measured" in record}
    return [{"measured": found[like(record)], **record} if like(record) in found else record for record in records]


def _overhead(record: Record) -> float:
    """Measured, where it was, else predicted; a share of the unprotected model."""
    return float(record["measured"]["overhead"] if "measured" in record else record["predicted"]["overhead"])


def figures(record: Record) -> dict[str, float]:
    """A record's numbers; ratios of every attack and budget."""
    predicted = record["predicted"]
    found = {**record["test"], "points_lost": _lost(record), "gap": _gap(record), "ratio": _ratio(record),
             "overhead_predicted": predicted["overhead"], "secure_memory": predicted["secure_memory"],
             "bytes_in": predicted["bytes_in"]}  # fmt: skip
    if "measured" in record:
        found["overhead_measured"] = record["measured"]["overhead"]
    ratios = {f"{line['attack']}, {line['budget']}: ratio": line["ratio"] for line in _gains(record)}
    return found | ratios


_POINTS: Callable[[float], str] = "{:.2f}".format
_SHARE: Callable[[float], str] = "{:.2%}".format
_CHANGE: Callable[[float], str] = "{:+.2%}".format


def goals(records: list[Record]) -> list[Goal]:
    """What was aimed at: accuracy of each kind of pair, and for each seed whether a strategy reaches the rest."""
    found = grouped(_as_measured(records))
    lines = []
    for variant in NAMES:
        models = [model for model in MODELS if variant in wanted(model) and variant not in ("whole", "pruned")]
        for model in models:
            lost = [_lost(record) for record in found.get((model, variant), [])]
            lines.append(Goal(f"MirrorNet ({variant}): at most {LOST:g} point lost", model,
                              spread(lost, _POINTS) if lost else "", [value <= LOST for value in lost]))  # fmt: skip
    for model in MODELS:
        every = [record for (name, _), own in found.items() if name == model for record in own]
        pairs = [record for record in every if _exposes(record)]
        gaps = [_gap(record) for record in pairs]
        told = f"at least {min(gaps):.1f}" if gaps else ""
        aim = f"MirrorNet: points between every pair and its backbone at least {GAP:g}, better {WIDER:g}"
        lines.append(Goal(aim, model, told, [min(gaps) >= GAP] if gaps else []))
        cheap = [record for record in every if _overhead(record) <= OVERHEAD and _gap(record) >= GAP]
        for aim, of, able in (
            (f"a pair that adds at most {OVERHEAD:.2%} with this gap and at most {LOST:g} point lost", pairs,
             [record for record in cheap if _exposes(record)]),
            (f"a pair, or all in the TA, adding at most {OVERHEAD:.2%}, at most {LOST:g} point lost", every, cheap),
            (f"a strategy with all attacks at most {RATIO:g} of the black box and at most {LOST:g} point lost", every,
             [record for record in every if _ratio(record) <= RATIO]),
        ):  # fmt: skip
            chosen = _chosen(of, [record for record in able if _lost(record) <= LOST])
            # where none will do, all of them are judged
            judged = [record for record in chosen if record] if all(chosen) else of
            lines.append(Goal(f"MirrorNet: {aim}", model, _tell(chosen), [record is not None for record in chosen],
                              note=attacks.how(judged, effort)))  # fmt: skip
    return lines


def _chosen(every: list[Record], able: list[Record]) -> list[Record | None]:
    """For each seed the strategy of least overhead among those that do; None where none does."""
    seeds = sorted({record["seed"] for record in every})
    return [min((r for r in able if r["seed"] == seed), key=_overhead, default=None) for seed in seeds]


def _tell(chosen: list[Record | None]) -> str:
    told = [f"{r['variant']}, {_overhead(r):+.2%}, ratio {_ratio(r):.2f}" if r else "none" for r in chosen]
    return "; ".join(dict.fromkeys(told))


def parts(records: list[Record]) -> list[str | Table]:
    """The section: strategies, means over seeds, the fronts, each seed, and all attacks."""
    groups = grouped(records, tuple(NAMES))
    models = list(dict.fromkeys(model for model, _ in groups))
    found: list[str | Table] = [
        "What strategies consist of is told in [mirrornet.md](mirrornet.md). The unprotected model runs in the normal "
        "world, by the same engine. What a pair adds to its instructions, both worlds and the boundary counted, is "
        "*predicted* by the model of [estimate.md](estimate.md) and, where there is a figure, *measured* on the "
        f"emulated device by `{BENCH}`; among the aims and in the plots "
        "it stands for other seeds, too. *Gap*: points between the pair and the backbone, used as it is exposed; where "
        "no network is exposed, it is to a guess. *Strongest*: of all attacks and budgets the highest ratio of the "
        "attacker's accuracy to that of the black box with the same budget, chosen by the test images, so in the "
        "attacker's favour.",
        "`whole` and `pruned` are the other end: nothing is exposed, and who asks the device is the black box, so the "
        "ratio is 1 without a trial. Our TA computes with the same kernels as the normal world. What `whole` costs is "
        "therefore the boundary, and secure memory; where that is to be had, no pair protects better.",
        Table("", ["network", "strategy", "what it is", "in full"], [
            [model, name, NAMES.get(name, ""), own[0]["summary"]] for (model, name), own in groups.items()
        ]),
        "### Pairs: accuracy, costs, and the strongest attack",
        Table("", [*_HEADS[:2], "seeds", *_HEADS[2:]],
              [[model, name, seeds_of(own), *_cells(own)] for (model, name), own in groups.items()]),
    ]  # fmt: skip
    found += [f"![overhead and attacks, {model}]({PLOTS}/{_picture(model)})" for model in models]
    rows = [[model, name, str(record["seed"]), *_cells([record])]
            for (model, name), own in groups.items() for record in own]  # fmt: skip
    found += ["### Pairs, each seed", Table("", [*_HEADS[:2], "seed", *_HEADS[2:]], rows)]
    steps = [_efforts(records, model) for model in models if any(r["model"] == model and r["attacks"] for r in records)]
    found += [
        "### Attacks on pairs",
        "As in the section on attacks; with few steps attackers are weaker than they could be, and so is the black "
        f"box. Below {THRIFTY:g} of the effort they also try two learning rates in place of three, validate three "
        "times in a training, and choose on 500 images.",
        Table(
            "",
            [
                "network",
                "epochs of pairs",
                "of CPMs alone behind them",
                "attackers' steps in a training",
                "in short trials",
                "learning rates",
                "seeds",
            ],
            steps,
        ),
        *attacks.older(records, "attacks on pairs of"),
        f"Each cell: {CELL}.",
    ]
    for model in models:
        lines = [line for (name, _), own in groups.items() if name == model for r in own for line in r["attacks"]]
        for table in tables(lines, attacks.BLACK):
            found += [f"#### Pairs of {model}: {table.title[0].lower()}{table.title[1:]}", table._replace(title="")]
    return found


_HEADS = [
    "network", "strategy", "victim", "pair", "points lost", "backbone alone", "gap", "added, predicted",
    "added, measured", "peak secure memory", "bytes across", "strongest", "by",
]  # fmt: skip


def _cells(own: list[Record]) -> list[str]:
    values = [figures(record) for record in own]

    def told(key: str, tell: Callable[[float], str]) -> str:
        there = [value[key] for value in values if key in value]
        return spread(there, tell) if there else ""

    best = [line for record in own if (line := strongest(record)) is not None]
    by = "; ".join(dict.fromkeys(f"{title(line['attack'])}, {line['budget']}" for line in best))
    alone = told("backbone_alone", _SHARE)
    return [
        told("victim", _SHARE), told("pair", _SHARE), told("points_lost", _POINTS),
        alone if _exposes(own[0]) else f"{alone}, a guess", told("gap", "{:.1f}".format),
        told("overhead_predicted", _CHANGE), told("overhead_measured", _CHANGE),
        told("secure_memory", lambda value: f"{value / 1024:,.0f} KiB"), told("bytes_in", "{:,.0f}".format),
        told("ratio", _POINTS), by or "by construction",
    ]  # fmt: skip


def _exposes(record: Record) -> bool:
    return _shows(Strategy.from_json(record["strategy"]))


def _efforts(records: list[Record], model: str) -> list[str]:
    own = [record for record in records if record["model"] == model and record["attacks"]]
    tried = [effort(CASES[model], share) for share in sorted({r["epochs_share"] * r["effort_share"] for r in own})]
    rates = " or ".join(", ".join(f"{rate:g}" for rate in e.rates) for e in tried)
    steps = [" or ".join(f"{getattr(e, key):,}" for e in tried) or "none run" for key in ("steps", "trial")]
    epochs = [" or ".join(dict.fromkeys(str(record["epochs"][key]) for record in own)) for key in ("together", "final")]
    return [model, *epochs, *steps, rates, ", ".join(str(seed) for seed in sorted({record["seed"] for record in own}))]


def _picture(model: str) -> str:
    return f"mirror-{model}.svg"


def pictures(records: list[Record]) -> dict[str, str]:
    """For each network the front between overhead and the strongest attack: SVG text by file name."""
    groups = grouped(_as_measured(records), tuple(NAMES))
    found = {}
    for model in dict.fromkeys(model for model, _ in groups):
        points = []
        for (_, name), own in ((key, own) for key, own in groups.items() if key[0] == model):
            ratios, lost = [_ratio(record) for record in own], [_lost(record) for record in own]
            x, y = sum(map(_overhead, own)) / len(own), sum(ratios) / len(own)
            note = f"{name}: {x:+.2%}, ratio {y:.2f}, {sum(lost) / len(lost):.2f} points lost; {own[0]['summary']}"
            points.append(Point(name, x, y, (min(ratios), max(ratios)), sum(lost) / len(lost) <= LOST, note))
        tried = attacks.steps_of((record for record in records if record["model"] == model), effort)
        heading = f"{model}: what strategies cost, and what attackers gain" + (f", {tried}" if tried else "")
        # records of strategies that have meanwhile been renamed are shown, too
        names = tuple(dict.fromkeys((*NAMES, *(point.name for point in points))))
        found[_picture(model)] = draw(heading, points, names, (OVERHEAD, RATIO))
    return found

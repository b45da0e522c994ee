# SPDX-License-Identifier: BSD-2-Clause
"""The attack bench on each protection, between the victim as white box and as black box."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from cloister.attack import Effort, Exposed, SeenRun, bench
from cloister.attack.attacker import METHOD
from cloister.attack.picture import draw
from cloister.attack.table import CELL, GROUPS, Table, group, spread, tables, title
from cloister.protect.edgepro.exposed import LeakedLock
from cloister.protect.prune import PrunedInClear
from cloister.protect.results import edgepro, pruning
from cloister.protect.results.cases import CASES, MODELS, Case
from cloister.protect.results.context import PLOTS, Context, Record, precision_of
from cloister.protect.results.summary import Goal, grouped, seeds_of
from cloister.protect.training import network

TITLE = "Attacks"

#: What is attacked: locks as ``edgepro`` names them, the pruned network in clear, and :data:`SEEN` by reading an
#: authorised run, which the compiler would have to show.
DEFAULT = ("turned", "mixed", "published", "pruned", "runs seen")
#: What can be.
VARIANTS = (*DEFAULT, "constants")
SEEN = "turned"
#: The bounds, as records name them.
WHITE, BLACK = "white box", "black box"
#: The budget that locks are judged by, and the points that an attacker may be above the black box then.
MOST, ABOVE = "10 % of the data", 2.0


def wanted(_model: str) -> tuple[str, ...]:
    """Names of what a plain run makes."""
    return (WHITE, *DEFAULT, BLACK)


def effort(case: Case, share: float) -> Effort:
    """What attackers have: the owner's augmentation and precision, and that share of the steps.

    On the digits, which only try the scripts out, they hardly try.
    """
    if case.network == "digits":
        return Effort((0.1,), (50,), (0.05,), (0.1,), epochs=3, steps=60, trial=20, pruned=(0.1,),
                      augmentation=case.recipe.augmentation)  # fmt: skip
    full = Effort(augmentation=case.recipe.augmentation, precision=case.recipe.precision)
    steps, trial = (max(20, round(count * share)) for count in (full.steps, full.trial))
    return replace(full, steps=steps, trial=trial)


def target(context: Context, case: Case, seed: int, variant: str) -> Exposed:
    """What is attacked under that name; "runs seen" is :data:`SEEN` with all locked tensors of authorised runs."""
    splits = context.splits(case)
    if variant == "pruned":
        return PrunedInClear(pruning.pruned(context, case, seed).module, splits, variant)
    if variant == "runs seen":
        return SeenRun(edgepro.locked(context, case, seed, SEEN), splits, name=f"{SEEN}, runs seen")
    return LeakedLock(edgepro.locked(context, case, seed, variant), splits, variant)


def run(context: Context, case: Case, seed: int, variants: tuple[str, ...] = DEFAULT) -> list[Record]:
    """A record for each target and both bounds: under ``attacks`` the bench's, under ``method`` what attackers did."""
    splits = context.splits(case)
    if case.network == "digits" and variants == DEFAULT:
        variants = ("turned", "pruned", "runs seen")

    def attack(*targets: Exposed, attacks: tuple[str, ...] | None = None) -> list[Record]:
        return bench(
            targets, splits, context.victim(case, seed), attacks=attacks, seed=seed,
            effort=effort(case, context.epochs * context.effort),
            architecture=lambda number: network(case.network, splits.shape[0], len(splits.classes), number),
            folder=context.work / f"attacks-{case.name}-{seed}", device=context.device, quiet=context.quiet,
        ).records  # fmt: skip

    records = []
    for name in (WHITE, *variants, BLACK):

        def measure(name: str = name) -> Record:
            if name.endswith("box"):  # the bench always runs both; what is there is not computed again
                found = [record for record in attack() if record["target"].startswith(name)]
            elif name == "runs seen":
                shown = attack(target(context, case, seed, name), attacks=("observe",))
                found = [record for record in shown if record["target"].endswith(name)]
            else:
                found = [r for r in attack(target(context, case, seed, name)) if r["target"] == name]
            return {"attacks": found, "method": METHOD, "locks": edgepro.LOCKS}

        records.append(context.once("attacks", case, seed, measure, outdated, target=name))
    return records


def outdated(record: Record) -> bool:
    """Whether attackers or locks were others than they are now; what was not attacked is never outdated."""
    # earlier versions looked at runs of another lock
    seen = {line.get("target") for line in record["attacks"]} if record.get("target") == "runs seen" else set()
    other = bool(seen - {f"{SEEN}, runs seen"})
    return bool(record["attacks"]) and (record.get("method") != METHOD or edgepro.outdated(record) or other)


def older(records: Iterable[Record], whose: str) -> list[str]:
    """A sentence on records of an older bench, if there are any; plain runs make them anew, the page does not.

    Args:
        records: of attacks, or of pairs with attacks on them.
        whose: what was attacked, in words, as far as the network's name.
    """
    counted: dict[str, list[bool]] = {}
    for record in records:
        if record["attacks"]:
            counted.setdefault(record["model"], []).append(outdated(record))
    told = [f"{sum(old)} of the {len(old)} records of {whose} {model}" for model, old in counted.items() if any(old)]
    if not told:
        return []
    return [
        f"Of an older bench are {', '.join(told)}: attackers and black box did something else there than they do now, "
        "so their figures are not comparable with others. The commands above make these records anew."
    ]


def steps_of(records: Iterable[Record], tried: Callable[[Case, float], Effort] = effort) -> str:
    """How many of the full effort's steps the attackers of these records of a network trained; empty for none.

    Args:
        records: with ``model`` and the shares of the epochs and of the effort.
        tried: from a network and a share to the effort.
    """
    found = {
        tried(CASES[r["model"]], r["epochs_share"] * r.get("effort_share", 1.0)).steps for r in records if r["attacks"]
    }
    whole = Effort().steps
    told = " or ".join("all" if steps == whole else f"{steps:,}" for steps in sorted(found))
    return f"attackers with {told} of {whole:,} steps" if found else ""


def how(records: Iterable[Record], tried: Callable[[Case, float], Effort] = effort) -> str:
    """What is to be known beside an aim's figure: :func:`steps_of`, and whether it is of an older bench."""
    records = list(records)
    told = steps_of(records, tried)
    return f"{told}, on an older bench" if any(map(outdated, records)) else told


def figures(record: Record) -> dict[str, float]:
    """A record's numbers: of each attack and budget accuracy, fidelity, and what is above the black box."""
    return {
        f"{line['attack']}, {line['budget']}: {key}": line[key]
        for line in record["attacks"]
        for key in ("accuracy", "fidelity", "ratio", "above")
        if key in line
    }


def _of(records: list[Record], model: str) -> list[Record]:
    """The bench's records of a network: white box first, black box last."""
    ordered = grouped([record for record in records if record["model"] == model], (*wanted(model)[:-1], "", BLACK))
    return [line for own in ordered.values() for record in own for line in record["attacks"]]


def strongest(record: Record) -> Record | None:
    """The attack with the most data that did best on the test images, against the black box with the same data."""
    compared = [line for line in record["attacks"] if line["budget"] == MOST and "above" in line]
    return max(compared, key=lambda line: line["above"], default=None)


def _strongest(own: list[Record]) -> list[Record]:
    return [found for record in own if (found := strongest(record)) is not None]


def goals(records: list[Record]) -> list[Goal]:
    """What was aimed at, for this project's locks."""
    found = grouped(records)
    lines = []
    for variant in edgepro.OWN:
        aim = f"EdgePro ({variant}): the best attacker with {MOST} at most {ABOVE:g} points above training from scratch"
        for model in MODELS:
            own = found.get((model, variant), [])
            above = [100 * line["above"] for line in _strongest(own)]
            told = f"{spread(above, '{:+.2f}'.format)} points" if above else ""
            lines.append(Goal(aim, model, told, [value <= ABOVE for value in above], note=how(own)))
    return lines


def parts(records: list[Record]) -> list[str | Table]:
    """The section: how hard attackers tried, the best of them, and tables and plots for each network."""
    models = list(dict.fromkeys(model for model, _ in grouped(records)))
    found: list[str | Table] = [
        "The attacks, and what attackers are given, are described in [attacks.md](attacks.md). `turned`, `mixed`, "
        "`published` and `constants` are locked networks whose locked weights have all leaked, `pruned` is the pruned "
        f"network in clear; `{SEEN}, runs seen` shows all locked tensors of authorised runs, which the compiler "
        "refuses to plan. "
        "The white box is the unprotected network in clear; the black box answers labels, and no more. "
        f"In full, attackers train {Effort().steps:,} steps; with fewer they are weaker than they could be, and so is "
        "the black box. Trainings are whole passes over their images, at least one, so steps are rounded: with a tenth "
        "of CIFAR-10's training images 100 are 70, and short trials of 20 are 70 as well; `steps` in newer records "
        "is what was trained.",
        Table("", ["network", "steps of a training", "of short trials", "learning rates", "precision", "seeds"],
              [_efforts(records, model) for model in models]),
        *older(records, "attacks on"),
        "### The best attacker with a tenth of the data",
        f"Of all attacks with {MOST}, chosen by the test images, so in the attacker's favour; the black box trains "
        "fresh networks on the same images.",
        Table("", ["network", "target", "seeds", "black box", "best attack", "points above", "attack"],
              _best(records)),
    ]  # fmt: skip
    for model in models:
        own = _of(records, model)
        found += [f"### Attacks on {model}", f"Each cell: {CELL}."]
        for table in tables(own, _black(own)):
            found += [f"#### {model}: {table.title[0].lower()}{table.title[1:]}", table._replace(title="")]
            if group(own, table.title):
                found.append(f"![{table.title}]({PLOTS}/{_picture(model, table.title)})")
    return found


def _black(lines: list[Record]) -> str:
    return next((line["target"] for line in lines if line["target"].startswith(BLACK)), "")


def _efforts(records: list[Record], model: str) -> list[str]:
    """A row: what the attackers of that network had, as far as its records tell."""
    own = [record for record in records if record["model"] == model]
    case = CASES[model]
    shares = sorted({record["epochs_share"] * record.get("effort_share", 1.0) for record in own})
    tried = [effort(case, share) for share in shares]
    precision = sorted({record.get("precision", precision_of(case)) for record in own})
    return [
        model, *(" or ".join(f"{getattr(e, key):,}" for e in tried) for key in ("steps", "trial")),
        ", ".join(f"{rate:g}" for rate in tried[0].rates), " or ".join(precision),
        ", ".join(str(seed) for seed in sorted({record["seed"] for record in own})),
    ]  # fmt: skip


def _best(records: list[Record]) -> list[list[str]]:
    rows = []
    for (model, name), own in grouped(records, wanted("")).items():
        best = _strongest(own)
        if name == BLACK or not best:
            continue
        rows.append([
            model, name, seeds_of(own), *(spread([line[key] for line in best], lambda value: f"{value:.1%}")
                                          for key in ("black_box", "accuracy")),
            spread([100 * line["above"] for line in best], lambda value: f"{value:+.2f}"),
            "; ".join(dict.fromkeys(title(line["attack"]) for line in best)),
        ])  # fmt: skip
    return rows


def _picture(model: str, name: str) -> str:
    return f"attacks-{model}-{list(GROUPS).index(name) + 1}.svg"


def pictures(records: list[Record]) -> dict[str, str]:
    """A plot for each network and group of attacks: SVG text by file name."""
    found = {}
    for model, _ in grouped(records):
        own, tried = _of(records, model), steps_of(record for record in records if record["model"] == model)
        targets = list(dict.fromkeys(line["target"] for line in own))
        for name in GROUPS:
            if chosen := group(own, name):
                found[_picture(model, name)] = draw(chosen, f"{model}: {name}, {tried}", targets)
    return found

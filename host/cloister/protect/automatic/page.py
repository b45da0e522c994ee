# SPDX-License-Identifier: BSD-2-Clause
"""The report as one HTML file that fetches nothing: text, tables, and pictures as inline SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from cloister.attack.table import title as attack_title
from cloister.protect.automatic.drawing import draw
from cloister.protect.automatic.measure import UNIT
from cloister.protect.strategy import Strategy
from cloister.search import Budget
from cloister.search.budget import size

#: Of costs, those in the unit of the prediction, and those in bytes, that are predicted and measured.
OPERATIONS = ("unprotected", "normal_world", "secure_world", "boundary", "total")
BYTES = ("loaded", "bytes_in")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1d2429;background:#fff;max-width:1000px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em;border-bottom:1px solid #d5dadd}
table{border-collapse:collapse;font-size:13px}th,td{padding:3px 10px;text-align:right;border-bottom:1px solid #e8ebed}
th:first-child,td:first-child{text-align:left}svg{max-width:100%;min-width:680px;height:auto}.wide{overflow-x:auto}
.good{color:#1b7a3d;font-weight:600}.bad{color:#b3261e;font-weight:600}code{font-size:12px;overflow-wrap:anywhere}
"""


def page(report: dict[str, Any], front: str, curves: str, attacks: str) -> str:
    """The HTML text.

    Args:
        report: as ``report.json`` has it.
        front: picture of the front, SVG.
        curves: how the attacks grow with what an attacker has, SVG.
        attacks: picture of all attacks, SVG.
    """
    budget, chosen = Budget(**report["budget"]), report["chosen"]
    name, network = escape(report["model"]), report["network"]
    drawing = draw(network["tensors"], network["crossing"], Strategy.from_json(chosen["strategy"]))
    parts = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{name}, protected</title>", f"<style>{STYLE}</style>", "</head>", "<body>",
        f"<h1>{name}, protected</h1>",
        *(f'<p class="bad">{escape(text[0].upper() + text[1:])}.</p>' for text in _warnings(report)),
        _summary(report, budget),
        "<h2>Why this strategy</h2>",
        *(f"<p>{escape(line)}</p>" for line in report["why"].splitlines()),
        *(f"<p>{line}</p>" for line in _explained(report)),
        f'<div class="wide">{front}</div>',
        "<h2>The network</h2>",
        f'<div class="wide">{drawing}</div>',
        "<h2>Costs of one inference: predicted and measured</h2>",
        _costs(report),
        "<h2>Attacks, between their two bounds</h2>",
        _bounds(report),
        f'<div class="wide">{curves}</div>',
        f'<div class="wide">{attacks}</div>',
        "<h2>All that was trained</h2>",
        _tried(report),
        "</body>", "</html>", "",
    ]  # fmt: skip
    return "\n".join(parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    lines = ['<div class="wide"><table>', "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table></div>"])


def _warnings(report: dict[str, Any]) -> list[str]:
    found = list(report["warnings"])
    if report["earlier_bundle"] is not None:
        found.append(
            f"no bundle was made, since nothing keeps the budget; {report['earlier_bundle']}, which lies here, and its "
            "files are of an earlier run, and not what this page tells of"
        )
    if report["resident"] is not None:
        memory = size(report["budget"]["memory"])
        found.append(
            f"measured was everything resident; within {memory} the TA swaps partitions, which takes more: that is "
            "predicted, and was not measured"
        )
    return found


def _where(report: dict[str, Any]) -> str:
    """What heads of measured figures say beside."""
    where = "" if report["prediction"]["unit"] == UNIT else f" in {UNIT} of the emulated device"
    return where + ("" if report["resident"] is None else ", all resident")


def _taken(data: dict[str, Any]) -> str:
    """What whoever runs the model must know: how images are normalised, and which class a label is."""
    mean, std = (", ".join(f"{value:.6g}" for value in data[key]) for key in ("mean", "std"))
    names = ", ".join(f"{label} {name}" for label, name in enumerate(data["class_names"]))
    scale = "bytes brought to 0 to 1 before"
    return (
        f"<p>The model takes (pixels - mean) / std of each channel, {scale}, with mean <b>{mean}</b> and std "
        f"<b>{std}</b>. Labels and classes: {escape(names)}.</p>"
    )


def _mark(good: bool, text: str) -> str:
    return f'<span class="{"good" if good else "bad"}">{escape(text)}</span>'


def _summary(report: dict[str, Any], budget: Budget) -> str:
    figures, right, data = report["chosen"]["figures"], report["accuracy"], report["data"]
    unit = report["prediction"]["unit"]
    rows = []
    limits: tuple[tuple[str, str, float | None, Callable[[float], str]], ...] = (
        ("secure memory", "memory", budget.memory, size),
        (f"{unit} added", "overhead", budget.overhead, lambda value: f"{100 * value:.4g} %"),
        ("points of accuracy lost, validation images", "lost", budget.accuracy, lambda value: f"{value:.3g}"),
    )
    for what, key, limit, tell in limits:
        found = tell(figures[key])
        shown = escape(found) if limit is None else _mark(figures[key] <= limit, found)
        rows.append([escape(what), shown, "no limit" if limit is None else escape(tell(limit))])
    if report["measured"] is not None:
        found, limit = report["measured"]["overhead"], budget.overhead
        shown = f"{100 * found:.4g} %"
        if report["resident"] is not None or unit != UNIT:
            # not what the bundle does, or not what the budget is of
            rows.append([f"{UNIT} added, measured{_where(report)}", escape(shown), "not to be compared"])
        else:
            rows.append(
                [
                    "the same, measured",
                    escape(shown) if limit is None else _mark(found <= limit, shown),
                    "no limit" if limit is None else f"{100 * limit:.4g} %",
                ]
            )
    details = figures["details"]
    locked = right["without_password"] is not None
    facts = [
        ["accuracy of the unprotected model, test images", f"{right['victim']:.2%}"],
        [f"accuracy of the protected model{', with the password' if locked else ''}", f"{right['protected']:.2%}"],
        *([["the same without the password", f"{right['without_password']:.2%}"]] if locked else []),
        ["accuracy of what is exposed, used as it is", f"{right['exposed_alone']:.2%}"],
        ["strongest attack, as a ratio to the black box (validation images; chosen by this)", f"{figures['gain']:.3f}"],
        ["the same on test images", f"{details['gain_test']:.3f}"],
        ["bytes that cross into the secure world", f"{figures['boundary']:,}"],
    ]
    images = f"{data['training']:,} training, {data['validation']:,} validation and {data['test']:,} test images"
    return "\n".join(
        [
            f"<p>Strategy: <b>{escape(report['chosen']['summary'])}</b>. Data: {escape(data['name'])}, {images}, "
            f"{data['classes']} classes.</p>",
            _taken(data),
            _table(["", "found", "budget"], rows),
            "<p></p>",
            _table(["", ""], facts),
        ]
    )


def _explained(report: dict[str, Any]) -> list[str]:
    """What must be known of a pruned or a locked model, and what comes next; HTML."""
    right, lines, pair = report["accuracy"], [], report["chosen"]["strategy"]["kind"] == "mirror"
    if report["pruned_left"] is not None:
        lines.append(
            f"The model was pruned first: {report['pruned_left']:.1%} of its multiply-accumulates are left, with "
            f"{right['pruned']:.2%} of the test images right before anything else was done. Points lost and "
            f"{report['prediction']['unit']} added are counted against the model as it was given, so that pruning can "
            "make the overhead negative."
        )
    if right["without_password"] is not None:
        lines.append(
            "The model is locked (EdgePro): it answers as above where the licence carries the password, and without it "
            f"gives {right['without_password']:.2%} of the test images their label. The attacks below hold <b>all "
            f"locked weights in clear</b>{' beside the backbone' if pair else ''}, without the password. In the bundle "
            "these are sealed; so this is what remains if the bundle's content key has leaked. A model that is not "
            "locked is attacked here as its bundle protects it, which is harder: the two are not to be compared."
        )
    if report["next"]:
        commands = "".join(f"<br><code>{escape(command)}</code>" for command in report["next"])
        lines.append(f"What comes next:{commands}")
        labels = ", ".join(map(str, report["sample"]))
        lines.append(f"The images of the last command have the labels {labels}.")
    return lines


def _costs(report: dict[str, Any]) -> str:
    told, measured, resident = report["prediction"], report["measured"], report["resident"]
    # all is resident where it is measured, and only the same kind of cost can be compared
    like = resident or told
    comparable = (*BYTES, *(OPERATIONS if told["unit"] == UNIT else ()))
    lines = (
        ("unprotected model", "unprotected"), ("normal world", "normal_world"), ("secure world", "secure_world"),
        ("boundary", "boundary"), ("together", "total"), ("overhead", "overhead"), ("secure memory", "secure_memory"),
        ("of it what lies beside the TA's own", "loaded"),
        ("bytes into the secure world", "bytes_in"), ("invocations of the TA", "crossings"),
    )  # fmt: skip
    rows = []
    for what, key in lines:
        found = None if measured is None else measured.get(key)
        row = [what, _cost(key, told[key]), *([] if resident is None else [_cost(key, resident[key])])]
        if measured is not None:
            near = f"{like[key] / found - 1:+.1%}" if found and key in comparable else ""
            row += ["" if found is None else _cost(key, found), near]
        rows.append(row)
    heads = [
        f"{told['unit']}, unless it says else",
        "predicted",
        *([] if resident is None else ["predicted, all resident"]),
        *([] if measured is None else [f"measured{_where(report)}", "prediction off by"]),
    ]
    text = f"<p>The prediction is about {told['error']:.1%} off in two of three cases, by its calibration"
    if held := (told.get("evaluation") or {}).get("total"):
        text += (
            f"; held against {held['strategies']} strategies that were measured, predictions were {held['median']:.1%} "
            f"off in the median and {held['worst']:.1%} at worst"
        )
    if told["extrapolated"] > 0:
        parts = sorted({part["kind"] for part in told["extrapolations"]})
        text += f"; {told['extrapolated']:.1%} of it rests on no measurement ({escape(', '.join(parts))})"
    more = "" if measured else " Nothing was measured: <code>--measure qemu</code> does that."
    return f"{_table(heads, rows)}\n{text}.{more}</p>"


def _cost(key: str, value: float) -> str:
    if key == "overhead":
        return f"{100 * value:.2f} %"
    return size(value) if key in ("secure_memory", "loaded") else f"{value:,.0f}"


def _bounds(report: dict[str, Any]) -> str:
    about, records = report["attacks"]["about"], report["attacks"]["records"]
    by = {(record["target"], record["attack"], record["budget"]): record for record in records}
    rows = []
    for record in records:
        if record["target"] in (about["black_box"], about["white_box"]):
            continue
        white = by.get((about["white_box"], record["attack"], record["budget"]))
        rows.append(
            [
                escape(f"{attack_title(record['attack'])}, {record['budget']}"),
                f"{record['black_box']:.1%}",
                f"<b>{record['accuracy']:.1%}</b>",
                "" if white is None else f"{white['accuracy']:.1%}",
                f"{record['ratio']:.2f}",
            ]
        )
    text = (
        f"<p>{_effort(report)}</p>"
        "<p>Accuracy on test images of what the attacker has in the end. The black box is what anybody gets who can "
        "only ask the device for labels; the white box is the unprotected model in the attacker's hands. A protection "
        "that exposes nothing of use is as good as the black box: ratio 1.</p>"
    )
    return text + _table(["attack", "black box", "protected", "white box", "ratio to the black box"], rows)


def _effort(report: dict[str, Any]) -> str:
    """How hard attackers tried and how long pairs were trained: figures of others are not to be compared."""
    effort, full = report["attacks"]["about"]["effort"], report["settings"]["full"]
    shares, rates = ", ".join(f"{share:.3g}" for share in effort["shares"]), ", ".join(map(str, effort["rates"]))
    queries = ", ".join(f"{count:,}" for count in effort["queries"])
    return (
        f"How hard they tried: trainings of {effort['steps']:,} steps with {effort['batch']} images each, the best of "
        f"{effort['epochs']} looks at them and of the learning rates {rates} (told apart in {effort['trial']:,}); "
        f"with a share of {shares} of the labelled training images, or {queries} answers of the device. Pairs are "
        f"trained for {full['epochs']} epochs, and the CPM for {full['final']} more."
    )


def _tried(report: dict[str, Any]) -> str:
    tried = report["tried"]
    rows = []
    for record in report["records"]:
        figures = record["figures"]
        summary, stage = escape(record["summary"]), escape(f"{record['stage']} {record['number']}")
        if figures is None:
            rows.append([summary, stage, "", "", "", "", escape(record["reason"] or record["state"])])
            continue
        rows.append(
            [
                summary, stage, f"{figures['gain']:.3f}", f"{100 * figures['overhead']:.2f} %",
                f"{figures['lost']:.2f}", escape(size(figures["memory"])),
                _mark(True, "kept") if record["fits"] else _mark(False, "exceeded"),
            ]
        )  # fmt: skip
    ended = "" if tried["complete"] else " The time limit ended the search; the same command goes on."
    text = (
        f"<p>{tried['estimates']} strategies were estimated, {tried['proxies']} trained briefly and "
        f"{tried['trainings']} in full; together that took as much as {tried['cost']:.1f} full trainings.{ended} "
        f"Settings {escape(report['settings_digest'])}, seed {report['settings']['seed']}; all of them stand in "
        "<code>report.json</code>.</p>"
    )
    return text + _table(["strategy", "stage", "gain", "overhead", "lost", "memory", "budget"], rows)

# SPDX-License-Identifier: BSD-2-Clause
"""``cloister prune``: a smaller network of the same use, within an accuracy budget."""

from __future__ import annotations

from typing import Any

import click

from cloister.cli.common import human, show_facts, show_table
from cloister.cli.training import PRECISION, Training, training_command

EXAMPLE = """
\b
Examples:
  cloister prune my_models:network --checkpoint trained.pt --data images/ --budget-accuracy 1 -o pruned/
  cloister prune model.onnx --data data.npz --criterion taylor --steps 8 --target 0.125 -o pruned/
  cloister prune model.onnx --data data.npz -o pruned/ --measure qemu   # count instructions on the emulator
  cloister compile pruned/pruned_int8.onnx -o model.clb
  cloister edgepro pruned/pruned.onnx --data data.npz -o locked/        # prune first, then lock
"""


@training_command(
    EXAMPLE,
    click.option("--budget-accuracy", "budget", type=click.FloatRange(0),
                 help="Points that may be lost on the validation images [default: 1]."),
    click.option("--steps", type=click.IntRange(1), help="Steps to the target [default: 8]."),
    click.option("--target", type=click.FloatRange(0, 1, min_open=True, max_open=True),
                 help="Share of the multiply-accumulates that the last step leaves [default: 0.125]."),
    click.option("--criterion", type=click.Choice(["taylor", "l1", "l2", "bn", "median", "random"]),
                 help="How channels are ranked [default: taylor]."),
    click.option("--scope", type=click.Choice(["global", "layer"]),
                 help="Rank all channels together, or each layer's."),
    click.option("--weigh", type=click.Choice(["macs", "instructions", "none"]),
                 help="Rank a channel by its worth for the multiply-accumulates or instructions that it takes "
                      "[default: macs]."),
    click.option("--round-to", type=click.IntRange(1),
                 help="Layers keep a multiple of so many channels [default: 4]."),
    click.option("--distil", type=click.FloatRange(0, 1),
                 help="Share of the loss that the unpruned network teaches [default: 0.5]."),
    click.option("--epochs", type=click.IntRange(1), help="Of the fine-tuning after each step [default: 4]."),
    click.option("--final", type=click.IntRange(0), help="Epochs of the last fine-tuning [default: 12]."),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate [default: 0.02]."),
    PRECISION,
    click.option("--int8/--no-int8", default=True, show_default=True,
                 help="Also quantise the pruned model to 8 bits."),
    click.option("--measure", type=click.Choice(["qemu"]),
                 help="Count every step's instructions on the emulated device as well."),
)  # fmt: skip
def prune(
    training: Training, budget: float | None, steps: int | None, target: float | None, criterion: str | None,
    scope: str | None, weigh: str | None, round_to: int | None, distil: float | None, epochs: int | None,
    final: int | None, rate: float | None, precision: str, int8: bool, measure: str | None,
) -> None:  # fmt: skip
    """Remove channels of a trained MODEL step by step, as long as it answers nearly as well.

    MODEL is package.module:factory (with --checkpoint) or an ONNX file. Writes pruned.onnx, pruned.pt,
    pruned_int8.onnx, report.json, report.md and report.svg. Interrupted, the same command goes on where it was.
    """
    from cloister.protect import api
    from cloister.protect.prune import settings_with
    from cloister.protect.prune.report import cells

    settings = settings_with(
        budget=budget, steps=steps, target=target, criterion=criterion, scope=scope, weigh=weigh, round_to=round_to,
        least=round_to, distil=distil, epochs=epochs, final=final, rate=rate, augmentation=training.augmentation,
        precision=precision, seed=training.seed,
    )  # fmt: skip
    output = training.output
    report = api.prune(training.model, training.source, output, settings=settings, int8=int8,
                       measure=measure is not None, **training.common).report  # fmt: skip
    _, rows = cells(report["rows"])
    heads = ["network", "type", "valid.", "lost", "test", "MACs", "memory", "instr.", "in the TA"]
    kept = [0, 1, 2, 3, 4, 5, 8, 9, 10][: 9 if measure else 8]  # what fits a terminal; report.md has all
    show_table("Steps", heads[: len(kept)], [[row[place] for place in kept] for row in rows])
    facts: dict[str, object] = {}
    for key in ("unpruned", "pruned"):
        test, validated = report["test"][key], report["validation"][key]
        facts[key] = f"{test:.2%} of the test images, {validated:.2%} of the validation images"
    if not report["reached_target"]:
        reason = _refused(report)
        facts["target"] = f"not reached within {settings.budget:g} points{reason}; more --epochs or --steps may help"
        if report["exhausted"]:
            listed = ", ".join(report["whole"][:8]) + (", ..." if len(report["whole"]) > 8 else "")
            facts["target"] = f"not reached: no more channels can be removed; whole stay {listed} (see docs/pruning.md)"
    facts["training"] = f"{report['training_s']:.0f} s"
    # it is written only where something was removed
    quantised = any((row["step"], row["precision"]) == ("pruned", "int8") for row in report["rows"])
    facts["written"] = f"{output / 'pruned.onnx'} ({human((output / 'pruned.onnx').stat().st_size)}), report.json, " \
                       "report.md, report.svg" + (", pruned_int8.onnx" if quantised else "")  # fmt: skip
    show_facts(facts)


def _refused(report: dict[str, Any]) -> str:
    """Where the last step that was tried ended the pruning: by how much."""
    last = report["steps"][-1]
    if last["accepted"]:
        return ""
    most = report["settings"]["budget"] + report["settings"]["slack"]
    share = last["macs"] / report["macs"]["unpruned"]
    return f": at {share:.1%} of the multiply-accumulates {last['lost']:.2f} were lost; {most:g} may be"

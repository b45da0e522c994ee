# SPDX-License-Identifier: BSD-2-Clause
"""``cloister protect``: a model, data and a budget in; a protected bundle and the evidence out."""

from __future__ import annotations

from pathlib import Path

import click

from cloister.cli.common import human, show_facts
from cloister.cli.search import Duration
from cloister.cli.training import Training, training_command
from cloister.protect.strategy import FORMS

EXAMPLE = """
\b
Examples:
  cloister protect my_models:network --checkpoint trained.pt --data images/ \\
      --budget-memory 2MiB --budget-overhead 1% --budget-accuracy 1 -o protected/
  cloister protect model.onnx --data data.npz --budget-memory 2MiB --time-limit 30m -o protected/
  cloister protect model.onnx --data data.npz --measure qemu -o protected/   # measured beside the predictions
  cloister licence protected/pair.clb device.json -o pair.lic               # what comes next
"""


@training_command(
    EXAMPLE,
    click.option("--budget-memory", metavar="SIZE", help="Secure memory, such as 2MiB [default: no limit]."),
    click.option("--budget-overhead", metavar="SHARE",
                 help="Instructions that may be added, such as 1% of the unprotected model's [default: no limit]."),
    click.option("--budget-accuracy", metavar="POINTS", default="1", show_default=True,
                 help="Points of accuracy that may be lost."),
    click.option("--time-limit", type=Duration(), help="End the search with the best so far, such as 30m or 2h."),
    click.option("--name", help="The model's name on devices [default: the output folder's]."),
    click.option("--form", "forms", type=click.Choice(FORMS), multiple=True,
                 help="Consider this kind of protection only (repeat for more) [default: all]. pruned and locked, "
                      "beside others or alone, leave out what is not pruned or locked."),
    click.option("--quick", is_flag=True,
                 help="Few strategies, short trainings, weak attackers: to see what comes out, not how well it "
                      "protects. The options below still count."),
    click.option("--estimates", type=click.IntRange(1), help="Strategies that are estimated [default: 400]."),
    click.option("--proxies", type=click.IntRange(1), help="Of these trained briefly [default: 16]."),
    click.option("--trainings", type=click.IntRange(1), help="Of these trained in full [default: 3]."),
    click.option("--epochs", type=click.IntRange(1), help="Of full trainings [default: 15]."),
    click.option("--proxy-epochs", type=click.IntRange(1), help="Of short trainings [default: 4]."),
    click.option("--attack-steps", type=click.IntRange(1), help="Of an attacker's trainings [default: 2000]."),
    click.option("--attack", "attacks", multiple=True,
                 help="On strategies that are trained in full; repeat for more "
                      "[default: direct, finetune, steal, head]."),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate [default: 0.05]."),
    click.option("--batch", type=click.IntRange(1), help="Images in a step [default: 128]."),
    click.option("--study", help="Keep the search in this file or database, for workers on several machines "
                                 "[default: in the output folder]."),
    click.option("--measure", type=click.Choice(["qemu"]),
                 help="Count the instructions of what was chosen on the emulated device as well."),
    click.option("--keys", type=click.Path(path_type=Path),
                 help="Directory of the vendor's keys [default: yours; `cloister keys new` makes them]."),
)  # fmt: skip
def protect(
    training: Training, budget_memory: str | None, budget_overhead: str | None, budget_accuracy: str,
    time_limit: float | None, name: str | None, forms: tuple[str, ...], quick: bool, estimates: int | None,
    proxies: int | None, trainings: int | None, epochs: int | None, proxy_epochs: int | None, attack_steps: int | None,
    attacks: tuple[str, ...], rate: float | None, batch: int | None, study: str | None, measure: str | None,
    keys: Path | None,
) -> None:  # fmt: skip
    """Choose how the trained MODEL is protected within a budget, train that, and compile it.

    MODEL is package.module:factory (with --checkpoint) or an ONNX file. Strategies are estimated, the promising ones
    trained briefly and attacked, the best trained in full. Writes the bundle, its ONNX files, report.html (open it in
    a browser) and report.json. Interrupted, the same command goes on where it was.
    """
    from cloister.search.errors import need_optuna

    need_optuna()
    from cloister.protect import api
    from cloister.protect.automatic import settings_with
    from cloister.protect.automatic.measure import told

    settings = settings_with(
        estimates=estimates, proxies=proxies, trainings=trainings, epochs=epochs, proxy_epochs=proxy_epochs,
        attack_steps=attack_steps, attacks=attacks or None, rate=rate, batch=batch, forms=forms,
        augmentation=training.augmentation, seed=training.seed, quick=quick,
    )  # fmt: skip
    made = api.protect(
        training.model, training.source, training.output, budget_memory=budget_memory, budget_overhead=budget_overhead,
        budget_accuracy=budget_accuracy, name=name, settings=settings, study=study, time_limit=time_limit,
        measure=measure is not None, keys=keys, **training.common,
    )  # fmt: skip
    click.echo(made.found.why)
    right = made.report["accuracy"]
    without = right["without_password"]
    facts: dict[str, object] = {
        "test images": f"{right['victim']:.2%} unprotected, {right['protected']:.2%} protected, "
        f"{right['exposed_alone']:.2%} by what is exposed"
        + ("" if without is None else f", {without:.2%} without the password"),
        "bundle": f"{made.bundle} ({human(made.bundle.stat().st_size)})",
        "report": made.page,
    }
    if made.report["measured"] is not None:
        facts["measured"] = told(made.report)
    if made.password is not None:
        facts["password"] = f"{made.password} (secret; goes into licences)"
    for number, warning in enumerate(made.report["warnings"]):
        facts["WARNING" if number == 0 else f"WARNING {number + 1}"] = warning
    facts |= dict(zip(("next", "then", "and then"), made.next, strict=True))
    labels = ", ".join(map(str, made.report["sample"]))
    facts["labels"] = f"{labels}: of the images that the last command asks about"
    if not made.found.complete:
        facts["search"] = "ended by the time limit; the same command goes on"
    show_facts(facts)

# SPDX-License-Identifier: BSD-2-Clause
"""What the demo prints: headed steps, and one table at the end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cloister.cli.common import human
from cloister.demo.data import digits
from cloister.demo.kept import Kept
from cloister.demo.running import Result
from cloister.demo.settings import DemoSettings
from cloister.protect.strategy import Strategy

#: Share of right answers of one who guesses among ten digits, less what chance may take from that in 450 images.
GUESSING = 0.06


class Story:
    """Writes to a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._steps = 0

    def step(self, title: str) -> None:
        """A heading."""
        self._steps += 1
        self.console.print(f"\n[bold]{self._steps}. {title}[/bold]", soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of progress."""
        self.console.print(f"   {text}", markup=False, soft_wrap=True)

    def failed(self, text: str) -> None:
        """What went wrong."""
        self.console.print(f"demo: {text}", style="red", markup=False, soft_wrap=True)

    def begin(self, settings: DemoSettings) -> None:
        """What is given."""
        train, _, test, _ = digits()
        self.step("A model of yours, for devices that others own")
        self.say(f"it reads handwritten digits of 8 x 8 pixels; {len(train):,} images train it, {len(test)} test it")
        self.say(
            f"its protection may take {settings.budget_memory} of secure memory, {settings.budget_overhead} more "
            f"instructions, {settings.budget_accuracy} points of accuracy"
        )

    def chosen(self, kept: Kept) -> None:
        """Which strategy it became, in words."""
        strategy = Strategy.from_json(kept.report["chosen"]["strategy"])
        tensors = "one of its tensors" if len(strategy.taps) == 1 else f"{len(strategy.taps)} of its tensors"
        self.say(f"chosen: {strategy}")
        self.say("a MirrorNet pair: a backbone that anybody may read, trained until its own answers are worthless;")
        self.say(f"and in the TA a small network (CPM) that sees {tensors} and answers")
        self.say(f"report: {kept.page}")

    def end(self, result: Result, path: Path) -> None:
        """The table, and how it is to be read."""
        attack, taken = result.attack, result.instructions
        alike = round(result.label_agreement * result.images)
        good = sum(name != "not refused" for name in result.refused.values())
        session = human(result.secure_memory_session)
        boundary = taken["boundary"] / taken["unprotected"]
        below = f"{result.gap:.1f} points below the pair"
        effort = f"{attack['images']} images, {attack['steps']} steps"
        off = "so are all outputs, bit for bit"
        if result.max_abs_error:
            off = f"outputs by at most {result.max_abs_error / result.output_range:.1%} of their range off"
        rows = (
            ("accuracy on the test images", "", ""),
            ("  your model, unprotected", f"{result.victim_accuracy:.1%}", ""),
            ("  the protected pair, on the device", f"{result.accuracy:.1%}", ""),
            ("  the exposed backbone as it is", f"{result.backbone_accuracy:.1%}", below),
            ("    fine-tuned by a thief", f"{attack['backbone']:.1%}", effort),
            ("    from scratch, without it", f"{attack['scratch']:.1%}", "the same images and steps"),
            ("    from the unprotected model", f"{attack['white_box']:.1%}", "the same images and steps"),
            ("labels that are onnxruntime's", f"{alike} of {result.images}", off),
            ("instructions of an answer", f"{taken['unprotected']:,.0f}", "unprotected, counted on QEMU"),
            ("  protected, in both worlds", f"{taken['total']:,.0f}", f"{taken['overhead']:+.1%}"),
            ("  of these for the boundary", f"{taken['boundary']:,.0f}", f"{boundary:+.1%}"),
            ("secure memory of the pair", human(result.secure_memory_peak), f"about {session} with the TA's own"),
            ("tampering refused", f"{good} of {len(result.refused)}", ""),
        )  # fmt: skip
        self.step("What you get, and what you pay")
        for what, figure, note in rows:
            self.say(f"{what:<38}{figure:>10}  {note}".rstrip())
        self.console.print()
        more = 100 * (attack["backbone"] - attack["scratch"])
        self.say(f"To a thief who trains it on, the backbone is worth {more:+.1f} points here (more: the report).")
        if result.backbone_accuracy < GUESSING:
            self.say("Its own answers are worse than guessing: they avoid the right label, which tells something, too.")
        self.say("A network so small pays mostly for the boundary. ResNet-20's figure: docs/performance.md, Pairs.")
        self.say(f"report: {result.report}")
        self.say(f"figures: {path}")

# SPDX-License-Identifier: BSD-2-Clause
"""A strategy: everything that is chosen about how one model is protected. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from cloister.errors import CloisterError

#: "mirror": an exposed backbone and a Companion Partial Monitor (CPM) in the TA; "whole": all of the model in the TA.
Kind = Literal["mirror", "whole"]
#: Where the backbone's weights come from; see docs/mirrornet.md. "trained": the victim's, left as they are; "tampered":
#: the victim's, trained on until they are of little use to an attacker; "truncated": the victim's up to the last tap;
#: "random": drawn, never trained, so that they tell nothing about the owner's data.
Backbone = Literal["trained", "tampered", "truncated", "random"]
#: What answers the backbone's own logits behind the last tap: the victim's remaining layers, or one linear layer.
Tail = Literal["whole", "short"]
#: The CPM's convolutions.
Operator = Literal["conv3x3", "conv1x1", "separable"]
#: How a tap joins the CPM's state: added behind a 1x1 convolution, or concatenated before one.
Merge = Literal["add", "concat"]
#: What turns the CPM's last state into the input of its last layer: the mean of each channel, or all of its elements.
Head = Literal["average", "flatten"]
#: How a tap is made smaller.
PoolKind = Literal["average", "max"]
#: Which of a tap's channels cross: those that the victim's answer depends on most, or simply the first.
Select = Literal["saliency", "first"]
Precision = Literal["fp32", "int8"]

#: What a search can be narrowed to: some kinds of backbones, or the whole model in the TA; and beside these, or alone,
#: to pruned victims and to locked models.
FORMS: tuple[str, ...] = ("tampered", "random", "truncated", "trained", "whole", "pruned", "locked")

#: The tap that is the image itself. It crosses as it is, not reduced.
IMAGE = "image"
#: The tap that is the backbone's own answer.
LOGITS = "logits"

_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind), "backbone": get_args(Backbone), "tail": get_args(Tail), "operator": get_args(Operator),
    "merge": get_args(Merge), "head": get_args(Head), "pool_kind": get_args(PoolKind), "select": get_args(Select),
    "precision": get_args(Precision),
}  # fmt: skip


class StrategyError(CloisterError):
    """A strategy is not one; the message names the field and what it can be."""


@dataclass(frozen=True)
class Strategy:
    """What is chosen; hashable, and JSON both ways.

    Attributes:
        kind: see :data:`Kind`. Of "whole" only ``precision``, ``pruned`` and ``lock`` matter.
        taps: names of the tensors that the CPM sees, in the order in which they become ready. Names are those of
            ``cloister.protect.mirror.candidates``: the path of the module that makes them in the victim, ``image`` or
            ``logits``.
        backbone: see :data:`Backbone`.
        backbone_width: share of the channels of each of the victim's layers that the backbone has. Below 1 its weights
            are drawn ("random") or the victim's channels of largest weights (others).
        tail: see :data:`Tail`. "random" and "truncated" backbones have a short one, unless ``logits`` is tapped.
        cpm_width: channels of the CPM's state.
        cpm_depth: convolutions behind each tap, beside the 1x1 that takes it in; 0 to 4.
        operator, merge, head: see the types.
        pool: factor by which a tap's height and width are divided before it crosses; a tap that is smaller than that
            becomes 1 x 1, vectors stay.
        pool_kind: see the type.
        channels: share of a tap's channels that cross, above 0 to 1; at least one.
        select: see the type.
        precision: of both models and of what crosses.
        pruned: share of the victim's multiply-accumulates that pruning leaves, before anything else is done; None: not
            pruned.
        lock: shares of turned channels and of constants of an EdgePro lock; None: no lock.
    """

    kind: Kind = "mirror"
    taps: tuple[str, ...] = ()
    backbone: Backbone = "tampered"
    backbone_width: float = 1.0
    tail: Tail = "whole"
    cpm_width: int = 8
    cpm_depth: int = 1
    operator: Operator = "conv3x3"
    merge: Merge = "add"
    head: Head = "flatten"
    pool: int = 1
    pool_kind: PoolKind = "average"
    channels: float = 1.0
    select: Select = "saliency"
    precision: Precision = "fp32"
    pruned: float | None = None
    lock: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Raises StrategyError where a field cannot be."""
        if isinstance(self.taps, str):
            raise StrategyError(f"taps are {self.taps!r}, one text", "give a tuple of names")
        object.__setattr__(self, "taps", tuple(self.taps))
        if self.lock is not None:
            object.__setattr__(self, "lock", tuple(self.lock))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise StrategyError(f"{name} is {getattr(self, name)!r}", f"choose one of {', '.join(choices)}")
        checks = (
            (self.kind == "whole" or bool(self.taps), "no taps", "name at least one tensor for the CPM to see"),
            (len(set(self.taps)) == len(self.taps), f"taps {', '.join(self.taps)}", "name each tensor once"),
            (0 < self.backbone_width <= 1, f"backbone_width {self.backbone_width}", "choose above 0 to 1"),
            (1 <= self.cpm_width <= 4096, f"cpm_width {self.cpm_width}", "choose 1 to 4096"),
            (0 <= self.cpm_depth <= 4, f"cpm_depth {self.cpm_depth}", "choose 0 to 4"),
            (1 <= self.pool <= 64, f"pool {self.pool}", "choose 1 (none) to 64"),
            (0 < self.channels <= 1, f"channels {self.channels}", "choose above 0 to 1"),
            (self.pruned is None or 0 < self.pruned <= 1, f"pruned {self.pruned}", "choose above 0 to 1, or None"),
            (self.lock is None or (len(self.lock) == 2 and min(self.lock) >= 0 and 0 < sum(self.lock) <= 1),
             f"lock {self.lock}", "give two shares, at least 0 and together above 0 to 1, or None"),
        )  # fmt: skip
        for good, what, remedy in checks:
            if not good:
                raise StrategyError(f"a strategy cannot have {what}", remedy)

    def to_json(self) -> str:
        """One line of JSON, keys sorted; equal strategies give equal text."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str | dict[str, Any]) -> Strategy:
        """The inverse of :meth:`to_json`; also takes the dictionary, and fields that are left out have their defaults.

        Raises:
            StrategyError: no JSON object, unknown keys, or a value that cannot be.
        """
        try:
            values = json.loads(text) if isinstance(text, str) else dict(text)
        except ValueError as error:
            raise StrategyError(f"a strategy is no JSON: {error}", "give what to_json wrote") from error
        names = {field.name for field in fields(Strategy)}
        if not isinstance(values, dict) or not set(values) <= names:
            unknown = sorted(set(values) - names) if isinstance(values, dict) else type(values).__name__
            raise StrategyError(f"a strategy has no {unknown}", f"its keys are {', '.join(sorted(names))}")
        for name in ("taps", "lock"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        try:
            return Strategy(**values)
        except TypeError as error:
            raise StrategyError(f"a strategy's value is of a wrong type: {error}", "give what to_json wrote") from error

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits, equal for equal strategies in every run: for names of files."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """In a line, for tables."""
        parts = []
        if self.kind == "whole":
            parts.append("whole in the TA")
        else:
            width = "" if self.backbone_width == 1 else f" x{self.backbone_width:g}"
            short = " short" if self.tail == "short" else ""
            reduction = "" if self.pool == 1 else f" {self.pool_kind[:3]}/{self.pool}"
            share = "" if self.channels == 1 else f" {self.channels:.0%} {self.select}"
            parts.append(f"{self.backbone}{width}{short}, taps {' '.join(self.taps)}{reduction}{share}")
            parts.append(f"CPM {self.cpm_width}x{self.cpm_depth} {self.operator} {self.merge} {self.head}")
        parts.append(self.precision)
        parts += [] if self.pruned is None else [f"pruned to {self.pruned:.0%}"]
        parts += [] if self.lock is None else [f"lock {self.lock[0]:g}+{self.lock[1]:g}"]
        return ", ".join(parts)

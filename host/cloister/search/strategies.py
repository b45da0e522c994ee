# SPDX-License-Identifier: BSD-2-Clause
"""The space of protection strategies of a model, from the names of the tensors that can be tapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from cloister.protect.strategy import IMAGE, LOGITS, Strategy
from cloister.search.errors import SearchError
from cloister.search.space import Point, Scalar, Space

#: Most tensors that one strategy taps; more cost crossings and copies, and tell the monitor little that is new.
TAPS = 4
#: EdgePro's locks by name: shares of turned channels and of constants.
LOCKS: dict[Scalar, tuple[float, float] | None] = {
    "none": None, "turned half": (0.5, 0.0), "constant quarter": (0.0, 0.25), "half and quarter": (0.5, 0.25),
}  # fmt: skip
#: Values of everything but the taps. ``form`` is the backbone's kind, or the whole model in the TA.
CHOICES: dict[str, tuple[Scalar, ...]] = {
    "form": ("tampered", "random", "truncated", "trained", "whole"),
    "backbone_width": (1.0, 0.9, 0.75, 0.5, 0.25),
    "tail": ("whole", "short"),
    "cpm_width": (2, 4, 8, 16, 32),
    "cpm_depth": (0, 1, 2),
    "operator": ("conv3x3", "conv1x1", "separable"),
    "merge": ("add", "concat"),
    "head": ("average", "flatten"),
    "pool": (1, 2, 4, 8, 16),
    "pool_kind": ("average", "max"),
    "channels": (1.0, 0.5, 0.25, 0.125),
    "select": ("saliency", "first"),
    "precision": ("fp32", "int8"),
    "pruned": (None, 0.5, 0.25, 0.125),
    "lock": tuple(LOCKS),
}


def slots(taps: int) -> list[str]:
    """Names of the parameters that hold tapped tensors."""
    return [f"tap_{slot}" for slot in range(min(TAPS, taps))]


def strategy_space(
    taps: Sequence[str], *, lockable: Sequence[str] | None = None, **narrowed: Sequence[Scalar]
) -> Space:
    """The space of a model's strategies.

    Args:
        taps: names of the tensors that can be tapped, in the order in which they become ready, as
            ``cloister.protect.mirror.candidates`` lists them.
        lockable: values of ``form`` that can have a lock; with the others ``lock`` means nothing. Default: all.
        narrowed: parameters of :data:`CHOICES` with fewer values, such as ``precision=("int8",)`` or
            ``lock=("none",)`` for a victim that cannot be locked.

    Raises:
        SearchError: there is no tensor to tap, or such a parameter.
    """
    if not taps:
        raise SearchError("the model has no tensor that can be tapped", "give at least the image: 'image'")
    if unknown := sorted(set(narrowed) - set(CHOICES)):
        raise SearchError(f"the space has no {', '.join(unknown)}", f"its parameters are {', '.join(CHOICES)}")
    choices = {**CHOICES, **{name: tuple(values) for name, values in narrowed.items()}}
    if odd := [name for name in choices if not set(choices[name]) <= set(CHOICES[name])]:
        name = odd[0]
        listed = ", ".join(map(str, CHOICES[name]))
        raise SearchError(f"{name} is narrowed to {choices[name]}", f"choose among {listed}")
    choices |= dict.fromkeys(slots(len(taps)), (None, *taps))

    def build(point: Point) -> Strategy:
        if lockable is not None and point["form"] not in lockable:
            point = {**point, "lock": "none"}
        made = strategy_of(point, taps)
        if made.kind != "mirror" or made.taps != (IMAGE,):
            return made
        # a monitor of the image alone has no backbone, so that its kind and width mean nothing
        if "random" in choices["form"]:
            return replace(made, backbone="random", backbone_width=1.0, tail="short")
        # other kinds are asked for, and such a pair would have none
        return strategy_of({**point, slots(len(taps))[0]: _default_tap(taps)}, taps)

    def inside(strategy: Strategy) -> list[Point]:
        point = point_of(strategy, taps)
        # where only pruned or only locked strategies are wanted, the usual ones are begun with in that form
        lacking = {name: choices[name][0] for name in ("pruned", "lock") if point[name] not in choices[name]}
        point = {**point, **lacking}
        return [point] if all(point[name] in choices[name] for name in choices) else []

    ladders = [[point for strategy in ladder for point in inside(strategy)] for ladder in _ladders(taps)]
    # what is narrowed to one value makes rungs equal
    ladders = [[point for place, point in enumerate(ladder) if point not in ladder[:place]] for ladder in ladders]
    return Space(choices, build, [ladder for ladder in ladders if ladder])


def strategy_of(point: Point, taps: Sequence[str]) -> Strategy:
    """The strategy of a point, with defaults wherever a value means nothing."""
    values: dict[str, Any] = {name: point[name] for name in CHOICES if name not in ("form", "lock")}
    common = {"precision": values["precision"], "pruned": values["pruned"], "lock": LOCKS[point["lock"]]}
    if point["form"] == "whole":
        return Strategy(kind="whole", **common)
    chosen = {point[slot] for slot in slots(len(taps))}
    there = [name for name in taps if name != LOGITS] if point["form"] == "truncated" else list(taps)
    tapped = tuple(name for name in there if name in chosen) or (_default_tap(there or taps),)
    if point["form"] in ("random", "truncated"):
        values["tail"] = "whole" if LOGITS in tapped else "short"
    if len(tapped) == 1:
        values["merge"] = "add"
    if values["cpm_depth"] == 0:
        values["operator"] = "conv3x3"
    if values["pool"] == 1 or tapped == (IMAGE,):
        values["pool"], values["pool_kind"] = 1, "average"
    if values["channels"] == 1 or tapped == (IMAGE,):
        values["channels"], values["select"] = 1.0, "saliency"
    return Strategy(kind="mirror", taps=tapped, backbone=cast(Any, point["form"]), **{**values, **common})


def point_of(strategy: Strategy, taps: Sequence[str]) -> dict[str, Scalar]:
    """A point of which :func:`strategy_of` makes the strategy.

    Raises:
        SearchError: there is none: it taps too much, or tensors that the model does not have.
    """
    if len(strategy.taps) > len(slots(len(taps))) or not set(strategy.taps) <= set(taps):
        raise SearchError(f"{strategy} is not in the space", f"tap at most {TAPS} of {', '.join(taps)}")
    locks = [name for name, shares in LOCKS.items() if shares == strategy.lock]
    point: dict[str, Scalar] = {name: getattr(strategy, name) for name in CHOICES if name not in ("form", "lock")}
    point["form"] = "whole" if strategy.kind == "whole" else strategy.backbone
    point["lock"] = locks[0] if locks else str(strategy.lock)
    for place, slot in enumerate(slots(len(taps))):
        point[slot] = strategy.taps[place] if place < len(strategy.taps) else None
    return point


def _default_tap(taps: Sequence[str]) -> str:
    """The tensor that is tapped where none was drawn: of the ones in between the last."""
    between = inner(taps)
    return between[-1] if between else taps[-1]


def inner(taps: Sequence[str]) -> list[str]:
    """The tensors between image and answer."""
    return [name for name in taps if name not in (IMAGE, LOGITS)]


#: Width and depth of monitors, from large to small.
SIZES = ((16, 2), (16, 1), (8, 1), (8, 0), (4, 0))


def _ladders(taps: Sequence[str]) -> list[list[Strategy]]:
    """What one would try by hand, each with what one would try next where it costs too much."""
    several, last = tuple(spread(inner(taps), 3)) or (_default_tap(taps),), (_default_tap(taps),)
    found = [[Strategy(kind="whole", precision="int8", pruned=share) for share in (None, 0.5, 0.25, 0.125)]]
    for backbone, chosen, largest in (
        ("tampered", last, (8, 0)), ("random", (IMAGE,), (16, 2)), ("truncated", last, (16, 1)),
        ("tampered", several, (8, 1)), ("truncated", several, (8, 1)), ("random", several, (16, 1)),
    ):  # fmt: skip
        if set(chosen) <= set(taps):
            tail = "whole" if backbone == "tampered" else "short"
            found.append(_monitors(Strategy(
                taps=chosen, backbone=cast(Any, backbone), tail=cast(Any, tail),
                pool=1 if chosen == (IMAGE,) else 2, precision="int8",
            ), largest))  # fmt: skip
    return list({tuple(ladder): ladder for ladder in found}.values())


def _monitors(pair: Strategy, largest: tuple[int, int]) -> list[Strategy]:
    sizes = SIZES[SIZES.index(largest) :]
    return [replace(pair, cpm_width=width, cpm_depth=depth) for width, depth in sizes]


def spread(names: Sequence[str], count: int) -> list[str]:
    """So many of the names, evenly spread and with the last among them."""
    if len(names) <= count:
        return list(names)
    return [names[round((place + 1) * len(names) / count) - 1] for place in range(count)]

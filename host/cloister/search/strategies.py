# SPDX-License-Identifier: BSD-2-Clause
"""The space of protection strategies of a model, from the names of the tensors that can be tapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
#: Shapes of tensors by name, without the batch: (C, H, W) or (N,).
Shapes = Mapping[str, tuple[int, ...]]


def slots(taps: int) -> list[str]:
    """Names of the parameters that hold tapped tensors."""
    return [f"tap_{slot}" for slot in range(min(TAPS, taps))]


def strategy_space(
    taps: Sequence[str], *, shapes: Shapes | None = None, lockable: Sequence[str] | None = None,
    **narrowed: Sequence[Scalar],
) -> Space:  # fmt: skip
    """The space of a model's strategies.

    Args:
        taps: names of the tensors that can be tapped, in the order in which they become ready, as
            ``cloister.protect.mirror.candidates`` lists them.
        shapes: of these, as :func:`strategy_of` takes them.
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
        made = strategy_of(point, taps, shapes)
        if made.kind != "mirror" or made.taps != (IMAGE,):
            return made
        # a monitor of the image alone has no backbone, so that its kind and width mean nothing; its `pool` does: the
        # stride by which it takes the image in
        if "random" in choices["form"]:
            return replace(made, backbone="random", backbone_width=1.0, tail="short")
        # other kinds are asked for, and such a pair would have none
        return strategy_of({**point, slots(len(taps))[0]: _default_tap(taps)}, taps, shapes)

    def inside(strategy: Strategy) -> list[Point]:
        point = point_of(strategy, taps)
        # where only pruned or only locked strategies are wanted, the usual ones are begun with in that form
        lacking = {name: choices[name][0] for name in ("pruned", "lock") if point[name] not in choices[name]}
        point = {**point, **lacking}
        return [point] if all(point[name] in choices[name] for name in choices) else []

    ladders = [[point for strategy in ladder for point in inside(strategy)] for ladder in _ladders(taps)]
    # what is narrowed to one value, or means nothing in this model, makes rungs equal
    ladders = [
        [point for place, point in enumerate(ladder) if build(point) not in map(build, ladder[:place])]
        for ladder in ladders
    ]
    return Space(choices, build, [ladder for ladder in ladders if ladder])


def strategy_of(point: Point, taps: Sequence[str], shapes: Shapes | None = None) -> Strategy:
    """The strategy of a point, with defaults wherever a value means nothing.

    Args:
        point: a value for each parameter.
        taps: as for :func:`strategy_space`.
        shapes: of these. More can be told to mean nothing with them: vectors are not pooled, for one. Tensors that are
            left out, but for the logits, are taken to have places.
    """
    values: dict[str, Any] = {name: point[name] for name in CHOICES if name not in ("form", "lock")}
    common = {"precision": values["precision"], "pruned": values["pruned"], "lock": LOCKS[point["lock"]]}
    form = point["form"]
    if form == "whole":
        return Strategy(kind="whole", **common)
    chosen = {point[slot] for slot in slots(len(taps))}
    there = [name for name in taps if name != LOGITS] if form == "truncated" else list(taps)
    tapped = tuple(name for name in there if name in chosen) or (_default_tap(there or taps),)
    if LOGITS in tapped:  # nothing can end before them
        values["tail"] = "whole"
    elif form in ("random", "truncated"):
        values["tail"] = "short"
    if len(tapped) == 1:
        values["merge"] = "add"
    _settle_monitor(values, tapped, shapes or {})
    _settle_reduction(values, tapped, shapes or {})
    if values["channels"] == 1:
        values["select"] = "saliency"
    elif form == "random" or values["backbone_width"] < 1:
        values["select"] = "first"  # what the victim's answer depends on says nothing of channels that are not its own
    return Strategy(kind="mirror", taps=tapped, backbone=cast(Any, form), **{**values, **common})


def _placed(tapped: Sequence[str], shapes: Shapes) -> list[str]:
    """Those that have a height and a width, without the image."""
    return [name for name in inner(tapped) if len(shapes.get(name, (1, 1, 1))) == 3]


def _settle_monitor(values: dict[str, Any], tapped: Sequence[str], shapes: Shapes) -> None:
    """Defaults for what means nothing in a monitor of these tensors."""
    vectors = IMAGE not in tapped and not _placed(tapped, shapes)
    if vectors:  # linear layers alone, no narrower than the answer
        values["head"] = "flatten"
        classes = shapes.get(LOGITS, (1,))[0]
        if values["cpm_width"] < classes:
            values["cpm_width"] = max(width for width in _numbers("cpm_width") if width <= classes)
    if vectors or values["cpm_depth"] == 0:
        values["operator"] = "conv3x3"


def _settle_reduction(values: dict[str, Any], tapped: Sequence[str], shapes: Shapes) -> None:
    """Defaults for what means nothing where these tensors are made smaller. The image crosses whole, as logits do."""
    placed = _placed(tapped, shapes)
    if IMAGE not in tapped:
        # where all become 1 x 1 a larger factor changes nothing; without places none does
        wanted = _pooled(placed, shapes, values["pool"])
        alike = [pool for pool in _numbers("pool") if _pooled(placed, shapes, pool) == wanted]
        values["pool"] = min([values["pool"], *alike])
    if not placed or values["pool"] == 1:
        values["pool_kind"] = "average"
    if not inner(tapped):
        values["channels"] = 1.0


def _numbers(name: str) -> list[int]:
    """The values of a parameter that are numbers."""
    return [value for value in CHOICES[name] if isinstance(value, int)]


def _pooled(placed: Sequence[str], shapes: Shapes, pool: int) -> list[tuple[int, ...]]:
    """Heights and widths that cross; of unknown shapes any factor makes its own."""
    return [
        tuple(max(1, extent // pool) for extent in shapes[name][1:]) if name in shapes else (pool,) for name in placed
    ]


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
    # an image that is taken in by every second pixel makes a monitor of a quarter of the cost; by every fourth it would
    # take a larger kernel, which costs most of what that saves
    for backbone, chosen, pool, largest in (
        ("tampered", last, 2, (8, 0)), ("random", (IMAGE,), 1, (16, 2)), ("random", (IMAGE,), 2, (16, 2)),
        ("truncated", last, 2, (16, 1)), ("tampered", several, 2, (8, 1)), ("truncated", several, 2, (8, 1)),
        ("random", several, 2, (16, 1)),
    ):  # fmt: skip
        if set(chosen) <= set(taps):
            tail = "whole" if backbone == "tampered" else "short"
            found.append(_monitors(Strategy(
                taps=chosen, backbone=cast(Any, backbone), tail=cast(Any, tail), pool=pool, precision="int8",
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

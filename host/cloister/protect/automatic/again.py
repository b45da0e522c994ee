# SPDX-License-Identifier: BSD-2-Clause
"""What ``cloister protect`` made, once more: for attacks beyond those that chose it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from torch import nn

from cloister.attack.exposed import Exposed
from cloister.errors import FormatError
from cloister.protect.automatic.evaluator import TrainingEvaluator
from cloister.protect.automatic.report import REPORT_FILE, strategy_of
from cloister.protect.automatic.settings import ProtectSettings
from cloister.protect.training import Splits, TrainingError

T = TypeVar("T")


def exposed_again(folder: Path, victim: nn.Module, splits: Splits, device: str = "auto") -> list[Exposed]:
    """What attackers may begin with of the model that was protected into ``folder``.

    Args:
        folder: the output folder of ``cloister protect``, with its checkpoints in ``training``.
        victim, splits: that it was made of.
        device: that the protected model was trained on.

    Raises:
        FormatError: the folder holds no report, or one of another version.
        TrainingError: it was made of another model or other data, or its checkpoints are gone.
    """
    path = folder / REPORT_FILE
    remedy = "give the output folder of `cloister protect`"
    try:
        report = json.loads(path.read_text())
        settings = rebuilt(ProtectSettings, report["settings"])
        strategy, wanted = strategy_of(report), report["settings_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is no report of `cloister protect`", remedy) from error
    if settings.digest != wanted:
        raise FormatError(f"{path} is of another version", "protect the model again")
    evaluator = TrainingEvaluator(
        victim, splits, settings, folder / "training", memory=report["budget"]["memory"], label=report["model"],
        device=device, quiet=True,
    )  # fmt: skip
    if not evaluator.holds(strategy):
        raise TrainingError(f"{folder / 'training'} has no checkpoints of what was chosen", remedy)
    found = evaluator.exposed(strategy)
    for target in found:  # two folders may hold the same strategy
        target.name = target.name.replace("protected", folder.resolve().name, 1)
    return found


def rebuilt(kind: type[T], found: Mapping[str, Any]) -> T:
    """A data class from what ``dataclasses.asdict`` and JSON made of it; what is not in it has its default."""
    hints = get_type_hints(kind)
    given = {entry.name: _value(hints[entry.name], found[entry.name]) for entry in fields(kind) if entry.name in found}  # type: ignore[arg-type]
    return kind(**given)


def _value(hint: Any, found: Any) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return rebuilt(hint, found)
    return tuple(found) if isinstance(found, list) else found

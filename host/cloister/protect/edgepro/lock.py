# SPDX-License-Identifier: BSD-2-Clause
"""From a trained model to a locked one and its password."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from torch import nn

from cloister.password import LOCK_ID_SIZE, Password
from cloister.protect.edgepro.chance import Chance
from cloister.protect.edgepro.draw import draw_locks
from cloister.protect.edgepro.folding import fold_normalisation, token_rows
from cloister.protect.edgepro.layers import lockable, width_of
from cloister.protect.edgepro.locks import LayerLock, fold_in, fold_out, from_password, to_password
from cloister.protect.edgepro.objective import LockObjective
from cloister.protect.edgepro.settings import LockSettings
from cloister.protect.training.claim import claim
from cloister.protect.training.data import Splits
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.evaluate import accuracy
from cloister.protect.training.export import export_onnx
from cloister.protect.training.loop import fit

#: Names of the files that :meth:`Locked.save` writes.
MODEL_FILE, PASSWORD_FILE, REPORT_FILE = "locked.onnx", "password.pwd", "report.json"
#: Beside the checkpoints: the locks as they were drawn, since nobody can draw them again. As secret as the password.
DRAWN_FILE = "drawn.pwd"
#: Points of validation accuracy that a lock may cost before the report says what helps.
MUCH = 1.0


@dataclass(frozen=True, eq=False)
class Locked:
    """A locked model.

    Attributes:
        module: what ships; without the password it answers at chance. On the CPU, in evaluation mode.
        locks: what the password says, by the path of the layer.
        report: figures of the training, as ``report.json`` has them.
        shape: channels, height and width of an image.
        lock_id: what the locked file and its password have in common, see :class:`~cloister.password.Password`.
    """

    module: nn.Module
    locks: dict[str, LayerLock]
    report: dict[str, Any]
    shape: tuple[int, int, int]
    lock_id: str = ""

    def authorised(self) -> nn.Module:
        """The model as it computes with the password; must not be shipped."""
        return fold_in(self.module, self.locks)

    @property
    def jitter(self) -> float | None:
        """By what share of themselves values may differ from device to device; None: the report does not say."""
        found: float | None = self.report.get("settings", {}).get("jitter")
        return found

    def password(self, name: str) -> Password:
        """The password, for a model of that name."""
        return to_password(self.locks, name, self.lock_id, self.jitter)

    def export(self, path: Path) -> Path:
        """Write the locked model as ONNX, with the name of its lock."""
        self.password("").stamp(export_onnx(self.module, self.shape, path))
        return path

    def save(self, folder: Path, name: str) -> None:
        """Write ``locked.onnx``, ``password.pwd`` and ``report.json`` into ``folder``.

        Another password that is there is kept as ``password.pwd.1`` (or the next number), its model beside it: no
        licence for bundles made of that model could be issued without.
        """
        password = self.password(name)
        put_aside(folder, password, [MODEL_FILE])
        self.export(folder / MODEL_FILE)
        password.write(folder / PASSWORD_FILE)
        aside = folder / (REPORT_FILE + ".new")
        aside.write_text(json.dumps(self.report, indent=2) + "\n")
        aside.replace(folder / REPORT_FILE)


def put_aside(folder: Path, password: Password | None, beside: Sequence[str]) -> None:
    """Put another password aside as ``password.pwd.1``, or the next number, and the files beside it that are its own.

    Args:
        folder: where it may lie.
        password: the one that is to lie there; None: none is.
        beside: names of those files.
    """
    path, names = folder / PASSWORD_FILE, (PASSWORD_FILE, *beside)
    if not path.exists() or (password is not None and path.read_bytes() == password.to_bytes()):
        return
    put_aside_files(folder, names, names)


def put_aside_files(folder: Path, names: Sequence[str], free: Sequence[str]) -> int:
    """Rename files to ``name.1``, or the first number that none of the names in ``free`` has; that number.

    Args:
        folder: where they may lie.
        names: of the files.
        free: these, and files that a number would bring together with them.
    """
    number = next(n for n in count(1) if not any((folder / f"{name}.{n}").exists() for name in free))
    for name in names:
        if (folder / name).exists():
            (folder / name).replace(folder / f"{name}.{number}")
    return number


def lock_model(
    module: nn.Module,
    splits: Splits,
    settings: LockSettings | None = None,
    *,
    folder: Path | None = None,
    device: str = "auto",
    name: str = "lock",
    quiet: bool = False,
    chance: Chance | None = None,
) -> Locked:
    """Draw locks for a trained model and train them.

    Args:
        module: the owner's trained model; not changed.
        splits: what it was trained on. Epochs are selected on the validation split; the test split is reported on only.
        settings: default: those of :class:`LockSettings`.
        folder: keeps checkpoints; an interrupted run goes on from there.
        device, name, quiet: as for ``fit``.
        chance: what channels and values are drawn by; default: the operating system's generator, so that no seed tells.

    Raises:
        TrainingError: the module cannot be traced, a setting does not fit it, or ``folder`` is of another run.
    """
    return lock_folded(
        fold_normalisation(token_rows(module, splits.shape)).cpu(), splits, settings or LockSettings(), folder=folder,
        device=device, name=name, quiet=quiet, chance=chance,
    )  # fmt: skip


def lock_folded(
    folded: nn.Module, splits: Splits, settings: LockSettings, *, folder: Path | None, device: str, name: str,
    quiet: bool, chance: Chance | None = None,
) -> Locked:  # fmt: skip
    """As :func:`lock_model`, for a module without batch normalisation in what is locked; not changed.

    Parameters that need no gradient stay as they are.
    """
    began = time.monotonic()
    before = accuracy(folded, splits.test, splits)
    locks, lock_id = _drawn(folded, splits, settings, folder, chance)
    start = fold_out(folded, locks)
    objective = LockObjective(folded, locks, settings, len(splits.classes))
    fitted = fit(
        start, splits, settings.recipe, folder=folder, objective=objective, device=device, name=name, quiet=quiet
    )
    locked = fitted.module.cpu()
    owners = fold_in(locked, locks)
    report = {
        "test": {
            "unlocked": before,
            "with_password": accuracy(owners, splits.test, splits),
            "without_password": accuracy(locked, splits.test, splits),
        },
        "validation": {
            "unlocked": accuracy(folded, splits.validation, splits),
            "with_password": accuracy(owners, splits.validation, splits),
            "without_password": accuracy(locked, splits.validation, splits),
        },
        "layers": _layers(locked, locks),
        "epoch": fitted.epoch,
        "training_s": fitted.seconds,
        "total_s": time.monotonic() - began,
        "settings": asdict(settings),
        "data": splits.name,
    }
    report["advice"] = _advice(report, settings)
    return Locked(locked, locks, report, splits.shape, lock_id)


def _advice(report: dict[str, Any], settings: LockSettings) -> str:
    """What helps where the lock costs much accuracy; "" where it does not. Judged on validation images."""
    found, recipe = report["validation"], settings.recipe
    lost = 100 * (found["unlocked"] - found["with_password"])
    if lost <= MUCH:
        return ""
    rate = f"{recipe.rate / 4:.2g}, not {recipe.rate:.2g}"
    remedies = [f"a lower --rate ({rate}) with more --epochs than {recipe.epochs}"]
    if settings.constant_share and settings.turned_share:
        remedies.append("--constant 0 (turned channels alone)")
    what = f"{lost:.1f} points of the validation images are lost with the password"
    return f"{what}; what helps: {', or '.join(remedies)}"


def _drawn(
    folded: nn.Module, splits: Splits, settings: LockSettings, folder: Path | None, chance: Chance | None
) -> tuple[dict[str, LayerLock], str]:
    """The locks and their name; those that the folder's checkpoints were trained for, if there are any."""
    lock_id = secrets.token_hex(LOCK_ID_SIZE)
    if folder is None:
        return draw_locks(folded, splits, settings, chance), lock_id
    if claim(folder, "locking", folded, splits, asdict(settings)):
        if not (folder / DRAWN_FILE).exists():
            raise TrainingError(
                f"{folder} has checkpoints, but {DRAWN_FILE} with the locks that they are trained for is gone",
                f"delete {folder} and begin anew: nobody can draw the same locks again",
            )
        drawn = Password.read(folder / DRAWN_FILE)
        return from_password(drawn), drawn.lock_id
    locks = draw_locks(folded, splits, settings, chance)
    to_password(locks, "drawn", lock_id).write(folder / DRAWN_FILE)
    return locks, lock_id


def _layers(module: nn.Module, locks: dict[str, LayerLock]) -> list[dict[str, Any]]:
    """Numbers of channels; which they are is a secret."""
    layers = []
    for name, layer in lockable(module).items():
        lock = locks.get(name)
        constants = 0 if lock is None else int((lock.scales == 0).sum())
        turned = 0 if lock is None else int((lock.scales != 0).sum())
        layers.append({"layer": name, "channels": width_of(layer), "constants": constants, "turned": turned})
    return layers

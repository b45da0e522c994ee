# SPDX-License-Identifier: BSD-2-Clause
"""A CPM that answers with a password alone: EdgePro's lock on what lies in the TA; the backbone stays as it is."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cloister.password import Password
from cloister.protect.edgepro.chance import Chance
from cloister.protect.edgepro.layers import lockable, width_of
from cloister.protect.edgepro.lock import PASSWORD_FILE, Locked, lock_folded
from cloister.protect.edgepro.locks import fold_in, to_password
from cloister.protect.edgepro.settings import LockSettings
from cloister.protect.mirror.export import export_pair
from cloister.protect.mirror.exposed import LeakedPair
from cloister.protect.mirror.mirror import Mirrored, calibration, on_files, write_report
from cloister.protect.mirror.onnx_pair import OnnxPair
from cloister.protect.mirror.pair import Pair
from cloister.protect.training.data import Splits
from cloister.protect.training.errors import TrainingError

#: Where the CPM's layers are in a pair.
CPM = "cpm."


@dataclass(frozen=True, eq=False)
class LockedPair:
    """A pair whose CPM is locked.

    Attributes:
        pair: what ships; without the password it answers at chance. On the CPU, in evaluation mode.
        locked: the same with its locks, whose layers are named as in the pair.
        report: as of :class:`Mirrored`, where ``pair`` is with the password, and beside it ``pair_without_password``;
            ``lock`` has the figures of lock training.
        splits: of the data it was trained on.
    """

    pair: Pair
    locked: Locked
    report: dict[str, Any]
    splits: Splits

    def authorised(self) -> Pair:
        """The pair as it computes with the password; must not be shipped."""
        made = fold_in(self.pair, self.locked.locks)
        assert isinstance(made, Pair)
        return made

    def password(self, name: str) -> Password:
        """The password, for a model of that name; it names the CPM's layers as ``cpm.onnx`` does."""
        locks = {path.removeprefix(CPM): lock for path, lock in self.locked.locks.items()}
        return to_password(locks, name, self.locked.lock_id, self.locked.jitter)

    def save(self, folder: Path, name: str) -> None:
        """Write ``backbone.onnx``, ``cpm.onnx``, ``password.pwd`` and ``report.json`` into ``folder``.

        A pair in 8 bits is quantised here, as :meth:`Mirrored.save` does; the report then also has the accuracies of
        the files with the password, ``pair_int8``, and without it.
        """
        password, samples, report = self.password(name), calibration(self.splits), dict(self.report)
        files = OnnxPair(*export_pair(self.pair, folder, samples, password))
        if self.pair.strategy.precision == "int8":
            with tempfile.TemporaryDirectory(prefix="cloister-locked-") as aside:
                owners = on_files(OnnxPair(*export_pair(self.authorised(), Path(aside), samples)), self.splits)
            for split, without in on_files(files, self.splits).items():
                found = {"pair_int8": owners[split], "pair_int8_without_password": without}
                report[split] = {**report[split], **found}
        password.write(folder / PASSWORD_FILE)
        write_report(report, folder)

    def exposed(self, name: str = "") -> LeakedPair:
        """For the attack bench: both halves in clear, without the password."""
        layers = [path for path in lockable(self.pair) if path.startswith(CPM)]
        return LeakedPair(self.pair, self.authorised(), layers, self.splits, name)


def lock_pair(
    mirrored: Mirrored, settings: LockSettings | None = None, *, folder: Path | None = None, device: str = "auto",
    name: str = "lock", quiet: bool = False, chance: Chance | None = None,
) -> LockedPair:  # fmt: skip
    """Lock the CPM of a trained pair; the backbone is not trained on.

    Args:
        mirrored: the trained pair; not changed.
        settings: ``layers`` are those of the CPM, as ``lockable(mirrored.cpm)`` names them; empty: all.
        folder: keeps checkpoints; an interrupted run goes on from there.
        device, name, quiet: as for ``fit``.
        chance: as for ``lock_model``.

    Raises:
        TrainingError: the CPM has no such layer or none that can be locked, or ``folder`` is of another run.
    """
    pair, settings = folded(mirrored.pair), settings or LockSettings()
    layers = tuple(path for path in lockable(pair) if path.startswith(CPM))
    if settings.layers:
        wanted = tuple(CPM + path for path in settings.layers)
        if unknown := [path.removeprefix(CPM) for path in wanted if path not in layers]:
            known = ", ".join(path.removeprefix(CPM) for path in layers)
            raise TrainingError(f"layers {unknown} of the CPM cannot be locked", f"those that can: {known}")
        layers = wanted
    made = lock_folded(
        pair, mirrored.splits, replace(settings, layers=layers), folder=folder, device=device, name=name, quiet=quiet,
        chance=chance,
    )  # fmt: skip
    assert isinstance(made.module, Pair)
    report = dict(mirrored.report)
    for split in ("test", "validation"):
        right = made.report[split]
        report[split] = {
            **report[split], "pair": right["with_password"], "pair_without_password": right["without_password"],
            "pair_unlocked": right["unlocked"],
        }  # fmt: skip
    report["lock"] = {**made.report, "layers": [line for line in made.report["layers"] if line["layer"] in layers]}
    return LockedPair(made.module, made, report, mirrored.splits)


def folded(pair: Pair) -> Pair:
    """A copy whose CPM has no normalisation, and biases in all layers that can be locked; its backbone is frozen."""
    made: Pair = copy.deepcopy(pair).cpu().eval()
    made.backbone.freeze()
    for part in list(made.cpm.modules()):
        if isinstance(part, nn.Sequential):
            for index, (layer, normal) in enumerate(zip(list(part)[:-1], list(part)[1:], strict=True)):
                if isinstance(layer, nn.Conv2d) and isinstance(normal, nn.BatchNorm2d):
                    part[index], part[index + 1] = fuse_conv_bn_eval(layer, normal), nn.Identity()
    for path, layer in lockable(made).items():
        if path.startswith(CPM) and layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(width_of(layer)))
    return made

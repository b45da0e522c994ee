# SPDX-License-Identifier: BSD-2-Clause
"""Pruned victims: in shape alone for estimates; and trained, once for each share, for all that begin there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from torch import nn

from cloister.errors import PassingError
from cloister.protect.automatic.settings import Depth, ProtectSettings
from cloister.protect.prune import prune_model
from cloister.protect.prune.channels import multiply_accumulates, prunable, remove
from cloister.protect.prune.choose import choose
from cloister.protect.prune.criteria import scores
from cloister.protect.training import Splits, TrainingError
from cloister.seal.files import write_aside

SKETCHES_FILE = "sketches.json"
#: A victim with this much more multiply-accumulates than were wanted still counts as pruned to that share.
TOLERANCE = 1.1


class PrunedVictims:
    """One victim, pruned to several shares of its multiply-accumulates.

    Args:
        victim: trained, on the CPU.
        splits: its data.
        settings: how it is pruned.
        folder: keeps what was removed for sketches, and checkpoints.
        device: to train on.
        quiet: tell nothing of the training.
    """

    def __init__(
        self, victim: nn.Module, splits: Splits, settings: ProtectSettings, folder: Path, *, device: str, quiet: bool
    ) -> None:
        self._victim, self._splits, self._settings = victim, splits, settings
        self._folder, self._device, self._quiet = folder, device, quiet
        self._sketches: dict[float, nn.Module] = {}
        self._trained: dict[tuple[float, str], nn.Module] = {}
        #: Why a share cannot be had.
        self.refused: dict[float, str] = {}

    @cached_property
    def _macs(self) -> int:
        return multiply_accumulates(self._victim, self._splits.shape)

    def left(self, module: nn.Module) -> float:
        """The share of the victim's multiply-accumulates that a module has."""
        return multiply_accumulates(module, self._splits.shape) / self._macs

    def possible(self, shares: Iterable[float]) -> list[float]:
        """Those of the shares to which the victim can be pruned; of the others ``refused`` tells why."""
        wanted = sorted(shares, reverse=True)
        removals = self._removals(wanted)
        found = []
        for share in wanted:
            removal, reason = removals[f"{share:g}"]
            if removal is None:
                self.refused[share] = reason
                continue
            self._sketches[share] = remove(self._victim, removal, self._splits.shape)
            found.append(share)
        return found

    def _removals(self, shares: list[float]) -> dict[str, tuple[dict[str, list[int]] | None, str]]:
        """What sketches lack, or None and why there is none; found once."""
        path = self._folder / SKETCHES_FILE
        found: dict[str, tuple[dict[str, list[int]] | None, str]] = {}
        if path.exists():
            try:
                found = {key: (removal, reason) for key, (removal, reason) in json.loads(path.read_text()).items()}
            except (ValueError, TypeError) as error:
                raise TrainingError(f"{path} is damaged: {error}", "delete it; the rest is kept") from error
        if all(f"{share:g}" in found for share in shares):
            return found
        shape = self._splits.shape
        try:
            groups = prunable(self._victim, shape)
            settings = self._settings.prune(min(shares), self._settings.full)
            worth = scores(self._victim, groups, self._splits, settings, seed=settings.seed, device=self._device)
            for share in shares:
                wanted = round(share * self._macs)
                smaller, removed = choose(self._victim, groups, worth, wanted, shape, settings)
                reason = self._missed(smaller, share)
                found[f"{share:g}"] = (None if reason else removed, reason)
        except PassingError:
            raise
        except TrainingError as error:  # no channel can be removed
            found |= {f"{share:g}": (None, error.message) for share in shares}
        write_aside(path, json.dumps(found).encode())
        return found

    def _missed(self, module: nn.Module, share: float) -> str:
        left = self.left(module)
        return "" if left <= TOLERANCE * share else f"pruning can leave {left:.0%} of this model, not {share:.1%}"

    def sketch(self, share: float) -> nn.Module:
        """The victim without the channels that pruning would take first: of the right shape, about; not trained.

        Raises:
            TrainingError: it cannot be pruned to that share.
        """
        if share not in self._sketches and not self.possible([share]):
            raise TrainingError(self.refused[share], "prune less")
        return self._sketches[share]

    def trained(self, share: float, stage: str, depth: Depth) -> nn.Module:
        """The victim pruned and fine-tuned, on the CPU; the same for all strategies of a stage.

        Raises:
            TrainingError: it cannot be pruned to that share.
        """
        if (share, stage) not in self._trained:
            quiet = self._quiet or stage != "training"
            made = prune_model(
                self._victim, self._splits, self._settings.prune(share, depth),
                folder=self._folder / f"{stage}-{share:g}", device=self._device, name=f"pruning to {share:.1%}",
                quiet=quiet,
            ).module  # fmt: skip
            if reason := self._missed(made, share):
                raise TrainingError(reason, "prune less")
            self._trained[share, stage] = made
        return self._trained[share, stage]

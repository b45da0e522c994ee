# SPDX-License-Identifier: BSD-2-Clause
"""The bench: every attack on every target, between the white box and the black box."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloister.attack.attacker import Attacker, Record, network_digest
from cloister.attack.attacks import ATTACKS
from cloister.attack.attacks.head import parts_of
from cloister.attack.compare import compare
from cloister.attack.earlier import identities_of, joined
from cloister.attack.effort import Effort
from cloister.attack.errors import AttackError
from cloister.attack.exposed import BlackBox, Exposed, WhiteBox
from cloister.attack.kept import Cell, data_identity, identity_of, shown_identity
from cloister.attack.plan import planned
from cloister.attack.progress import Progress
from cloister.attack.surgery import fresh, renormalised
from cloister.attack.table import heading, labels, markdown
from cloister.protect.edgepro.folding import token_rows
from cloister.protect.training import Images, Splits, TrainingError
from cloister.protect.training.loop import auto_device, precision_on
from cloister.seal.files import write_aside

#: A report's records, and what they are of.
REPORT_FILE = "attacks.json"
#: Attacks that give the black box its figures; they are always run on it.
_BASELINES = ("direct", "finetune", "steal")


@dataclass(frozen=True)
class Report:
    """What the bench found.

    Attributes:
        records: a dictionary for each attack, target and budget; docs/attacks.md names the keys.
        about: data, effort, the precision that "auto" stood for, seed and pool, for the report's head; and digests of
            what records depend on.
    """

    records: list[Record]
    about: dict[str, Any]

    def find(self, target: str, attack: str, budget: str = "") -> Record:
        """The first record of that target and attack, and of that budget unless it is empty.

        Args:
            target: its name, in records or in the tables.
            attack, budget: as records have them.

        Raises:
            AttackError: there is none.
        """
        known = labels(record["target"] for record in self.records)
        for record in self.records:
            named = target in (record["target"], known[record["target"]])
            if named and record["attack"] == attack and budget in ("", record["budget"]):
                return record
        raise AttackError(
            f"the report has no {attack!r} of {target!r} {budget}".rstrip(),
            f"look at its records; targets are {', '.join(known)}",
        )

    def write(self, folder: Path) -> list[Path]:
        """Write ``attacks.json``, ``attacks.md`` and ``attacks.svg`` into ``folder``; their paths.

        Where ``folder`` has a report of the same victim, data, effort and seed, its rows of other targets and attacks
        stay (:func:`~cloister.attack.earlier.beside`); any other report is replaced.
        """
        from cloister.attack.picture import draw

        folder.mkdir(parents=True, exist_ok=True)
        records, about = joined(folder / REPORT_FILE, self.records, self.about)
        written = []
        for name, text in (
            (REPORT_FILE, json.dumps({"about": about, "records": records}, indent=1) + "\n"),
            ("attacks.md", markdown(records, about)),
            ("attacks.svg", draw(records, heading(about))),
        ):
            write_aside(folder / name, text.encode())
            written.append(folder / name)
        return written


def bench(
    exposed: Exposed | Sequence[Exposed],
    splits: Splits,
    victim: nn.Module,
    *,
    attacks: Sequence[str] | None = None,
    effort: Effort | None = None,
    seed: int = 0,
    architecture: Callable[[int], nn.Module] | None = None,
    pool: Images | None = None,
    folder: Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    white: bool = True,
) -> Report:
    """Attack protected models, and beside them the victim as white box and as black box.

    Args:
        exposed: one or several targets.
        splits: the data that the victim was trained on. Attackers get shares of ``train`` and choose on ``validation``;
            ``test`` is only reported on.
        victim: the unprotected model: logits (N, classes) from normalised images (N, C, H, W).
        attacks: names of :data:`~cloister.attack.attacks.ATTACKS`; default: all.
        effort: what attackers have; default: :class:`Effort`.
        seed: of the attackers' shares, weights and order of images.
        architecture: from a seed to a fresh network, for attackers who start from nothing; default: the victim's with
            weights drawn anew, and with batch normalisation put in if it has none.
        pool: images that queries are drawn from; their labels are not looked at. Default: ``splits.train``.
        folder: keeps records, what fresh networks came to, and until a record is there the checkpoints of its
            trainings; the same call goes on there after an interruption. Records are only taken for the targets, images
            and effort that they were made of; those of attackers who did something else
            (:data:`~cloister.attack.attacker.METHOD`) are made anew.
        device: to train on: "auto", "cpu", "cuda".
        quiet: show no progress.
        white: attack the victim in clear as well.

    Raises:
        AttackError: an unknown attack, two targets of one name, a target that answers something else than it should,
            or a folder of other targets, images or effort.
    """
    targets = list(exposed) if isinstance(exposed, Sequence) else [exposed]
    chosen = list(ATTACKS) if attacks is None else list(attacks)
    unknown = [name for name in chosen if name not in ATTACKS]
    if unknown or not chosen:
        raise AttackError(f"there are no attacks {unknown}" if unknown else "no attack is named",
                          f"choose from {', '.join(ATTACKS)}")  # fmt: skip
    effort = effort or Effort()
    # what "auto" stands for here: what is kept of a run on another device must not pass for one in this precision
    precision = precision_on(auto_device(device), effort.precision)
    effort = replace(effort, precision=precision)  # type: ignore[arg-type]
    victim = token_rows(victim.cpu().eval(), splits.shape)
    clear, black = WhiteBox(victim, splits), BlackBox(victim, splits)
    every: list[Exposed] = [*([clear] if white else []), *targets, black]
    names = [target.name for target in every]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AttackError(f"several targets are named {', '.join(twice)}", "give each a name of its own")
    for target in every:
        _check(target, splits)
        if "head" in chosen:
            _check_parts(target)
    bare: Callable[[int], nn.Module] | None = None
    if architecture is None:
        bare = lambda number: fresh(victim, number)  # noqa: E731 - closes over the network
        plain = renormalised(victim, splits.normalise(splits.validation.pixels[:100].cpu()))
        architecture = lambda number: fresh(plain, number)  # noqa: E731 - closes over the network
    wanted = [
        (target, attack)
        for target in every
        for attack in ATTACKS
        if attack in chosen or (target is black and attack in _needed(chosen))
    ]
    records: list[Record] = []
    # also where nothing is to be kept: targets share fresh networks through the folder
    temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="cloister-attack-")
    place = folder if temporary is None else Path(temporary.name)
    assert place is not None
    attackers = {
        target.name: Attacker(target, splits, architecture, effort, seed, place, device, pool or splits.train, bare)
        for target in every
    }
    data = data_identity(splits, pool or None)
    identities = {name: identity_of(attacker, data) for name, attacker in attackers.items()}
    cells = [Cell.of(attackers[target.name], attack, identities[target.name], place) for target, attack in wanted]
    found = [cell.kept() for cell in cells]
    plans = [planned(cell.attacker, cell.attack) for cell, kept in zip(cells, found, strict=True) if kept is None]
    known = labels(names)
    with Progress(plans, len(cells), quiet) as progress:
        for number, (cell, kept) in enumerate(zip(cells, found, strict=True), 1):
            if kept is None:
                progress.begin(f"{cell.attack} of {known[cell.attacker.target.name]}", number)
                cell.attacker.progress = progress
                kept = cell.made()
            records += kept
    if temporary is not None:
        temporary.cleanup()
    compare(records, black.name)
    watched = {cell.attacker.target.name: cell.identity for cell in cells if cell.attack == "observe"}
    shown = {name: watched.get(name) or shown_identity(attacker, identities[name]) for name, attacker
             in attackers.items()}  # fmt: skip
    about = {
        "data": splits.name, "seed": seed, "attacks": chosen, "effort": asdict(effort),
        "precision": precision, "black_box": black.name,
        "white_box": clear.name if white else None,
        "pool": len(pool) if pool else "the training images, without labels",
        "training_images": len(splits.train),
        "identity": identities_of(shown, network_digest(victim, splits.shape), seed, precision),
    }  # fmt: skip
    return Report(records, about)


def _needed(chosen: Sequence[str]) -> set[str]:
    needed = {"direct"} | {name for name in chosen if name in _BASELINES}
    return needed | {"finetune"} if set(chosen) & {"head", "mask", "prune", "signs"} else needed


def _check(target: Exposed, splits: Splits) -> None:
    pixels = splits.validation.pixels[:2]
    try:
        labels = target.query(pixels)
    except Exception as error:  # a protection of the user's own, or its device
        raise AttackError(f"query of {target.name!r} failed: {error}", "mend it, or what it asks") from error
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64 or labels.shape != (len(pixels),):
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, torch.Tensor) else type(labels).__name__
        message = f"query of {target.name!r} answers {got} to {len(pixels)} images"
        raise AttackError(message, "return labels, int64 (N,)")
    module = target.module()
    if module is None:
        return
    with torch.no_grad():
        logits = module.cpu().eval()(splits.normalise(pixels.cpu()))
    if tuple(logits.shape) != (len(pixels), len(splits.classes)):
        raise AttackError(
            f"the module of {target.name!r} answers {tuple(logits.shape)} to {len(pixels)} images of "
            f"{len(splits.classes)} classes",
            "return a network that answers logits (N, classes)",
        )
    if module is target.module():
        raise AttackError(
            f"the module of {target.name!r} is the same at every call", "return copies: attacks change it"
        )


def _check_parts(target: Exposed) -> None:
    """It would be late to find out after the other attacks that a network's inner tensors cannot be had."""
    try:
        parts_of(target)
    except TrainingError as error:
        others = ",".join(name for name in ATTACKS if name != "head")
        raise AttackError(
            f"{target.name}: {error.message}", f"{error.remedy}; or leave new heads out: --attacks {others}"
        ) from error

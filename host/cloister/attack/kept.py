# SPDX-License-Identifier: BSD-2-Clause
"""Finished records in a folder, and what they are of: a record is only taken for what it was made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloister.attack.attacker import METHOD, Attacker, Record, digest_of, file_name, network_digest
from cloister.attack.attacks import ATTACKS
from cloister.attack.errors import AttackError
from cloister.attack.exposed import Exposed
from cloister.protect.training import Images, Splits, TrainingError
from cloister.seal.files import write_aside

#: What a record depends on, by words for messages; what JSON has.
Identity = dict[str, Any]
#: By attack, a number to raise when it alone changes: kept records of the others still hold. "signs" left out layers
#: without a bias at first, and with them whole networks; then it looked at skewness alone. "mask" began with no change
#: alone, which leads nowhere behind channels that are never above 0.
OWN = {"mask": 2, "signs": 3}
#: Characters of a digest in an identity.
DIGEST = 64
#: Validation images that authorised runs are told apart by.
IMAGES = 4


def data_identity(splits: Splits, pool: Images | None) -> Identity:
    """What is attacked with: images, labels and normalisation, and the images that are asked about."""
    parts = {
        "training images": splits.train,
        "validation images": splits.validation,
        "test images": splits.test,
    }
    return {
        "data": [splits.name, len(splits.train)],
        **{name: _digest(len(splits.classes), images.pixels, images.labels) for name, images in parts.items()},
        "normalisation": [list(splits.mean), list(splits.std)],
        "pool": None if pool is None else _digest(None, pool.pixels),  # None: the training images
    }


def identity_of(attacker: Attacker, data: Identity) -> Identity:
    """What all records of an attacker depend on.

    Args:
        attacker: of one target.
        data: as :func:`data_identity` gives it, which takes long for many images.

    Raises:
        AttackError: ``features`` of the target fails, or what that returns.
    """
    target, splits = attacker.target, attacker.splits
    module, layers = target.module(), getattr(target, "layers", None)
    fresh = attacker.architecture(attacker.seed).state_dict()
    return {
        **data,
        "target": _digest("none" if module is None else network_digest(module.cpu(), splits.shape), attacker.answers()),
        "exposed part": _part(target, splits.shape),
        "lock": [bool(getattr(target, "lock", True)), None if layers is None else list(layers)],
        "architecture": _digest([(name, *tensor.shape) for name, tensor in fresh.items()]),
        "effort": json.loads(json.dumps(asdict(attacker.effort))),
    }


def shown_identity(attacker: Attacker, identity: Identity) -> Identity:
    """The same with what an authorised run shows, which one attack alone depends on; that need not work for others."""
    try:
        return {**identity, "seen run": _seen_by(attacker)}
    except AttackError:
        return {**identity, "seen run": "failed"}


def _seen_by(attacker: Attacker) -> str:
    return _seen(attacker.target, attacker.splits.validation.pixels[:IMAGES].cpu())


@dataclass(frozen=True)
class Cell:
    """An attack on a target, and where its records are kept.

    Attributes:
        attacker: of the target.
        attack: a name of :data:`~cloister.attack.attacks.ATTACKS`.
        identity: what the records depend on.
        path: of the records.
    """

    attacker: Attacker
    attack: str
    identity: Identity
    path: Path

    @staticmethod
    def of(attacker: Attacker, attack: str, identity: Identity, folder: Path) -> Cell:
        """In the bench's folder.

        Args:
            attacker, attack: see above.
            identity: as :func:`identity_of` gives it.
            folder: of the bench.

        Raises:
            AttackError: ``observed`` of the target fails.
        """
        if attack == "observe":
            identity = {**identity, "seen run": _seen_by(attacker)}
        path = folder / "records" / f"{file_name(attacker.target.name)}_{attack}_{attacker.seed}.json"
        return Cell(attacker, attack, identity, path)

    def kept(self) -> list[Record] | None:
        """The records that are there; None where none are.

        Those of attackers who did something else (:data:`~cloister.attack.attacker.METHOD`) count for nothing.

        Raises:
            AttackError: they are damaged, or of something else.
        """
        return _read(self.path, self.identity, _method(self.attack))

    def made(self) -> list[Record]:
        """New records, which are kept; the checkpoints of the trainings behind them are deleted then."""
        records: list[Record] = ATTACKS[self.attack].run(self.attacker)
        kept = {"identity": self.identity, "method": _method(self.attack), "records": records}
        write_aside(self.path, (json.dumps(kept, indent=1) + "\n").encode())
        self.attacker.forget()
        return records


def _method(attack: str) -> str:
    """What this attack does: what all do, and what was mended in it alone since."""
    return f"{METHOD}; {OWN[attack]}" if attack in OWN else METHOD


def _read(path: Path, identity: Identity, method: str) -> list[Record] | None:
    """What is kept there; None where nothing is, or what other attackers did: they noted another identity, too."""
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved.get("method") != method:
            return None
        theirs: Identity = saved["identity"]
        different = [key for key, value in identity.items() if theirs.get(key) != value]
        records: list[Record] = saved["records"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise AttackError(f"{path} is damaged: {error}", "delete it; the rest is kept") from error
    if different:
        told = ", ".join(f"{key} ({_difference(theirs.get(key), identity[key])})" for key in different)
        raise AttackError(
            f"{path} is of another {told}", "ask for the same as there, give another folder, or delete that file"
        )
    return records


def _difference(theirs: Any, ours: Any, inside: str = "") -> str:
    """Both values; of settings only those that differ, such as ``augmentation.crop 0 there, 2 here``."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
        return ", ".join(_difference(theirs.get(key), ours.get(key), f"{inside}.{key}".lstrip(".")) for key in keys)
    return f"{inside} {_value(theirs)} there, {_value(ours)} here".lstrip()


def _value(found: Any) -> str:
    """As it stands in the file; of a digest, which says nothing in itself, what is enough to find it there."""
    if isinstance(found, str):
        return found if len(found) < DIGEST else f"digest {found[:8]}"
    return json.dumps(found)


def _part(target: Exposed, shape: tuple[int, int, int]) -> str:
    """A digest of the part that a target gives."""
    try:
        part: nn.Module | None = getattr(target, "features", lambda: None)()
        return "none" if part is None else network_digest(part.cpu(), shape)
    except TrainingError:  # it cannot be traced, which only `head` needs, and refuses
        return "none"
    except Exception as error:  # a protection of the user's own
        raise AttackError(f"features of {target.name!r} failed: {error}", "mend it, or what it returns") from error


def _seen(target: Exposed, pixels: torch.Tensor) -> str:
    """A digest of what an authorised run shows."""
    watch = getattr(target, "observed", None)
    if watch is None:
        return "none"
    try:
        seen: dict[str, torch.Tensor] = watch(pixels)
        return _digest(list(seen), *seen.values())
    except Exception as error:  # a protection of the user's own, or its device
        raise AttackError(f"observed of {target.name!r} failed: {error}", "mend it, or what it asks") from error


def _digest(about: object, *tensors: torch.Tensor) -> str:
    """As :func:`digest_of`, with types and shapes."""
    return digest_of(repr((about, [(str(tensor.dtype), tuple(tensor.shape)) for tensor in tensors])), *tensors)

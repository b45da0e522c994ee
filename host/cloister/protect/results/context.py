# SPDX-License-Identifier: BSD-2-Clause
"""What all experiments share: data, trained victims, and records that are made only once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cloister.protect.results.cases import Case
from cloister.protect.results.errors import ResultsError
from cloister.protect.training import Fitted, Images, Splits, fit, load_data, network
from cloister.protect.training.loop import auto_device, precision_on
from cloister.seal.files import write_aside

#: One line of docs/results.json: what was measured, and its figures.
Record = dict[str, Any]
#: Folder of the plots, beside the page.
PLOTS = "plots"
#: What every record of a network and a seed has.
MADE = ("experiment", "model", "data", "seed", "seconds", "epochs_share", "device")
#: What tells records of a network and a seed apart, by experiment.
NAMED = {
    "edgepro": "variant",
    "prune": "variant",
    "attacks": "target",
    "tenth": "target",
    "looks": "target",
    "mirror": "variant",
}


@dataclass
class Context:
    """Where experiments find what they need.

    Attributes:
        data: folder of the data sets.
        work: folder of checkpoints and records; what is there is not computed again.
        device: as for ``fit``.
        quiet: show no progress.
        epochs: share of the epochs that are run; 1 for results, less to try a script out.
        effort: share of the steps that attackers train; what was run with less says so.
        settled: records that are there stay, whatever made them.
    """

    data: Path
    work: Path
    device: str = "auto"
    quiet: bool = False
    epochs: float = 1.0
    effort: float = 1.0
    settled: bool = False
    _splits: dict[str, Splits] = field(default_factory=dict)

    def splits(self, case: Case) -> Splits:
        """The case's data; the validation split is the same for all seeds.

        Raises:
            ResultsError: the file is not in the folder of data.
        """
        if case.data not in self._splits:
            if case.data == "digits":
                self._splits[case.data] = _digits()
            elif (self.data / case.data).exists():
                self._splits[case.data] = _normalised(load_data(self.data / case.data, validation=0.1, seed=0))
            else:
                raise ResultsError(f"{self.data / case.data} is missing", "give the folder that holds it with --data")
        return self._splits[case.data]

    def scaled(self, recipe: Any) -> Any:
        """The recipe with this context's share of the epochs."""
        return replace(recipe, epochs=max(1, round(recipe.epochs * self.epochs)))

    def fitted(self, case: Case, seed: int) -> Fitted:
        """The plainly trained network and how its training went; trained now, or loaded if it was before."""
        splits = self.splits(case)
        module = network(case.network, splits.shape[0], len(splits.classes), seed)
        return fit(
            module, splits, self.scaled(case.recipe).with_seed(seed), folder=self.work / f"victim-{case.name}-{seed}",
            device=self.device, name=f"victim {case.name}, seed {seed}", quiet=self.quiet,
        )  # fmt: skip

    def victim(self, case: Case, seed: int) -> nn.Module:
        """The plainly trained network alone, on the CPU."""
        return self.fitted(case, seed).module.cpu()

    def once(
        self, experiment: str, case: Case, seed: int, measure: Callable[[], Record],
        stale: Callable[[Record], bool] = lambda _: False, **about: Any,
    ) -> Record:  # fmt: skip
        """The record of that experiment: read, if it is there, else measured and written.

        Args:
            experiment: its name; with case, seed and ``about`` it identifies the record.
            case, seed: what it is about.
            measure: returns the figures: JSON types.
            stale: whether a record that is there is to be made anew; what the device took is kept with it.
            **about: what tells the record apart from others, under the key that :data:`NAMED` has.
        """
        path = self.place({"experiment": experiment, "model": case.name, "seed": seed, **about})
        found: Record = json.loads(path.read_text()) if path.exists() else {}
        if found and (self.settled or not stale(found)):
            return found
        began = time.monotonic()
        figures = measure()
        record = {
            "experiment": experiment, "model": case.name, "data": case.data, "seed": seed, **about, **figures,
            "seconds": round(time.monotonic() - began, 1), "device": _device(self.device), "epochs_share": self.epochs,
            "precision": precision_of(case, self.device), "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **({"effort_share": self.effort} if experiment in ("attacks", "tenth", "mirror") else {}),
            **({"measured": found["measured"]} if "measured" in found else {}),
        }  # fmt: skip
        self.keep(record)
        return record

    def place(self, record: Record) -> Path:
        """The record's file, made or not: named by experiment, network, seed and what else tells it apart."""
        key = NAMED.get(record["experiment"])
        parts = [record["experiment"], record["model"], *([str(record["seed"])] if "seed" in record else ()),
                 *([f"{key}={record[key]}"] if key else ())]  # fmt: skip
        return self.work / "records" / ("_".join(parts).replace("/", "-").replace(" ", "-") + ".json")

    def keep(self, record: Record) -> None:
        """Write the record's file, in place of one of an earlier run."""
        write_aside(self.place(record), (json.dumps(record, indent=1) + "\n").encode())

    def know(self, path: Path) -> int:
        """Take records for made that another machine, or an earlier folder, has made; how many were new here.

        None is made anew then, not even where attackers of an older bench made it. Checkpoints are not part of
        records: what needs a network of theirs trains it once more, from the same seed.

        Args:
            path: docs/results.json, as this program wrote it. Records that are here already stay as they are.

        Raises:
            ResultsError: it is no such file.
        """
        try:
            records: list[Record] = json.loads(path.read_text())["records"]
            found = [record for record in records if not self.place(record).exists()]
            lacking = [key for record in records if "seed" in record for key in MADE if key not in record]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultsError(f"{path} has no records: {error!r}", "give docs/results.json") from error
        if not records or lacking:
            raise ResultsError(f"{path} has no records: {lacking[0] if lacking else 'none'} is missing",
                               "give docs/results.json")  # fmt: skip
        self.settled = True
        for record in found:
            self.keep(record)
        return len(found)

    def records(self) -> list[Record]:
        """All records made so far, in the order of their names."""
        read = (json.loads(path.read_text()) for path in sorted((self.work / "records").glob("*.json")))
        # files of one record that versions named otherwise count once
        return list({self.place(record): record for record in read}.values())


def precision_of(case: Case, device: str = "cpu") -> str:
    """Of forward and backward when that network is trained, by its owner and by attackers: "float32" or "bfloat16"."""
    return precision_on(auto_device(device), case.recipe.precision)


def _device(device: str) -> str:
    place = auto_device(device)
    return torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"


def _normalised(splits: Splits) -> Splits:
    """By the first 20,000 training images, as the victims were that are kept; these data are in no order of classes."""
    first = splits.train.pixels[:20000].to(torch.float32) / 255
    return replace(splits, mean=tuple(first.mean((0, 2, 3)).tolist()), std=tuple(first.std((0, 2, 3)).tolist()))


def _digits() -> Splits:
    from cloister.demo.data import digits

    train, train_labels, test, test_labels = map(torch.from_numpy, digits())
    return Splits.make(Images(train, train_labels), Images(test, test_labels), validation=0.15, seed=0, name="digits")

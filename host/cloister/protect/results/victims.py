# SPDX-License-Identifier: BSD-2-Clause
"""The victims, trained plainly: how accurate they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import JpegImagePlugin

from cloister.attack.table import Table, spread
from cloister.protect.results.cases import CASES, MODELS, Case
from cloister.protect.results.context import Context, Record
from cloister.protect.results.summary import Goal, grouped, seeds_of
from cloister.protect.training import accuracy

TITLE = "Victims, trained plainly"


def wanted(_model: str) -> tuple[str, ...]:
    """Names of what a plain run makes."""
    return ("",)


def run(context: Context, case: Case, seed: int) -> list[Record]:
    """One record: validation and test accuracy (0 to 1), parameters, epochs."""

    def measure() -> Record:
        fitted, splits = context.fitted(case, seed), context.splits(case)
        module = fitted.module.cpu()
        return {
            "validation": accuracy(module, splits.validation, splits),
            "test": accuracy(module, splits.test, splits),
            "target": case.target,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "training_s": round(fitted.seconds, 1),
            "epochs": context.scaled(case.recipe).epochs,
            "training_images": len(splits.train),
            "images": kept_as(context.data / case.data),
        }

    return [context.once("victim", case, seed, measure)]


def kept_as(path: Path) -> str:
    """What became of the images before they were trained on: nothing, or how the first one's JPEG form lost detail.

    Args:
        path: an ``.npz`` file of images; another one's are as they were.
    """
    if path.suffix != ".npz":
        return "as they were"
    with np.load(path) as file:
        if "train_jpeg" not in file.files:
            return "as they were"
        first = file["train_jpeg"][: int(file["train_offset"][1])].tobytes()
    with JpegImagePlugin.JpegImageFile(io.BytesIO(first)) as image:
        sampling = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image), "other")
        table = image.quantization[0]
    return f"JPEG, colours {sampling}, brightness in steps of {min(table)} to {max(table)}"


def figures(record: Record) -> dict[str, float]:
    """A record's numbers."""
    return {key: record[key] for key in ("validation", "test", "training_s")}


def goals(records: list[Record]) -> list[Goal]:
    """The accuracies that were aimed at."""
    found = {model: own for (model, _), own in grouped(records).items()}
    told = ", ".join(f"{CASES[model].target:.0%} ({model})" for model in MODELS)
    return [
        Goal(f"trained plainly: at least {told}", model, _tell(own, "test"), [_reached(record) for record in own])
        if (own := found.get(model))
        else Goal(f"trained plainly: at least {told}", model)
        for model in MODELS
    ]


def _reached(record: Record) -> bool:
    return bool(record["test"] >= record["target"])


def _tell(own: list[Record], key: str) -> str:
    return spread([record[key] for record in own], lambda value: f"{value:.2%}")


def parts(records: list[Record]) -> list[str | Table]:
    """The section: means over seeds, and each seed."""
    heads = ["network", "seeds", "validation", "test", "wanted", "reached", "parameters", "epochs", "images"]
    means, each = [], []
    for (model, _), own in grouped(records).items():
        met = sum(map(_reached, own))
        fixed = [f"{own[0]['target']:.0%}", f"{met} of {len(own)}", f"{own[0]['parameters']:,}", str(own[0]["epochs"]),
                 own[0]["images"]]  # fmt: skip
        means.append([model, seeds_of(own), _tell(own, "validation"), _tell(own, "test"), *fixed])
        each += [[model, str(record["seed"]), f"{record['validation']:.2%}", f"{record['test']:.2%}",
                  f"{record['training_s']:.0f}"] for record in own]  # fmt: skip
    return [Table("", heads, means), "### Victims, each seed",
            Table("", ["network", "seed", "validation", "test", "seconds of training"], each)]  # fmt: skip


def pictures(_records: list[Record]) -> dict[str, str]:
    """None."""
    return {}

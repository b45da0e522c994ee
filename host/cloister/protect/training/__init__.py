# SPDX-License-Identifier: BSD-2-Clause
"""What every protection trains with: data, models, the training loop, evaluation, export to ONNX."""

from cloister.protect.training.augment import Augmentation
from cloister.protect.training.data import Images, Splits
from cloister.protect.training.errors import TrainingError
from cloister.protect.training.evaluate import accuracy, agreement, labels_of, logits_of
from cloister.protect.training.export import export_onnx
from cloister.protect.training.loop import Fitted, Objective, Recipe, fit
from cloister.protect.training.networks import NETWORKS, network
from cloister.protect.training.read import Data, DataSource, load_data
from cloister.protect.training.source import load_model

__all__ = [
    "NETWORKS",
    "Augmentation",
    "Data",
    "DataSource",
    "Fitted",
    "Images",
    "Objective",
    "Recipe",
    "Splits",
    "TrainingError",
    "accuracy",
    "agreement",
    "export_onnx",
    "fit",
    "labels_of",
    "load_data",
    "load_model",
    "logits_of",
    "network",
]

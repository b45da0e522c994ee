# SPDX-License-Identifier: BSD-2-Clause
"""From a model, data and a budget to the protected bundle and the evidence; docs/protect.md. Needs torch and Optuna."""

from cloister.protect.extra import need_torch
from cloister.search.errors import need_optuna

need_torch()
need_optuna()

from cloister.protect.automatic.evaluator import TrainingEvaluator  # noqa: E402 - behind the checks that name remedies
from cloister.protect.automatic.protect import Protected, protect_model  # noqa: E402
from cloister.protect.automatic.settings import Depth, ProtectSettings, settings_with  # noqa: E402

__all__ = ["Depth", "ProtectSettings", "Protected", "TrainingEvaluator", "protect_model", "settings_with"]
